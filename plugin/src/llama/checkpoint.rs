//! The safetensors files of a Hugging Face directory, checked before they are used.

use super::config::LlamaConfig;
use crate::error::{Error, Result};
use reptune_adapters::ModelSpec;
use reptune_adapters::low_rank::Projection;
use reptune_adapters::tensor_file::{TensorFile, shards};
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The files that hold a checkpoint's tensors.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// In the order of their names.
    pub files: Vec<PathBuf>,
}

impl Checkpoint {
    /// Finds the files of `directory`: those of its index, or `model.safetensors`.
    ///
    /// # Errors
    /// When one is missing.
    pub fn find(directory: &Path) -> Result<Self> {
        Ok(Self {
            files: shards(directory)?,
        })
    }

    /// Checks headers against `spec`: every tensor there, of the right shape, in
    /// f32, f16 or bf16, and every file as long as its header says.
    ///
    /// # Errors
    /// Names the first file and tensor that is wrong.
    pub fn check(&self, config: &LlamaConfig, spec: &ModelSpec) -> Result<()> {
        let mut found = BTreeMap::new();
        for file in &self.files {
            let open = TensorFile::open(file)?;
            for name in open.names() {
                if let Some(info) = open.info(&name) {
                    found.insert(name, (file, info.shape.clone(), info.dtype));
                }
            }
        }
        for (name, shape) in expected(config, spec) {
            let Some((file, actual, dtype)) = found.get(&name) else {
                let place = self
                    .files
                    .first()
                    .and_then(|f| f.parent())
                    .map_or_else(PathBuf::new, Path::to_owned);
                return Err(Error::model(
                    place,
                    format!("tensor `{name}`"),
                    format!("shape {shape:?}"),
                    "nothing",
                    "the checkpoint is not complete; fetch it again",
                ));
            };
            if *actual != shape {
                return Err(Error::model(
                    *file,
                    format!("tensor `{name}`"),
                    format!("shape {shape:?}"),
                    format!("{actual:?}"),
                    "config.json and weights belong to different models",
                ));
            }
            if !matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
                return Err(Error::model(
                    *file,
                    format!("tensor `{name}`"),
                    "dtype F32, F16 or BF16",
                    format!("{dtype:?}"),
                    "convert the checkpoint first",
                ));
            }
        }
        Ok(())
    }
}

/// Names and shapes of all tensors of a Llama.
fn expected(config: &LlamaConfig, spec: &ModelSpec) -> Vec<(String, Vec<usize>)> {
    let (h, v) = (spec.hidden, spec.vocab);
    let mut all = vec![("model.embed_tokens.weight".to_owned(), vec![v, h])];
    for layer in 0..spec.layers {
        let at = |name: &str| format!("model.layers.{layer}.{name}.weight");
        all.push((at("input_layernorm"), vec![h]));
        all.push((at("post_attention_layernorm"), vec![h]));
        for p in Projection::ALL {
            let (o, i) = p.shape(spec);
            all.push((at(p.path()), vec![o, i]));
        }
    }
    all.push(("model.norm.weight".into(), vec![h]));
    if !config.tie_word_embeddings {
        all.push(("lm_head.weight".into(), vec![v, h]));
    }
    all
}
