//! A model made into another: merged, steered, quantized; as files that mistral.rs itself loads.

use super::steering::Steering;
use crate::bake::{self, Bake, Exactness, set_coeff};
use crate::error::{Error, Result};
use crate::model::uqff::{UQFF, WeightType};
use crate::model::{ModelDir, Source};
use crate::store::{Store, StoreKey};
use reptune_adapters::{Dose, Intervention, lora::peft};
use reptune_recipes::merge::merge;
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
        let mut parts = vec!["baked".to_owned(), ModelDir::at(&model)?.key()?];
        parts.extend(self.quantize.map(|q| q.to_string()));
        for part in self.steering.iter().flat_map(Steering::parts) {
            let (layers, dose, point) = (part.layers(), part.dose()?, part.point());
            parts.push(format!("{} {layers:?} {dose:?} {point:?}", part.hash()));
        }
        let key = StoreKey::new(format!("{}, {self}", model.display()), parts);
        cache.entry(&key, |out| self.bake(&model, &interventions, out))
    }

    /// This variant with another dose: itself, and where its files are. They are not kept in
    /// `cache` but written to `out`, from those of this variant if possible: then only biases
    /// are new.
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
        let coeff = self.same_kind(&changed)?;
        if let Some(coeff) = coeff
            && made.join(UQFF).is_file()
            && made.starts_with(cache.root())
        {
            copy(&made, out)?;
            match set_coeff(&out.join(UQFF), &Source::open(out)?.spec, coeff) {
                Ok(_) => return Ok(out.to_owned()),
                // What does not stand in biases alone is baked anew.
                Err(Error::Bake { .. }) => {
                    std::fs::remove_dir_all(out)
                        .map_err(|e| reptune_adapters::Error::write(out, e))?;
                }
                Err(e) => return Err(e),
            }
        }
        let model = changed.merged(model, cache)?;
        match changed.baked(&model)? {
            None => Ok(model),
            Some(interventions) => {
                changed.bake(&model, &interventions, out)?;
                Ok(out.to_owned())
            }
        }
    }

    /// The dose of `other` as a baked file records it, if that of this variant was recorded in
    /// the same way.
    fn same_kind(&self, other: &Self) -> Result<Option<f64>> {
        let part = |v: &Self| v.steering.as_ref().and_then(|s| s.parts().first().cloned());
        let (Some(was), Some(part)) = (part(self), part(other)) else {
            return Ok(None);
        };
        Ok(match (was.dose()?, part.dose()?) {
            (Dose::Strength(_), Dose::Strength(x)) => Some(x),
            (Dose::Strength(_), _) | (_, Dose::Strength(_)) => None,
            (_, Dose::Coeff(x)) => Some(x * part.layers().len() as f64),
            (_, dose) => Some(dose.amount()),
        })
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
        let parts = [
            "merged".to_owned(),
            ModelDir::at(model)?.key()?,
            update.content_hash()?,
        ];
        let made_from = format!("{}, merged with {}", model.display(), adapter.display());
        cache.entry(&StoreKey::new(made_from, parts), |out| {
            merge(model, &update, out, &mut |_, _, _| {})?;
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
        let bake = Bake {
            source: &Source::open(model)?,
            quantize: self.quantize,
            exactness: Exactness::Exact,
        };
        let variant = bake::Variant {
            name: UQFF.trim_end_matches(".uqff").to_owned(),
            interventions: interventions.to_vec(),
        };
        bake.write(&[variant], out, &mut |_, _| {})?;
        Ok(())
    }
}

/// Copies the files of the directory `from` to the new directory `to`.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let attempt = || {
        std::fs::create_dir(to)?;
        for file in std::fs::read_dir(from)? {
            let file = file?;
            std::fs::copy(file.path(), to.join(file.file_name()))?;
        }
        Ok(())
    };
    Ok(attempt().map_err(|e| reptune_adapters::Error::write(to, e))?)
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = |path: &Path| path.display().to_string();
        let merged = self
            .adapter
            .iter()
            .map(|a| format!("merged with {}", file(a)));
        let parts = self.steering.iter().flat_map(Steering::parts);
        let steered = parts.map(|part| format!("steered by {}", file(part.file())));
        let stored = self.quantize.iter().map(|q| format!("as {q}"));
        let all: Vec<String> = merged.chain(steered).chain(stored).collect();
        f.write_str(&all.join(", "))
    }
}
