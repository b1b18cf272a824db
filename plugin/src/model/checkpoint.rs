//! The safetensors files of a Hugging Face directory, checked before they are used.

use super::config::LlamaConfig;
use crate::error::{Error, Result};
use reptune_adapters::ModelSpec;
use reptune_adapters::formats::safetensors::{TensorFile, shards};
use reptune_adapters::model::{ModuleKind, TargetModule};
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Name of the file beside a UQFF that holds all weights but the linear layers.
pub const RESIDUAL: &str = "residual.safetensors";

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
        let blocks =
            (0..spec.layers).flat_map(|layer| norms(spec, layer).chain(linears(spec, layer)));
        let head = (!config.tie_word_embeddings)
            .then(|| ("lm_head.weight".into(), vec![spec.vocab, spec.hidden]));
        self.holds(ends(spec).chain(blocks).chain(head))
    }

    /// The embeddings and norms beside the UQFF in `directory`, checked against `spec`.
    ///
    /// # Errors
    /// When the file is missing; names the first tensor that is wrong.
    pub fn beside_uqff(directory: &Path, spec: &ModelSpec) -> Result<Self> {
        let residual = directory.join(RESIDUAL);
        if !residual.is_file() {
            let hint = "copy it from where the UQFF was written";
            let expected = "a file beside the .uqff";
            return Err(Error::model(directory, RESIDUAL, expected, "nothing", hint));
        }
        let beside = Self {
            files: vec![residual],
        };
        beside.holds(ends(spec).chain((0..spec.layers).flat_map(|layer| norms(spec, layer))))?;
        Ok(beside)
    }

    /// Stops at the first tensor that is not there, however many are expected.
    fn holds(&self, expected: impl Iterator<Item = Expected>) -> Result<()> {
        let mut found = BTreeMap::new();
        for file in &self.files {
            let open = TensorFile::open(file)?;
            for name in open.names() {
                if let Some(info) = open.info(&name) {
                    found.insert(name, (file, info.shape.clone(), info.dtype));
                }
            }
        }
        for (name, shape) in expected {
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

/// Name and shape of a tensor.
type Expected = (String, Vec<usize>);

/// The tensors outside the blocks, but for the output head.
fn ends(spec: &ModelSpec) -> impl Iterator<Item = Expected> {
    let (h, v) = (spec.hidden, spec.vocab);
    [
        ("model.embed_tokens.weight", vec![v, h]),
        ("model.norm.weight", vec![h]),
    ]
    .into_iter()
    .map(|(name, shape)| (name.to_owned(), shape))
}

fn norms(spec: &ModelSpec, layer: usize) -> impl Iterator<Item = Expected> {
    let h = spec.hidden;
    ["input_layernorm", "post_attention_layernorm"]
        .into_iter()
        .map(move |name| (format!("model.layers.{layer}.{name}.weight"), vec![h]))
}

fn linears(spec: &ModelSpec, layer: usize) -> impl Iterator<Item = Expected> {
    ModuleKind::ALL.into_iter().map(move |kind| {
        let (o, i) = kind.shape(spec);
        let module = TargetModule { layer, kind };
        (format!("{module}.weight"), vec![o, i])
    })
}
