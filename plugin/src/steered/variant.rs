//! A model made into another: merged, steered, quantized; as files that mistral.rs itself loads.

use super::steering::Steering;
use crate::bake::{BakePlan, Baker, DoseFile, Exactness};
use crate::error::{Error, Result};
use crate::model::uqff::WeightType;
use crate::model::{ModelDir, Source};
use crate::progress;
use crate::store::{ADDED, Store, StoreKey};
use reptune_adapters::{Dose, Intervention, files, lora::peft};
use reptune_recipes::merge::check_not_merged;
use std::fmt;
use std::path::{Path, PathBuf};

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
        let plan = BakePlan::of(&Source::open(&model)?.spec, &interventions)?;
        let mut base = vec![ModelDir::at(&model)?.key(Some(cache))?];
        base.extend(self.quantize.map(|q| q.to_string()));
        let mut dose = Vec::new();
        for part in self.steering.iter().flat_map(|s| &s.parts) {
            let (layers, amount, point) = (&part.layers, part.dose()?, part.point);
            dose.push(format!("{} {layers:?} {amount:?} {point:?}", part.hash));
        }
        let made_from = format!("{}, {self}", model.display());
        if !is_dose(&plan) {
            let key = StoreKey::new(made_from, base.iter().chain(&dose));
            return cache.entry(&key, |out| self.bake(&model, &interventions, out));
        }
        // all doses at the same modules share the other weights
        base.push(format!("{:?}", plan.biases.keys().collect::<Vec<_>>()));
        let hash = files::sha256(dose.iter().map(String::as_bytes));
        let name = format!("{ADDED}{}", &hash[..16]);
        let dose = || dose_file(&name, &interventions);
        let place = cache.entry(&StoreKey::new(made_from, base), |out| {
            let mut shown = progress::of("bake");
            let source = Source::open(&model)?;
            self.baker(&source)
                .write_doses(&[dose()], out, &mut shown)?;
            Ok(())
        })?;
        cache.added(&place, &format!("{name}.uqff"), |_| {
            let source = Source::open(&model)?;
            self.baker(&source).write_dose(&dose(), &place)
        })
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
        let is_dose = made.starts_with(cache.root()) && is_added(&made);
        if let (true, Some(directory), Some(steering)) = (is_dose, made.parent(), &changed.steering)
        {
            let source = Source::open(&model)?;
            let dose = dose_file(ADDED, &steering.interventions(&source.spec)?);
            link(directory, out)?;
            self.baker(&source).write_dose(&dose, out)?;
            Ok(out.join(ADDED).with_extension("uqff"))
        } else if let Some(interventions) = changed.baked(&model)? {
            changed.bake(&model, &interventions, out)?;
            Ok(out.to_owned())
        } else {
            Ok(model)
        }
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
        let (update, notes) = peft::load_noted(adapter, &source.spec)?;
        notes.iter().for_each(progress::line);
        check_not_merged(model, &source.provenance()?.updates, &update)?;
        let key = ModelDir::at(model)?.key(Some(cache))?;
        let hash = update.content_hash()?;
        let parts = ["merged".to_owned(), key, hash];
        let made_from = format!("{}, merged with {}", model.display(), adapter.display());
        cache.entry(&StoreKey::new(made_from, parts), |out| {
            let mut shown = progress::of("merge");
            source.merge(&update, out, &mut |_, done, all| shown(done, all))?;
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
        let mut shown = progress::of("bake");
        self.baker(&source).write(interventions, out, &mut shown)?;
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

/// Whether biases alone do what is planned: then it is a file of its own, next to a file with
/// all weights that do not depend on the dose.
fn is_dose(plan: &BakePlan) -> bool {
    plan.is_biases_only() && !plan.biases.is_empty()
}

fn dose_file(name: &str, interventions: &[Intervention]) -> DoseFile {
    DoseFile {
        name: name.to_owned(),
        interventions: interventions.to_vec(),
    }
}

/// Whether a file is the dose of a variant.
fn is_added(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().starts_with(ADDED)
}

/// Makes the directory `to` with links to the files of `from` that doses share, or copies where the file
/// system has no links.
fn link(from: &Path, to: &Path) -> Result<()> {
    let attempt = || {
        std::fs::create_dir(to)?;
        for file in std::fs::read_dir(from)? {
            let file = file?;
            if is_added(&file.path()) {
                continue; // another dose
            }
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
