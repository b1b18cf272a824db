//! A model made into another: merged, steered, quantized; as files that stock mistral.rs loads.

use super::{Cache, Steering, VERSION};
use crate::bake::bake;
use crate::error::Result;
use crate::llama::{LlamaConfig, model_spec};
use crate::session::model_key;
use crate::uqff::WeightType;
use reptune_adapters::{Intervention, artefact, peft};
use reptune_recipes::merge::merge;
use std::path::{Path, PathBuf};

/// What becomes of a model before it is loaded. Adapter first, then steering: the
/// directions are added to the residual stream of the tuned model.
#[derive(Debug, Clone, Default)]
pub struct Variant {
    /// A PEFT directory that is merged into the weights.
    pub adapter: Option<PathBuf>,
    /// Steering that is baked into them.
    pub steering: Option<Steering>,
    /// The type they are stored in; as they are, or f32 under steering, if none.
    pub quantize: Option<WeightType>,
}

impl Variant {
    /// A directory that holds the variant of `model`: `model` itself where nothing
    /// changes, else one of `cache`, made now if it is not there.
    ///
    /// # Errors
    /// When adapter, steering or type do not fit the model, or the disk is full.
    pub fn directory(&self, model: &Path, cache: &Cache) -> Result<PathBuf> {
        let model = self.merged(model, cache)?;
        let Some(bake) = self.baked(&model)? else {
            return Ok(model);
        };
        let mut parts = vec!["baked".to_owned(), model_key(&model)?];
        parts.push(bake.quantize.to_string());
        for part in self.steering.iter().flat_map(Steering::parts) {
            let (layers, coeff, point) = (part.layers(), part.coeff()?, part.point());
            parts.push(format!("{} {layers:?} {coeff:?} {point:?}", part.hash()));
        }
        cache.entry(&key(&parts), |out| bake.write(&model, out))
    }

    /// The same, but what must be baked is baked to `out` and not kept in `cache`.
    ///
    /// # Errors
    /// As [`Variant::directory`].
    pub fn write(&self, model: &Path, cache: &Cache, out: &Path) -> Result<PathBuf> {
        let model = self.merged(model, cache)?;
        match self.baked(&model)? {
            None => Ok(model),
            Some(bake) => bake.write(&model, out).map(|()| out.to_owned()),
        }
    }

    fn merged(&self, model: &Path, cache: &Cache) -> Result<PathBuf> {
        let Some(adapter) = &self.adapter else {
            return Ok(model.to_owned());
        };
        let update = peft::load(adapter, &model_spec(&LlamaConfig::read(model)?, model)?)?;
        let parts = ["merged".to_owned(), model_key(model)?, files_key(adapter)?];
        cache.entry(&key(&parts), |out| {
            merge(model, &update, out, &mut |_, _, _| {})?;
            Ok(())
        })
    }

    /// What must be baked into `model`, if anything.
    fn baked(&self, model: &Path) -> Result<Option<Baked>> {
        let mut interventions = Vec::new();
        if let Some(steering) = &self.steering {
            let spec = model_spec(&LlamaConfig::read(model)?, model)?;
            let all = steering.interventions(&spec)?;
            interventions.extend(all.into_iter().filter(|i| i.coeff() != 0.));
        }
        if interventions.is_empty() && self.quantize.is_none() {
            return Ok(None);
        }
        let quantize = self.quantize.unwrap_or(WeightType::F32);
        Ok(Some(Baked {
            interventions,
            quantize,
        }))
    }
}

struct Baked {
    interventions: Vec<Intervention>,
    quantize: WeightType,
}

impl Baked {
    fn write(&self, model: &Path, out: &Path) -> Result<()> {
        bake(
            model,
            &self.interventions,
            self.quantize,
            out,
            &mut |_, _| {},
        )?;
        Ok(())
    }
}

/// The key of what is made from `parts`.
fn key(parts: &[String]) -> String {
    let parts = parts.iter().map(|p| format!("{}:{p}", p.len()));
    let all: Vec<String> = parts.collect();
    artefact::sha256([VERSION, &all.join("")].map(str::as_bytes))
}

/// A hash of the names and contents of the files in `directory`.
fn files_key(directory: &Path) -> Result<String> {
    let io = |e| reptune_adapters::Error::read(directory, e);
    let mut parts = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.is_file() {
            let hash = artefact::sha256([artefact::read(&path)?.as_slice()]);
            parts.push(format!("{:?} {hash}", path.file_name()));
        }
    }
    parts.sort();
    Ok(parts.join("\n"))
}
