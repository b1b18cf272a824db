//! A run of a recipe in its directory: directions, doses, adapters.

use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::session::{Coeffs, Session};
use crate::stages::Stages;
use reptune_adapters::{
    Adapter, DirectionSet, HookedModel, ModelSpec, files, lora::delta_file, lora::peft,
    open_directions,
};
use reptune_recipes::Recipe;
use reptune_recipes::recipe::Mode;
use reptune_recipes::tune::{Metrics, Tuner};
use reptune_recipes::{extract as find, select as choose};
use std::path::{Path, PathBuf};

/// File of the directions.
pub const DIRECTIONS: &str = "directions.safetensors";
/// File of the shares of pairs that each layer orders rightly.
pub const ORDERED: &str = "ordered.json";
/// File of the losses, in the directory of a tuned adapter.
pub const METRICS: &str = "metrics.jsonl";
const CELLS: &str = "selection.jsonl";
const CHOICE: &str = "select.json";

/// A tuned mode: its adapter, and the directory of the merged model.
pub(super) type Tuned = (Mode, Adapter, PathBuf);

/// The directory of a tuned mode in a run.
pub(super) fn tuned_name(mode: Mode) -> String {
    format!("tuned/{}", mode.file_name())
}

/// A run in its directory.
pub struct Run {
    /// The recipe with its model.
    pub session: Session,
    /// What is done already.
    pub stages: Stages,
}

impl Run {
    /// Opens the run in `out`, or in `runs/NAME` with the recipe's name.
    ///
    /// # Errors
    /// When the directory holds something else.
    pub fn open(session: Session, out: Option<&Path>) -> Result<Self> {
        let own = Path::new("runs").join(&session.recipe.name);
        let stages = Stages::open(out.unwrap_or(&own))?;
        Ok(Self { session, stages })
    }

    /// The directions of the recipe: extracted, and where there is something to choose,
    /// chosen on the validation claims. The choice then steers.
    ///
    /// # Errors
    /// When the model fails, or nothing can be chosen.
    pub fn directions(&mut self) -> Result<(DirectionSet, String)> {
        let r = &self.session.recipe;
        let inputs = self.session.inputs(&[
            &r.seed,
            &r.behaviour,
            &r.prompt,
            &r.data,
            &r.extraction,
            &r.selection,
            &r.selection.as_ref().map(|_| &r.steering.positions),
        ]);
        let session = &self.session;
        let cells = self.stages.path(CELLS);
        let key = self.stages.run(DIRECTIONS, &[&inputs], |path| {
            let shown = Progress::unknown("extract");
            let mut progress = |done, all| shown.set_of(done, all);
            let (host, chat, recipe) = (&session.llama, &session.chat, &session.recipe);
            let found = match &recipe.selection {
                None => find::extract(host, chat, recipe, &session.items.train, &mut progress)?,
                Some(selection) => {
                    let claims = &session.items.train;
                    let (mut found, _) =
                        find::extract_each(host, chat, recipe, claims, &mut progress)?;
                    let claims = &session.items.validation;
                    let held = find::CapturedPairs::of(host, chat, recipe, claims, &mut progress)?;
                    let inputs = choose::SelectionInputs {
                        model: host,
                        chat,
                        recipe,
                        found: &found,
                        held_out: &held,
                        claims,
                    };
                    shown.message("select");
                    let table = choose::select(inputs, &cells, &mut progress)?;
                    let choice = table.choose(selection.kl)?;
                    write_json(&path.with_file_name(CHOICE), &choice)?;
                    let mut found = found.swap_remove(choice.place);
                    let of_place = table.candidates.iter().filter(|c| c.place == choice.place);
                    found.ordered = of_place.map(|c| (c.layer, c.ordered)).collect();
                    found
                }
            };
            found.directions.save(path)?;
            write_json(&path.with_file_name(ORDERED), &found.ordered)
        })?;
        let set = DirectionSet::load(&self.stages.path(DIRECTIONS))?;
        if self.session.recipe.selection.is_some() {
            let choice: choose::Selected = self.read(CHOICE)?;
            let steering = &mut self.session.recipe.steering;
            steering.layers = vec![choice.layer];
            steering.coeff = Some(choice.coeff);
            steering.total = None;
            steering.fractions.clear();
        }
        Ok((set, key))
    }

    /// Reads a JSON file of the run.
    ///
    /// # Errors
    /// When it is not there, or holds something else.
    pub fn read<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T> {
        let path = self.stages.path(name);
        let bytes = files::read(&path)?;
        serde_json::from_slice(&bytes).map_err(|e| {
            let hint = "remove it, and run the recipe again";
            Error::model(
                &path,
                "file",
                "what this version writes",
                e.to_string(),
                hint,
            )
        })
    }

    /// The doses of the run, chosen where the recipe leaves them open; `key` is that of the
    /// directions.
    ///
    /// # Errors
    /// When the model fails.
    pub fn coeffs(&mut self, directions: &DirectionSet, key: &str) -> Result<(Coeffs, String)> {
        let r = &self.session.recipe;
        let inputs = self
            .session
            .inputs(&[&r.steering, &r.evaluation.max_new_tokens]);
        let session = &self.session;
        let name = "steering.json";
        let key = self.stages.run(name, &[key, &inputs], |path| {
            let doses = 2 * session.recipe.steering.fractions.len();
            let shown = Progress::new("choose a dose", doses);
            write_json(
                path,
                &session.coeffs(directions, &mut |done| shown.set(done))?,
            )
        })?;
        Ok((self.read(name)?, key))
    }

    /// The adapter of a mode, tuned from zero or `from` another adapter, and its key.
    ///
    /// # Errors
    /// When the model fails.
    pub fn tuned(
        &mut self,
        mode: Mode,
        directions: &DirectionSet,
        key: &str,
        from: Option<&Path>,
    ) -> Result<(PathBuf, String)> {
        let name = tuned_name(mode);
        let seed = self.session.recipe.seed;
        self.tuned_as(&name, seed, mode, directions, key, from)
    }

    /// Tunes with another seed, under another name.
    pub(super) fn tuned_as(
        &mut self,
        name: &str,
        seed: u64,
        mode: Mode,
        directions: &DirectionSet,
        key: &str,
        from: Option<&Path>,
    ) -> Result<(PathBuf, String)> {
        let r = &self.session.recipe;
        let init = from
            .map(|d| {
                let own = d.join(delta_file::FILE);
                files::read(&match own.is_file() {
                    true => own,
                    false => d.join("adapter_model.safetensors"),
                })
            })
            .transpose()?;
        let init = init
            .map(|bytes| files::sha256([bytes.as_slice()]))
            .unwrap_or_default();
        let mut tuning = r.tuning.clone();
        tuning.modes.clear(); // of which this is one
        let inputs = self.session.inputs(&[&r.prompt, &r.data, &tuning]);
        let session = &self.session;
        let mut recipe = session.recipe.clone();
        recipe.seed = seed;
        let seed = seed.to_string();
        let inputs = [key, &inputs, mode.name(), &init, &seed];
        let key = self.stages.run_resumable(name, &inputs, |path| {
            std::fs::create_dir_all(path).map_err(|e| reptune_adapters::Error::write(path, e))?;
            let items = &session.items;
            let tuner = Tuner::new(
                &session.llama,
                &session.chat,
                &recipe,
                mode,
                directions,
                &items.train,
                &items.validation,
            )?
            .sharing(&session.trunks);
            let shown = Progress::new(format!("tune {mode}"), tuner.steps());
            let mut progress = |m: &Metrics| {
                shown.set(m.step);
                let loss = |name: &str, term: &str| {
                    let loss = m.loss(term);
                    loss.map_or_else(String::new, |loss| format!(" {name} {loss:.3}"))
                };
                let (token, rows) = (loss("tok", "token"), loss("rep", "representation"));
                shown.message(format!("tune {mode}:{token}{rows}"));
            };
            let metrics = path.join(METRICS);
            let update = match (tuner.can_resume(&metrics), from) {
                (true, _) => tuner.resume(&metrics, &mut progress)?,
                (false, Some(directory)) => {
                    let update = peft::load(directory, session.llama.spec())?;
                    tuner.tune(update, &metrics, &mut progress)?
                }
                (false, None) => tuner.tune(tuner.fresh()?, &metrics, &mut progress)?,
            };
            Ok(peft::save_adapter(path, &update, session.llama.spec())?)
        })?;
        Ok((self.stages.path(name), key))
    }
}

/// Writes `value` to `path`, whole or not at all.
pub(super) fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    Ok(files::write_atomically(path, |w| writeln!(w, "{text}"))?)
}

/// Refuses a recipe that would extract directions at several positions.
pub fn one_place(file: &Path, recipe: &Recipe, hint: &str) -> Result<()> {
    match recipe.extraction.positions.each().len() {
        1 => Ok(()),
        several => {
            let found = several.to_string();
            Err(Error::model(
                file,
                "`extraction.positions`",
                "one position",
                found,
                hint,
            ))
        }
    }
}

/// Reads the direction file `file`, made for the model of `spec`.
///
/// # Errors
/// When it was made for another.
pub fn direction_set(file: &Path, spec: &ModelSpec) -> Result<DirectionSet> {
    let set = open_directions(file)?;
    set.check_model(file, spec)?;
    Ok(set)
}
