//! Loading: full weights, the same quantized in place, a UQFF, or tensors that are trained
//! from scratch.

use super::block::{Block, Weight};
use super::llama::Llama;
use super::options::LoadOptions;
use super::rotation::RotationTable;
use crate::error::{Error, Result};
use crate::model::uqff::Entry;
use crate::model::{EMBEDDINGS, LlamaConfig, Source};
use candle_core::{DType, Device, Tensor};
use candle_nn::Linear;
use mistralrs_quant::{QuantMethod, QuantMethodConfig, QuantizeOntoGuard, UnquantLinear};
use reptune_adapters::model::ModuleKind;
use reptune_adapters::{ModelSpec, TargetModule};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, atomic::AtomicUsize};

/// The linear layer `kind`, or the output head if there is none, from its entry.
pub(super) fn linear(
    entry: &Entry,
    kind: Option<ModuleKind>,
    dtype: DType,
    device: &Device,
) -> Result<Weight> {
    let biased = entry.layout().bias.is_some();
    Ok(Weight::frozen(entry.method(kind, device)?, biased, dtype))
}

impl Llama {
    /// Loads what [`ModelDir::at`](crate::model::ModelDir::at) finds at `path`.
    ///
    /// # Errors
    /// When a file is missing, truncated or of another model than config.json says.
    pub fn load(path: &Path, options: LoadOptions) -> Result<Self> {
        options.check()?;
        let source = Source::open(path)?;
        let LoadOptions { isq, device, dtype } = &options;
        let read = |name: &str| -> Result<Tensor> {
            Ok(source.tensor(name)?.to_dtype(*dtype)?.to_device(device)?)
        };
        let embeddings = read(EMBEDDINGS)?;
        let tensor = |name: &str| match name {
            EMBEDDINGS => Ok(embeddings.clone()),
            name => read(name),
        };
        let weight = |module: Option<TargetModule>| -> Result<Weight> {
            let (entry, name) = match module {
                Some(module) => (source.entry(module)?, format!("{module}.weight")),
                None => (source.head_entry()?, source.config.head().to_owned()),
            };
            if let Some(entry) = entry {
                return linear(&entry, module.map(|m| m.kind), *dtype, device);
            }
            let full = tensor(&name)?;
            if isq.is_none() {
                return Ok(Weight::Frozen(Arc::new(full)));
            }
            let full = QuantMethodConfig::Unquantized(Linear::new(full, None));
            let (done, guard) = (AtomicUsize::new(0), QuantizeOntoGuard::new());
            let full = Arc::new(UnquantLinear::new(full)?);
            let quantized = full.apply_isq(*isq, device.clone(), &done, None, guard)?;
            Ok(Weight::frozen(quantized, false, *dtype))
        };
        let spec = source.spec.clone();
        Self::assemble(&source.config, spec, device, &tensor, &weight)
    }

    /// A Llama over the given tensors (Hugging Face names, f32), for training from scratch:
    /// those that are variables take gradients.
    ///
    /// # Errors
    /// When one is missing.
    pub fn from_tensors(
        config: &LlamaConfig,
        name: &str,
        tensors: &HashMap<String, Tensor>,
        device: &Device,
    ) -> Result<Self> {
        let tensor = |key: &str| -> Result<Tensor> {
            tensors.get(key).cloned().ok_or_else(|| {
                let (place, hint) = (format!("tensor `{key}`"), "name it as Hugging Face does");
                Error::model(name, place, "a tensor", "nothing", hint)
            })
        };
        let weight = |module: Option<TargetModule>| {
            let head = || config.head().to_owned();
            let name = module.map_or_else(head, |module| format!("{module}.weight"));
            Ok(Weight::Trained(tensor(&name)?))
        };
        let spec = crate::model::spec(config, name, b"");
        Self::assemble(config, spec, device, &tensor, &weight)
    }

    /// Puts a Llama together from embeddings and norms by name, and linear layers by module,
    /// of which none is the output head.
    fn assemble(
        config: &LlamaConfig,
        spec: ModelSpec,
        device: &Device,
        tensor: &dyn Fn(&str) -> Result<Tensor>,
        weight: &dyn Fn(Option<TargetModule>) -> Result<Weight>,
    ) -> Result<Self> {
        let block = |layer: usize| -> Result<Block> {
            let linear = |kind| weight(Some(TargetModule { layer, kind }));
            let [q, k, v, o, gate, up, down] = ModuleKind::ALL.map(linear);
            let linears = [q?, k?, v?, o?, gate?, up?, down?];
            let norm = |norm: &str| tensor(&format!("model.layers.{layer}.{norm}.weight"));
            let norms = [norm("input_layernorm")?, norm("post_attention_layernorm")?];
            let eps = config.rms_norm_eps;
            Ok(Block::new(layer, spec.head_dim, eps, norms, linears))
        };
        Ok(Self {
            blocks: (0..spec.layers).map(block).collect::<Result<_>>()?,
            norm: tensor("model.norm.weight")?,
            norm_eps: config.rms_norm_eps,
            rotation: RotationTable::new(config)?,
            embeddings: tensor(EMBEDDINGS)?,
            head: weight(None)?,
            device: device.clone(),
            spec,
        })
    }
}
