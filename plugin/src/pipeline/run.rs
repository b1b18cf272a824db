//! A run of a recipe in its directory: directions, doses, adapters.

use super::failures::Failures;
use super::selection;
use crate::decoder::LoadOptions;
use crate::error::{Error, Result};
use crate::progress::{self, Progress};
use crate::session::{Session, Totals};
use crate::stages::{RunLock, Stages, write_json};
use reptune_adapters::lora::{delta_file, peft};
use reptune_adapters::{Adapter, DirectionSet, HookedModel, ModelSpec, files, open_directions};
use reptune_recipes::extract::{Extracted, extract};
use reptune_recipes::{Recipe, recipe::Mode, select::Selected, tune::Metrics};
use std::path::{Path, PathBuf};

/// File of the directions.
pub const DIRECTIONS: &str = "directions.safetensors";
/// File of the shares of pairs that each layer orders rightly.
pub const ORDERED: &str = "ordered.json";
/// File of the losses, in the directory of a tuned adapter.
pub const METRICS: &str = "metrics.jsonl";
const CHOICE: &str = "select.json";

/// A tuned mode.
pub(super) struct Tuned {
    pub mode: Mode,
    pub update: Adapter,
    /// Hash of the inputs of its tuning.
    pub key: String,
    /// The directory of the merged model, if that could be written.
    pub merged: Option<PathBuf>,
}

/// The directory of a tuned mode in a run.
pub(super) fn tuned_name(mode: Mode) -> String {
    format!("tuned/{}", mode.file_name())
}

/// A run in its directory.
pub struct Run {
    pub session: Session,
    pub(crate) stages: Stages,
    pub(super) failures: Failures,
}

impl Run {
    /// Opens the run of the recipe `file` in `out`, or in `runs/NAME` with the recipe's name;
    /// its model is `model` instead of the recipe's, if there is one.
    pub fn open(
        file: &Path,
        model: Option<&str>,
        options: LoadOptions,
        out: Option<&Path>,
    ) -> Result<Self> {
        let own = Path::new("runs").join(Recipe::read(file)?.name);
        // before the model is loaded, which may take minutes
        let lock = RunLock::take(out.unwrap_or(&own))?;
        let session = Session::open(file, model, options)?;
        let stages = Stages::open(lock)?;
        Ok(Self {
            session,
            stages,
            failures: Failures::default(),
        })
    }

    /// The directions of the recipe: extracted, and where there is something to choose,
    /// chosen on the validation claims. The choice then steers.
    pub fn directions(&mut self) -> Result<(DirectionSet, String)> {
        let (session, r) = (&self.session, &self.session.recipe);
        let of_choice = r.selection.as_ref().map(|s| (s, &r.steering.positions));
        let inputs = [session.extraction_inputs(), session.inputs(&[&of_choice])];
        let cells = self.stages.path(selection::CELLS);
        let key = self.stages.run(DIRECTIONS, &inputs, |path| {
            let found = match r.selection {
                None => extracted(session, r, "extract")?,
                Some(_) => {
                    let (chosen, mut found) = selection::measure(session, &cells, &mut |_| {})?;
                    write_json(&path.with_file_name(CHOICE), &chosen.choice)?;
                    let mut of_place = chosen.table.candidates;
                    of_place.retain(|c| c.place == chosen.choice.place);
                    found.ordered = of_place.iter().map(|c| (c.layer, c.ordered)).collect();
                    found
                }
            };
            found.directions.save(path)?;
            write_json(&path.with_file_name(ORDERED), &found.ordered)
        })?;
        let set = DirectionSet::load(&self.stages.path(DIRECTIONS))?;
        if self.session.recipe.selection.is_some() {
            let choice: Selected = self.stages.read(CHOICE)?;
            let steering = &mut self.session.recipe.steering;
            steering.layers = vec![choice.layer];
            steering.coeff = Some(choice.coeff);
            steering.total = None;
            steering.fractions.clear();
        }
        Ok((set, key))
    }

    /// The doses of the run, chosen where the recipe leaves them open; `key` is that of the
    /// directions.
    pub(super) fn totals(
        &mut self,
        directions: &DirectionSet,
        key: &str,
    ) -> Result<(Totals, String)> {
        let (session, r) = (&self.session, &self.session.recipe);
        let (prompt, claims, split) = (&r.prompt, &r.data.claims, &r.data.split);
        let new = &r.evaluation.max_new_tokens;
        let inputs = session.inputs(&[&r.seed, prompt, claims, split, &r.steering, new]);
        let doses = 2 * r.steering.fractions.len();
        self.stages.json("steering.json", &[key, &inputs], || {
            session.totals(directions, &mut progress::steps("choose a dose", doses))
        })
    }

    /// The adapter of a mode, tuned from zero or `from` another adapter, and its key; with the
    /// seed of the recipe, or another.
    pub fn tuned(
        &mut self,
        mode: Mode,
        seed: Option<u64>,
        directions: &DirectionSet,
        key: &str,
        from: Option<&Path>,
    ) -> Result<(PathBuf, String)> {
        let name = match seed {
            None => tuned_name(mode),
            Some(seed) => format!("seeds/{seed}/{}", mode.file_name()),
        };
        let init = match from {
            None => String::new(),
            Some(from) => {
                let delta = from.join(delta_file::FILE);
                let lora = from.join("adapter_model.safetensors");
                let file = if delta.is_file() { delta } else { lora };
                files::sha256([files::read(&file)?.as_slice()])
            }
        };
        let session = &self.session;
        let mut recipe = session.recipe.clone();
        let mut tuning = recipe.tuning.clone();
        tuning.modes.clear(); // of which this is one
        let (claims, split) = (&recipe.data.claims, &recipe.data.split);
        let inputs = session.inputs(&[&recipe.prompt, claims, split, &tuning]);
        recipe.seed = seed.unwrap_or(recipe.seed);
        let seed = recipe.seed.to_string();
        let inputs = [key, &inputs, mode.name(), &init, &seed];
        let key = self.stages.run_resumable(&name, &inputs, |path| {
            std::fs::create_dir_all(path).map_err(|e| reptune_adapters::Error::write(path, e))?;
            let tuner = session.tuner(&session.llama, &recipe, mode, directions)?;
            let tuner = tuner.sharing(&session.activations);
            let shown = Progress::new(format!("tune {mode}"), tuner.steps());
            let mut progress = |m: &Metrics| {
                shown.set(m.step);
                let loss = |name: &str, term: &str| {
                    let loss = m.loss(term);
                    loss.map_or_else(String::new, |loss| format!(" {name} {loss:.3}"))
                };
                let (token, rep) = (loss("tok", "token"), loss("rep", "representation"));
                shown.message(format!("tune {mode}:{token}{rep}"));
            };
            let (metrics, spec) = (path.join(METRICS), session.llama.spec());
            let update = match (tuner.can_resume(&metrics), from) {
                (true, _) => tuner.resume(&metrics, &mut progress)?,
                (false, Some(from)) => {
                    tuner.tune(peft::load(from, spec)?, &metrics, &mut progress)?
                }
                (false, None) => tuner.tune(tuner.fresh()?, &metrics, &mut progress)?,
            };
            Ok(peft::save_adapter(path, &update, spec)?)
        })?;
        Ok((self.stages.path(&name), key))
    }
}

/// The directions that `recipe` extracts from the training claims.
pub(super) fn extracted(session: &Session, recipe: &Recipe, shown: &str) -> Result<Extracted> {
    let (llama, claims, mut shown) = (&session.llama, &session.items.train, progress::of(shown));
    Ok(extract(llama, &session.chat, recipe, claims, &mut shown)?)
}

/// Refuses a recipe that would extract directions at several positions.
pub fn one_place(file: &Path, recipe: &Recipe, hint: &str) -> Result<()> {
    match recipe.extraction.positions.each().len() {
        1 => Ok(()),
        several => {
            let (place, found) = ("`extraction.positions`", several.to_string());
            Err(Error::model(file, place, "one position", found, hint))
        }
    }
}

/// Reads the direction file `file`, made for the model of `spec`.
pub fn direction_set(file: &Path, spec: &ModelSpec) -> Result<DirectionSet> {
    let (set, notes) = open_directions(file)?.for_model(file, spec)?;
    notes.iter().for_each(progress::line);
    Ok(set)
}
