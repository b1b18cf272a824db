//! The stages of a run in its directory: directions, doses, tuned weights.

use crate::cli::opened::{directory, growing, open, write_json};
use crate::cli::{bar, flags};
use crate::session::{Coeffs, Session, model_key};
use crate::stages::Stages;
use anyhow::{Context, Result};
use reptune_adapters::lora::loss::Mode;
use reptune_adapters::{DirectionSet, HookedModel, files, lora::delta_file, lora::peft};
use reptune_recipes::recipe::{Recipe, Without};
use reptune_recipes::tune::{Metrics, Tuner};
use reptune_recipes::{extract as find, select};
use std::path::{Path, PathBuf};

/// File of the directions.
pub const DIRECTIONS: &str = "directions.safetensors";
/// File of the shares of pairs that each layer orders rightly.
pub const ORDERED: &str = "ordered.json";
/// File of the losses, in the directory of a tuned adapter.
pub const METRICS: &str = "metrics.jsonl";
const CHOICE: &str = "select.json";

/// A run in its directory.
pub struct Run {
    pub session: Session,
    pub stages: Stages,
    model: String,
    loading: String,
}

impl Run {
    pub fn open(a: &flags::Recipe) -> Result<Self> {
        let session = open(a)?;
        let out = directory(a, &session);
        let model = model_key(&session.directory)?;
        let stages = Stages::open(&out)?;
        Ok(Self {
            session,
            stages,
            model,
            loading: format!("{:?}", a.loading),
        })
    }

    /// Parts of the recipe as inputs of a stage.
    pub fn recipe(&self, parts: &[&dyn erased::Json]) -> String {
        let parts: Vec<String> = parts.iter().map(|p| p.json()).collect();
        let files: Vec<String> = files(&self.session.recipe)
            .into_iter()
            .filter_map(|f| files::read(f).ok())
            .map(|b| files::sha256([b.as_slice()]))
            .collect();
        format!(
            "{} {} {} {files:?}",
            self.model,
            self.loading,
            parts.join(" ")
        )
    }

    /// The directions of the recipe: extracted, and where there is something to choose,
    /// chosen on the validation claims. The choice then steers.
    pub fn directions(&mut self) -> Result<(DirectionSet, String)> {
        let r = &self.session.recipe;
        let inputs = self.recipe(&[
            &r.seed,
            &r.behaviour,
            &r.prompt,
            &r.data,
            &r.extraction,
            &r.selection,
            &r.selection.as_ref().map(|_| &r.steering.rows),
        ]);
        let session = &self.session;
        let key = self.stages.run(DIRECTIONS, &[&inputs], |path| {
            let (bar, mut progress) = growing("extract");
            let (host, chat, recipe) = (&session.llama, &session.chat, &session.recipe);
            let found = match &recipe.selection {
                None => find::extract(host, chat, recipe, &session.items.train, &mut progress)?,
                Some(selection) => {
                    let captured = find::Captured::of(
                        host,
                        chat,
                        recipe,
                        &session.items.train,
                        &mut progress,
                    )?;
                    let mut found = find::find(host.spec(), recipe, &captured)?;
                    let claims = &session.items.validation;
                    let held = find::Captured::of(host, chat, recipe, claims, &mut progress)?;
                    let model = select::Model { host, chat, recipe };
                    bar.set_message("select");
                    let table =
                        select::Table::measure(model, &found, &held, claims, &mut progress)?;
                    let choice = table.choose(selection.kl)?;
                    write_json(&path.with_file_name(CHOICE), &choice)?;
                    found.swap_remove(choice.place)
                }
            };
            bar.finish_and_clear();
            found.directions.save(path)?;
            write_json(&path.with_file_name(ORDERED), &found.ordered)
        })?;
        let set = DirectionSet::load(&self.stages.path(DIRECTIONS))?;
        if self.session.recipe.selection.is_some() {
            let choice: select::Choice = self.read(CHOICE)?;
            let steering = &mut self.session.recipe.steering;
            steering.layers = vec![choice.layer];
            steering.coeff = Some(choice.coeff);
            steering.fractions.clear();
        }
        Ok((set, key))
    }

    /// Reads a JSON file of the run.
    pub fn read<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T> {
        let bytes = files::read(&self.stages.path(name))?;
        serde_json::from_slice(&bytes).with_context(|| name.to_owned())
    }

    pub fn coeffs(&mut self, directions: &DirectionSet, key: &str) -> Result<(Coeffs, String)> {
        let r = &self.session.recipe;
        let inputs = self.recipe(&[&r.steering, &r.evaluation.max_new_tokens]);
        let session = &self.session;
        let name = "steering.json";
        let key = self.stages.run(name, &[key, &inputs], |path| {
            let bar = bar(2 * session.recipe.steering.fractions.len(), "choose coeff");
            let coeffs = session.coeffs(directions, &mut |done| bar.set_position(done as u64))?;
            bar.finish_and_clear();
            write_json(path, &coeffs)
        })?;
        Ok((self.read(name)?, key))
    }

    pub fn tuned(
        &mut self,
        mode: Mode,
        directions: &DirectionSet,
        key: &str,
        from: Option<&Path>,
    ) -> Result<(PathBuf, String)> {
        let name = format!("tuned/{}", mode.file_name());
        let seed = self.session.recipe.seed;
        self.tuned_as(&name, seed, mode, directions, key, from)
    }

    /// Tunes with another seed, under another name.
    pub fn tuned_as(
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
        let inputs = self.recipe(&[&r.prompt, &r.data, &tuning]);
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
            let bar = bar(tuner.steps(), &format!("tune {mode}"));
            let mut progress = |m: &Metrics| {
                bar.set_position(m.step as u64);
                let representation = m
                    .representation_loss
                    .map_or_else(String::new, |r| format!(" rep {r:.3}"));
                bar.set_message(format!(
                    "tune {mode}: tok {:.3}{representation}",
                    m.token_loss
                ));
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
            bar.finish_and_clear();
            Ok(peft::save_adapter(path, &update, session.llama.spec())?)
        })?;
        Ok((self.stages.path(name), key))
    }
}

/// The user's files that `recipe` reads.
fn files(recipe: &Recipe) -> Vec<&Path> {
    let data = &recipe.data;
    let choices = data.choices.iter().map(|c| &c.file);
    let evaluation = &recipe.evaluation;
    let texts = evaluation.perplexity.iter().chain(&evaluation.neutral);
    let texts = texts.map(|t| &t.file);
    let open = evaluation.open_ended.iter().map(|o| &o.file);
    let nuisance = match &recipe.extraction.without {
        Some(Without::File(path)) => Some(path),
        _ => None,
    };
    let owned = std::iter::once(&data.claims.file)
        .chain(choices)
        .chain(texts);
    let owned = owned.chain(open).chain(nuisance).map(PathBuf::as_path);
    owned.chain(recipe.steering.files()).collect()
}

/// Parts of a recipe of different types in one list.
mod erased {
    pub trait Json {
        fn json(&self) -> String;
    }
    impl<T: serde::Serialize> Json for T {
        fn json(&self) -> String {
            serde_json::to_string(self).unwrap_or_default()
        }
    }
}
