//! Loading: full weights, the same quantized in place, a UQFF, or tensors that are trained
//! from scratch; where, and in which dtype.

use super::block::{Block, Weight};
use super::llama::Llama;
use super::rotation::RotationTable;
use crate::error::{Error, Result};
use crate::model::uqff::Entry;
use crate::model::{EMBEDDINGS, ModelConfig, Source};
use crate::progress::Progress;
use candle_core::{DType, Device, Tensor};
use candle_nn::Linear;
use mistralrs_quant::{IsqType, QuantMethod, QuantMethodConfig, QuantizeOntoGuard, UnquantLinear};
use reptune_adapters::model::ModuleKind;
use reptune_adapters::{Error as Fault, ModelSpec, TargetModule};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, atomic::AtomicUsize};

/// How a model is loaded.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Quantize every linear layer in place after loading.
    pub isq: Option<IsqType>,
    /// Where it computes.
    pub device: Device,
    /// Type of its weights and of the residual stream. Factors that are trained, losses and
    /// captured rows are f32 in any case.
    pub dtype: DType,
}

impl Default for LoadOptions {
    /// The CPU, in f32.
    fn default() -> Self {
        Self {
            isq: None,
            device: Device::Cpu,
            dtype: DType::F32,
        }
    }
}

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
        if options.dtype == DType::BF16 && options.device.is_cpu() {
            let hint = "leave it at f32, in which the CPU computes";
            return Err(Fault::value("dtype", "f32 on the CPU", "bf16", hint).into());
        }
        let _shown = Progress::new(format!("load {}", path.display()), 0);
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
            if let Some(entry) = source.entry(module)? {
                return linear(&entry, module.map(|m| m.kind), *dtype, device);
            }
            let full = tensor(&source.config.weight_name(module))?;
            let bias = module.and_then(|m| source.config.bias_name(m));
            let bias = bias.map(|name| tensor(&name)).transpose()?;
            if isq.is_none() {
                return Ok(Weight::Frozen(Arc::new(full)).with_bias(bias));
            }
            let full = QuantMethodConfig::Unquantized(Linear::new(full, None));
            let (done, guard) = (AtomicUsize::new(0), QuantizeOntoGuard::new());
            let full = Arc::new(UnquantLinear::new(full)?);
            let quantized = full.apply_isq(*isq, device.clone(), &done, None, guard)?;
            Ok(Weight::frozen(quantized, false, *dtype).with_bias(bias))
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
        config: &ModelConfig,
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
            let bias = module.and_then(|m| config.bias_name(m));
            let bias = bias.map(|name| tensor(&name)).transpose()?;
            Ok(Weight::Trained(tensor(&config.weight_name(module))?, bias))
        };
        let spec = crate::model::spec(config, name, None);
        Self::assemble(config, spec, device, &tensor, &weight)
    }

    /// Puts a Llama together from embeddings and norms by name, and linear layers by module,
    /// of which none is the output head.
    fn assemble(
        config: &ModelConfig,
        spec: ModelSpec,
        device: &Device,
        tensor: &dyn Fn(&str) -> Result<Tensor>,
        weight: &dyn Fn(Option<TargetModule>) -> Result<Weight>,
    ) -> Result<Self> {
        let block = |layer: usize| -> Result<Block> {
            let linear = |kind| weight(Some(TargetModule { layer, kind }));
            let [q, k, v, o, gate, up, down] = ModuleKind::ALL.map(linear);
            let linears = [q?, k?, v?, o?, gate?, up?, down?];
            Block::new(config, layer, linears, tensor)
        };
        // The largest first: while a tensor is loaded, its bytes lie in memory a second time.
        let (embeddings, head) = (tensor(EMBEDDINGS)?, weight(None)?);
        Ok(Self {
            blocks: (0..spec.layers).map(block).collect::<Result<_>>()?,
            norm: tensor("model.norm.weight")?,
            norm_eps: config.rms_norm_eps,
            rotation: RotationTable::new(config)?,
            window: config.sliding_window.as_ref().map(|w| w.tokens),
            embeddings,
            head,
            device: device.clone(),
            spec,
        })
    }
}

/// Parses a device: `cpu`, `cuda`, `cuda:1`, `metal`.
///
/// # Errors
/// When there is none of that name, the program was built without it, or it does not answer.
pub fn parse_device(name: &str) -> Result<Device> {
    let (kind, number) = name.split_once(':').unwrap_or((name, "0"));
    let device = match (kind, number.parse()) {
        ("cpu", _) if name == "cpu" => return Ok(Device::Cpu),
        ("cuda", Ok(number)) => Device::new_cuda(number),
        ("metal", Ok(number)) => Device::new_metal(number),
        _ => {
            let (expected, found) = ("cpu, cuda, cuda:1, .. or metal", format!("`{name}`"));
            let hint = "the number is that of the device, from 0";
            return Err(Fault::value("device", expected, found, hint).into());
        }
    };
    device.map_err(|e| {
        let hint = "it takes a program built with --features cuda or metal, and its driver";
        Fault::value("device", format!("`{name}`"), e.to_string(), hint).into()
    })
}

/// Parses a type of weights: `f32`, `bf16` or `f16`.
///
/// # Errors
/// When it is another.
pub fn parse_dtype(name: &str) -> Result<DType> {
    match name {
        "f32" => Ok(DType::F32),
        "bf16" => Ok(DType::BF16),
        "f16" => Ok(DType::F16),
        _ => {
            let hint = "--quantize stores smaller types";
            Err(Fault::value("dtype", "f32, bf16 or f16", format!("`{name}`"), hint).into())
        }
    }
}

/// Parses a quantization such as `q8_0` or `q4k`.
///
/// # Errors
/// When mistral.rs does not know it.
pub fn parse_isq(name: &str) -> Result<IsqType> {
    mistralrs_core::parse_isq_value(name, Some(&Device::Cpu)).map_err(|reason| {
        let expected = "a type of mistral.rs such as q8_0 or q4k";
        Fault::value("quantization", expected, format!("`{name}`"), reason).into()
    })
}
