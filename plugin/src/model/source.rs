//! The weights that a merge or a bake reads, full or quantized.

use super::checkpoint::Checkpoint;
use super::config::LlamaConfig;
use super::model_dir::ModelDir;
use super::uqff::{self, CheckpointWeights, Entry, Provenance, UqffFile};
use crate::error::Result;
use candle_core::Tensor;
use reptune_adapters::{ModelSpec, TargetModule};
use std::path::{Path, PathBuf};

/// A full checkpoint, or a UQFF with what lies beside it.
pub struct Source {
    /// Directory of configuration and tokenizer.
    pub directory: PathBuf,
    /// Its configuration.
    pub config: LlamaConfig,
    /// Sizes and identity.
    pub spec: ModelSpec,
    weights: CheckpointWeights,
    uqff: Option<UqffFile>,
}

impl Source {
    /// Opens what [`ModelDir::at`] finds at `path`.
    ///
    /// # Errors
    /// When a file is missing or does not fit config.json.
    pub fn open(path: &Path) -> Result<Self> {
        let model = ModelDir::at(path)?;
        let (config, spec) = model.config()?;
        let directory = model.directory();
        let uqff = model.open_uqff()?;
        let weights = match &uqff {
            Some(_) => CheckpointWeights::residual(directory)?,
            None => {
                let checkpoint = Checkpoint::find(directory)?;
                checkpoint.check(&config, &spec)?;
                CheckpointWeights::open(&checkpoint)?
            }
        };
        Ok(Self {
            directory: directory.to_owned(),
            config,
            spec,
            weights,
            uqff,
        })
    }

    /// Whether the weights are quantized already.
    pub fn is_quantized(&self) -> bool {
        self.uqff.is_some()
    }

    /// Where the weights come from, as far as it is known.
    ///
    /// # Errors
    /// When the metadata of a UQFF is broken.
    pub fn provenance(&self) -> Result<Provenance> {
        let read = self.uqff.as_ref().map(UqffFile::provenance).transpose()?;
        let mut provenance = read.flatten().unwrap_or_else(|| Provenance::of(&self.spec));
        provenance.beside = None;
        Ok(provenance)
    }

    /// The entry that already holds linear layer `index`, if it is quantized.
    ///
    /// # Errors
    /// When it is missing or has another shape than config.json says.
    pub fn entry(&self, index: usize, shape: (usize, usize)) -> Result<Option<Entry>> {
        let file = self.uqff.as_ref();
        file.map(|file| file.shaped(index, shape)).transpose()
    }

    /// The weight (O, I) of a module, f32, with the entry that it comes from.
    ///
    /// # Errors
    /// When it is missing.
    pub fn weight(&self, module: TargetModule) -> Result<(Tensor, Option<Entry>)> {
        let index = uqff::index(module.layer, module.kind);
        let entry = self.entry(index, module.kind.shape(&self.spec))?;
        let weight = match &entry {
            Some(entry) => entry.weight()?,
            None => self.weights.get(&format!("{module}.weight"))?,
        };
        Ok((weight, entry))
    }

    /// The output head (V, H), f32, with the entry that it comes from.
    ///
    /// # Errors
    /// When it is missing.
    pub fn head(&self) -> Result<(Tensor, Option<Entry>)> {
        let entry = self.entry(uqff::HEAD, (self.spec.vocab, self.spec.hidden))?;
        let weight = match &entry {
            Some(entry) => entry.weight()?,
            None => self.weights.get(self.config.head())?,
        };
        Ok((weight, entry))
    }

    /// Embeddings or a norm, by name, f32.
    ///
    /// # Errors
    /// When it is missing.
    pub fn other(&self, name: &str) -> Result<Tensor> {
        self.weights.get(name)
    }
}
