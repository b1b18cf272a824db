//! A model made into another: merged, steered, quantized; as files that mistral.rs itself loads.

use super::steering::Steering;
use crate::bake::{BakePlan, Baker, DoseFile, Exactness};
use crate::error::{Error, Result};
use crate::model::uqff::WeightType;
use crate::model::{ModelDir, Source};
use crate::store::{Store, StoreKey};
use reptune_adapters::{Dose, Intervention, lora::peft};
use std::fmt;
use std::path::{Path, PathBuf};

/// Steering that biases alone do is baked into a file of its own, next to a file with all
/// weights that do not depend on the dose.
const DOSE: &str = "dose";
const DOSE_FILE: &str = "dose.uqff";

/// What becomes of a model before it is loaded. Adapter first, then steering: the
/// directions are added to the residual stream of the tuned model.
#[derive(Debug, Clone, Default)]
pub struct Variant {
    /// A PEFT directory that is merged into the weights.
    pub adapter: Option<PathBuf>,
    /// Steering that is baked into them.
    pub steering: Option<Steering>,
    /// The type they are stored in. As they are if none; under steering full ones as f32.
    pub quantize: Option<WeightType>,
}

impl Variant {
    /// A directory or file that holds the variant of `model`: `model` itself where nothing
    /// changes, else a directory of `cache`, made now if it is not there.
    ///
    /// # Errors
    /// When adapter, steering or type do not fit the model, or the disk is full.
    pub fn directory(&self, model: &Path, cache: &Store) -> Result<PathBuf> {
        let model = self.merged(model, cache)?;
        let Some(interventions) = self.baked(&model)? else {
            return Ok(model);
        };
        let model_key = ModelDir::at(&model)?.key()?;
        let mut parts = vec!["baked in two files".to_owned(), model_key];
        parts.extend(self.quantize.map(|q| q.to_string()));
        for part in self.steering.iter().flat_map(|s| &s.parts) {
            let (layers, dose, point) = (&part.layers, part.dose()?, part.point);
            parts.push(format!("{} {layers:?} {dose:?} {point:?}", part.hash));
        }
        let key = StoreKey::new(format!("{}, {self}", model.display()), parts);
        let made = cache.entry(&key, |out| self.bake(&model, &interventions, out))?;
        Ok(loadable(made))
    }

    /// A directory or file that holds this variant steered by `coeff` instead. It is not kept
    /// in `cache` but written to `out`. Where biases alone do the steering, only the file of
    /// the dose is new; the other files are links to those of this variant.
    ///
    /// # Errors
    /// As [`Variant::directory`]; when the variant is not steered by one file.
    pub fn with_dose(
        &self,
        dose: Dose,
        model: &Path,
        cache: &Store,
        out: &Path,
    ) -> Result<PathBuf> {
        let steering = self.steering.clone();
        let changed = Self {
            steering: steering.map(|s| s.with_doses(&[dose])).transpose()?,
            ..self.clone()
        };
        let made = self.directory(model, cache)?;
        let model = self.merged(model, cache)?;
        let is_dose = made.ends_with(DOSE_FILE) && made.starts_with(cache.root());
        if let (true, Some(directory), Some(steering)) = (is_dose, made.parent(), &changed.steering)
        {
            let source = Source::open(&model)?;
            let dose = dose_file(steering.interventions(&source.spec)?);
            link(directory, out)?;
            self.baker(&source).write_dose(&dose, out)?;
        } else if let Some(interventions) = changed.baked(&model)? {
            changed.bake(&model, &interventions, out)?;
        } else {
            return Ok(model);
        }
        Ok(loadable(out.to_owned()))
    }

    fn merged(&self, model: &Path, cache: &Store) -> Result<PathBuf> {
        let Some(adapter) = &self.adapter else {
            return Ok(model.to_owned());
        };
        let source = Source::open(model)?;
        if source.is_quantized() {
            let hint = "merge the adapter with `reptune merge`, and serve what comes out";
            return Err(Error::model(model, "model", "full weights", "a UQFF", hint));
        }
        let update = peft::load(adapter, &source.spec)?;
        let (key, hash) = (ModelDir::at(model)?.key()?, update.content_hash()?);
        let parts = ["merged".to_owned(), key, hash];
        let made_from = format!("{}, merged with {}", model.display(), adapter.display());
        cache.entry(&StoreKey::new(made_from, parts), |out| {
            source.merge(&update, out, &mut |_, _, _| {})?;
            Ok(())
        })
    }

    /// What must be baked into `model`; none where it stays as it is.
    fn baked(&self, model: &Path) -> Result<Option<Vec<Intervention>>> {
        let mut interventions = Vec::new();
        if let Some(steering) = &self.steering {
            let all = steering.interventions(&Source::open(model)?.spec)?;
            interventions.extend(all.into_iter().filter(|i| i.dose().amount() != 0.));
        }
        let same = interventions.is_empty() && self.quantize.is_none();
        Ok((!same).then_some(interventions))
    }

    fn bake(&self, model: &Path, interventions: &[Intervention], out: &Path) -> Result<()> {
        let source = Source::open(model)?;
        let plan = BakePlan::of(&source.spec, interventions)?;
        let baker = self.baker(&source);
        match plan.is_biases_only() && !plan.biases.is_empty() {
            true => baker.write_doses(&[dose_file(interventions.to_vec())], out, &mut |_, _| {})?,
            false => baker.write(interventions, out, &mut |_, _| {})?,
        };
        Ok(())
    }

    fn baker<'a>(&self, source: &'a Source) -> Baker<'a> {
        Baker {
            source,
            quantize: self.quantize,
            exactness: Exactness::Exact,
        }
    }
}

fn dose_file(interventions: Vec<Intervention>) -> DoseFile {
    let name = DOSE.to_owned();
    DoseFile {
        name,
        interventions,
    }
}

/// What mistral.rs loads of the baked directory `made`: the dose with the file that it
/// shares, or the directory if there is no dose.
fn loadable(made: PathBuf) -> PathBuf {
    let dose = made.join(DOSE_FILE);
    match dose.is_file() {
        true => dose,
        false => made,
    }
}

/// Makes the directory `to` with links to the files of `from`, or copies where the file
/// system has no links.
fn link(from: &Path, to: &Path) -> Result<()> {
    let attempt = || {
        std::fs::create_dir(to)?;
        for file in std::fs::read_dir(from)? {
            let file = file?;
            let link = to.join(file.file_name());
            std::fs::hard_link(file.path(), &link)
                .or_else(|_| std::fs::copy(file.path(), &link).map(|_| ()))?;
        }
        Ok(())
    };
    Ok(attempt().map_err(|e| reptune_adapters::Error::write(to, e))?)
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let merged = self.adapter.iter();
        let merged = merged.map(|a| format!("merged with {}", a.display()));
        let parts = self.steering.iter().flat_map(|s| &s.parts);
        let steered = parts.map(|part| format!("steered by {}", part.file.display()));
        let stored = self.quantize.iter().map(|q| format!("as {q}"));
        let all: Vec<String> = merged.chain(steered).chain(stored).collect();
        f.write_str(&all.join(", "))
    }
}
