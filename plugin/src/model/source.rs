//! The weights of a model on disk, full or quantized.

use super::checkpoint::Checkpoint;
use super::config::ModelConfig;
use super::model_dir::ModelDir;
use super::uqff::{self, Entry, UqffFile, UqffProvenance};
use crate::error::Result;
use candle_core::{DType, Tensor};
use reptune_adapters::{ModelSpec, TargetModule};
use reptune_recipes::merge::Merged;
use std::path::{Path, PathBuf};

/// A linear layer as it is on disk.
pub struct StoredLinear {
    /// (O, I), f32.
    pub weight: Tensor,
    /// (O,), f32.
    pub bias: Option<Tensor>,
    /// Where both come from, if the weight is quantized.
    pub entry: Option<Entry>,
}

/// A full checkpoint, or a UQFF with the weights next to it.
pub struct Source {
    /// Directory of configuration and tokenizer.
    pub directory: PathBuf,
    /// Its configuration.
    pub config: ModelConfig,
    /// Sizes and identity.
    pub spec: ModelSpec,
    weights: Checkpoint,
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
        let uqff = model.open_uqff()?;
        let weights = match &uqff {
            Some(_) => Checkpoint::next_to_uqff(&model.directory, &spec)?,
            None => Checkpoint::full(&model.directory, &config, &spec)?,
        };
        Ok(Self {
            directory: model.directory,
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
    /// When the metadata of a UQFF, or the list of merged updates, is broken.
    pub fn provenance(&self) -> Result<UqffProvenance> {
        let read = self.uqff.as_ref().map(UqffFile::provenance).transpose()?;
        let mut provenance = match read.flatten() {
            Some(read) => read,
            None => UqffProvenance::of(&self.spec),
        };
        if self.uqff.is_none()
            && let Some(merged) = Merged::read(&self.directory)?
        {
            provenance.updates = merged.updates;
        }
        provenance.shared = None;
        Ok(provenance)
    }

    /// A module, or the output head (V, H) if there is none.
    ///
    /// # Errors
    /// When it is missing or has another shape than config.json says.
    pub fn linear(&self, module: Option<TargetModule>) -> Result<StoredLinear> {
        if let Some(entry) = self.entry(module)? {
            return Ok(StoredLinear {
                weight: entry.weight()?,
                bias: entry.bias()?,
                entry: Some(entry),
            });
        }
        let bias = module.and_then(|m| self.config.bias_name(m));
        Ok(StoredLinear {
            weight: self.other(&self.config.weight_name(module))?,
            bias: bias.map(|name| self.other(&name)).transpose()?,
            entry: None,
        })
    }

    /// The entry of a module, or of the output head if there is none, if it is quantized.
    pub(crate) fn entry(&self, module: Option<TargetModule>) -> Result<Option<Entry>> {
        let (index, shape) = match module {
            Some(m) => (uqff::index(m.layer, m.kind), m.kind.shape(&self.spec)),
            None => (uqff::HEAD, (self.spec.vocab, self.spec.hidden)),
        };
        let file = self.uqff.as_ref();
        file.map(|file| file.shaped(index, shape)).transpose()
    }

    /// A tensor of the checkpoint by name, in its own dtype.
    pub(crate) fn tensor(&self, name: &str) -> Result<Tensor> {
        Ok(self.weights.tensor(name)?)
    }

    /// Embeddings or a norm, by name, f32.
    ///
    /// # Errors
    /// When it is missing.
    pub fn other(&self, name: &str) -> Result<Tensor> {
        Ok(self.tensor(name)?.to_dtype(DType::F32)?)
    }
}
