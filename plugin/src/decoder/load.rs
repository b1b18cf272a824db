//! Loading: a Hugging Face directory, the same quantized in place, a UQFF, or
//! bare tensors that are to be trained.

use super::block::Block;
use super::llama::Llama;
use super::options::LoadOptions;
use super::reading::var_builder;
use super::rotation::RotationTable;
use super::weight::Weight;
use crate::error::{Error, Result};
use crate::model::uqff::{self, Entry, UqffFile};
use crate::model::{Checkpoint, LlamaConfig, ModelDir};
use candle_core::{DType, Device, Tensor};
use mistralrs_core::layers::RmsNorm;
use mistralrs_quant::{
    ColumnParallelLayer, Comm, Id, QuantMethod, QuantizeOntoGuard, QuantizedSerde, ReplicatedLayer,
    RowParallelLayer, ShardedVarBuilder,
};
use reptune_adapters::ModelSpec;
use reptune_adapters::model::ModuleKind;
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, atomic::AtomicUsize};

/// A linear layer of a UQFF as mistral.rs itself runs it, bias and all.
fn parallel(
    entry: &[u8],
    split: Option<Split>,
    device: &Device,
    comm: &Arc<Comm>,
) -> candle_core::Result<Arc<dyn QuantMethod>> {
    let (bytes, guard) = (Cow::from(entry), QuantizeOntoGuard::new());
    match split {
        Some(Split::Column) => ColumnParallelLayer::deserialize(bytes, device, comm, guard),
        Some(Split::Row) => RowParallelLayer::deserialize(bytes, device, comm, guard),
        None => ReplicatedLayer::deserialize(bytes, device, comm, guard),
    }
}

/// The linear layer `p` of a block from its entry.
pub(super) fn linear(entry: &Entry, p: ModuleKind) -> Result<Weight> {
    let device = Device::Cpu;
    let comm = Arc::new(Comm::from_device(Id::new(), &device, 0, 1)?);
    weight(entry, Some(split(p)), DType::F32, &comm, &device)
}

fn weight(
    entry: &Entry,
    split: Option<Split>,
    dtype: DType,
    comm: &Arc<Comm>,
    device: &Device,
) -> Result<Weight> {
    let method = parallel(entry.bytes(), split, device, comm)?;
    Ok(Weight::frozen(method, entry.layout().bias.is_some(), dtype))
}

/// How mistral.rs splits a linear layer over devices.
#[derive(Clone, Copy)]
enum Split {
    Column,
    Row,
}

fn split(p: ModuleKind) -> Split {
    match p {
        ModuleKind::OProj | ModuleKind::DownProj => Split::Row,
        _ => Split::Column,
    }
}

impl Llama {
    /// Loads what [`ModelDir::at`] finds at `path`.
    ///
    /// # Errors
    /// When a file is missing, truncated or of another model than config.json says.
    pub fn load(path: &Path, options: LoadOptions) -> Result<Self> {
        options.check()?;
        let model = ModelDir::at(path)?;
        let (config, spec) = model.config()?;
        let directory = model.directory();
        match model.open_uqff()? {
            Some(files) => Self::load_uqff(directory, &files, &config, spec, &options),
            None => {
                let checkpoint = Checkpoint::find(directory)?;
                checkpoint.check(&config, &spec)?;
                Self::load_full(&checkpoint.files, &config, spec, &options)
            }
        }
    }

    fn load_full(
        files: &[PathBuf],
        config: &LlamaConfig,
        spec: ModelSpec,
        options: &LoadOptions,
    ) -> Result<Self> {
        let LoadOptions { device, dtype, .. } = options;
        let vb = var_builder(files, *dtype, device)?;
        let comm = Arc::new(Comm::from_device(Id::new(), device, 0, 1)?);
        let quantize = |method: Arc<dyn QuantMethod>| -> Result<Weight> {
            let Some(isq) = options.isq else {
                return Ok(Weight::frozen(method, false, *dtype));
            };
            let quantized = method.apply_isq(
                Some(isq),
                device.clone(),
                &AtomicUsize::new(0),
                None,
                QuantizeOntoGuard::new(),
            )?;
            Ok(Weight::frozen(quantized, false, *dtype))
        };
        let linear = |layer: usize, p: ModuleKind| {
            let (o, i) = p.shape(&spec);
            let vb = vb.pp(format!("model.layers.{layer}.{}", p.path()));
            quantize(match split(p) {
                Split::Column => ColumnParallelLayer::new(i, o, &None, false, &comm, vb)?,
                Split::Row => RowParallelLayer::new(i, o, &None, false, &comm, vb)?,
            })
        };
        let embeddings = vb
            .pp("model.embed_tokens")
            .get((spec.vocab, spec.hidden), "weight")?;
        let head = if config.tie_word_embeddings {
            ReplicatedLayer::from_linear(candle_nn::Linear::new(embeddings.clone(), None))?
        } else {
            ReplicatedLayer::new(spec.hidden, spec.vocab, &None, false, vb.pp("lm_head"))?
        };
        let head = quantize(head)?;
        Self::assemble(
            config,
            spec.clone(),
            device.clone(),
            embeddings,
            norms(&vb, &spec, config),
            linear,
            head,
        )
    }

    fn load_uqff(
        directory: &Path,
        files: &UqffFile,
        config: &LlamaConfig,
        spec: ModelSpec,
        options: &LoadOptions,
    ) -> Result<Self> {
        let device = &options.device;
        let residual = directory.join(uqff::RESIDUAL);
        if !residual.is_file() {
            return Err(Error::model(
                directory,
                uqff::RESIDUAL,
                "a file beside the .uqff",
                "nothing",
                "copy it from where the UQFF was written",
            ));
        }
        let beside = Checkpoint {
            files: vec![residual],
        };
        beside.check_residual(&spec)?;
        let vb = var_builder(&beside.files, options.dtype, device)?;
        let comm = Arc::new(Comm::from_device(Id::new(), device, 0, 1)?);
        let read = |index: usize, shape: (usize, usize), split: Option<Split>| -> Result<Weight> {
            let entry = files.entry(index)?;
            if entry.layout().shape != shape {
                return Err(Error::model(
                    files.path(),
                    format!("tensor `{index}`"),
                    format!("a weight of shape {shape:?}"),
                    format!("{:?}", entry.layout().shape),
                    "config.json and UQFF belong to different models",
                ));
            }
            weight(&entry, split, options.dtype, &comm, device)
        };
        let embeddings = vb
            .pp("model.embed_tokens")
            .get((spec.vocab, spec.hidden), "weight")?;
        let head = read(uqff::HEAD, (spec.vocab, spec.hidden), None)?;
        let linear = |layer: usize, p: ModuleKind| {
            read(uqff::index(layer, p), p.shape(&spec), Some(split(p)))
        };
        Self::assemble(
            config,
            spec.clone(),
            device.clone(),
            embeddings,
            norms(&vb, &spec, config),
            linear,
            head,
        )
    }

    /// A Llama over the given tensors (Hugging Face names, f32), all of which
    /// take gradients if they are variables: for training from scratch.
    ///
    /// # Errors
    /// When one is missing.
    pub fn from_tensors(
        config: &LlamaConfig,
        name: &str,
        tensors: &HashMap<String, Tensor>,
        device: &Device,
    ) -> Result<Self> {
        let get = |key: String| -> Result<Tensor> {
            tensors.get(&key).cloned().ok_or_else(|| {
                Error::model(
                    name,
                    format!("tensor `{key}`"),
                    "a tensor",
                    "nothing",
                    "name it as Hugging Face does",
                )
            })
        };
        let spec = crate::model::spec(config, name, b"");
        let embeddings = get("model.embed_tokens.weight".into())?;
        let head = match config.tie_word_embeddings {
            true => embeddings.clone(),
            false => get("lm_head.weight".into())?,
        };
        let linear = |layer: usize, p: ModuleKind| {
            Ok(Weight::Trained(get(format!(
                "model.layers.{layer}.{}.weight",
                p.path()
            ))?))
        };
        let norm = |name: String| get(format!("{name}.weight"));
        Self::assemble(
            config,
            spec,
            device.clone(),
            embeddings,
            norm,
            linear,
            Weight::Trained(head),
        )
    }

    fn assemble(
        config: &LlamaConfig,
        spec: ModelSpec,
        device: Device,
        embeddings: Tensor,
        norm: impl Fn(String) -> Result<Tensor>,
        linear: impl Fn(usize, ModuleKind) -> Result<Weight>,
        head: Weight,
    ) -> Result<Self> {
        let block = |layer: usize| -> Result<Block> {
            let weights: Vec<Weight> = ModuleKind::ALL
                .into_iter()
                .map(|p| linear(layer, p))
                .collect::<Result<_>>()?;
            let Ok(weights) = weights.try_into() else {
                unreachable!("one weight for each of the seven projections")
            };
            let norms = [
                norm(format!("model.layers.{layer}.input_layernorm"))?,
                norm(format!("model.layers.{layer}.post_attention_layernorm"))?,
            ];
            let eps = config.rms_norm_eps;
            Ok(Block::new(layer, spec.head_dim, eps, norms, weights))
        };
        Ok(Self {
            blocks: (0..spec.layers).map(block).collect::<Result<_>>()?,
            norm: norm("model.norm".into())?,
            norm_eps: config.rms_norm_eps,
            rotation: RotationTable::new(config)?,
            embeddings,
            head,
            device,
            spec,
        })
    }
}

/// mistral.rs's norm weights.
fn norms<'a>(
    vb: &'a ShardedVarBuilder,
    spec: &'a ModelSpec,
    config: &'a LlamaConfig,
) -> impl Fn(String) -> Result<Tensor> + 'a {
    move |name| {
        Ok(RmsNorm::new(spec.hidden, config.rms_norm_eps, vb.pp(name))?
            .weight()
            .clone())
    }
}
