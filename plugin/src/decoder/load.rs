//! Loading: full weights, the same quantized in place, a UQFF, or tensors that are trained
//! from scratch.

use super::block::Block;
use super::llama::Llama;
use super::options::LoadOptions;
use super::reading::var_builder;
use super::rotation::RotationTable;
use super::weight::Weight;
use crate::error::{Error, Result};
use crate::model::uqff::{self, Entry};
use crate::model::{Checkpoint, LlamaConfig, ModelDir};
use candle_core::{DType, Device, Tensor};
use mistralrs_core::layers::RmsNorm;
use mistralrs_quant::{
    ColumnParallelLayer, Comm, Id, IsqType, QuantMethod, QuantizeOntoGuard, QuantizedSerde,
    ReplicatedLayer, RowParallelLayer,
};
use reptune_adapters::ModelSpec;
use reptune_adapters::model::ModuleKind;
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, atomic::AtomicUsize};

/// How mistral.rs splits a linear layer over devices.
#[derive(Clone, Copy)]
enum Split {
    Column,
    Row,
    /// The output head.
    Whole,
}

fn split(p: ModuleKind) -> Split {
    match p {
        ModuleKind::OProj | ModuleKind::DownProj => Split::Row,
        _ => Split::Column,
    }
}

/// Where weights are loaded to, and in which dtype.
struct Target<'a> {
    device: &'a Device,
    dtype: DType,
    comm: Arc<Comm>,
}

impl<'a> Target<'a> {
    fn new(device: &'a Device, dtype: DType) -> Result<Self> {
        let comm = Arc::new(Comm::from_device(Id::new(), device, 0, 1)?);
        Ok(Self {
            device,
            dtype,
            comm,
        })
    }

    /// A linear layer of a UQFF as mistral.rs itself runs it, with its bias.
    fn entry(&self, entry: &Entry, split: Split) -> Result<Weight> {
        let (bytes, guard) = (Cow::from(entry.bytes()), QuantizeOntoGuard::new());
        let (device, comm) = (self.device, &self.comm);
        let method = match split {
            Split::Column => ColumnParallelLayer::deserialize(bytes, device, comm, guard),
            Split::Row => RowParallelLayer::deserialize(bytes, device, comm, guard),
            Split::Whole => ReplicatedLayer::deserialize(bytes, device, comm, guard),
        };
        let biased = entry.layout().bias.is_some();
        Ok(Weight::frozen(method?, biased, self.dtype))
    }

    /// A full linear layer, quantized to `isq` if that is given.
    fn quantized(&self, method: Arc<dyn QuantMethod>, isq: Option<IsqType>) -> Result<Weight> {
        let method = match isq {
            None => method,
            Some(_) => method.apply_isq(
                isq,
                self.device.clone(),
                &AtomicUsize::new(0),
                None,
                QuantizeOntoGuard::new(),
            )?,
        };
        Ok(Weight::frozen(method, false, self.dtype))
    }
}

/// The linear layer `p` of a block from its entry.
pub(super) fn linear(entry: &Entry, p: ModuleKind) -> Result<Weight> {
    Target::new(&Device::Cpu, DType::F32)?.entry(entry, split(p))
}

/// The weights of a Llama. Norms are given by name, linear layers by layer and module.
struct Weights<'a> {
    embeddings: Tensor,
    head: Weight,
    norm: &'a dyn Fn(String) -> Result<Tensor>,
    linear: &'a dyn Fn(usize, ModuleKind) -> Result<Weight>,
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
        let uqff = model.open_uqff()?;
        let checkpoint = match &uqff {
            Some(_) => Checkpoint::beside_uqff(model.directory(), &spec)?,
            None => {
                let checkpoint = Checkpoint::find(model.directory())?;
                checkpoint.check(&config, &spec)?;
                checkpoint
            }
        };
        let device = &options.device;
        let vb = var_builder(&checkpoint.files, options.dtype, device)?;
        let target = Target::new(device, options.dtype)?;
        let (v, h) = (spec.vocab, spec.hidden);
        let embeddings = vb.pp("model.embed_tokens").get((v, h), "weight")?;
        let head = match &uqff {
            Some(uqff) => target.entry(&uqff.shaped(uqff::HEAD, (v, h))?, Split::Whole)?,
            None => {
                let full = match config.tie_word_embeddings {
                    true => {
                        let tied = candle_nn::Linear::new(embeddings.clone(), None);
                        ReplicatedLayer::from_linear(tied)?
                    }
                    false => ReplicatedLayer::new(h, v, &None, false, vb.pp("lm_head"))?,
                };
                target.quantized(full, options.isq)?
            }
        };
        let linear = |layer: usize, p: ModuleKind| -> Result<Weight> {
            let (o, i) = p.shape(&spec);
            if let Some(uqff) = &uqff {
                return target.entry(&uqff.shaped(uqff::index(layer, p), (o, i))?, split(p));
            }
            let vb = vb.pp(format!("model.layers.{layer}.{}", p.path()));
            let full = match split(p) {
                Split::Row => RowParallelLayer::new(i, o, &None, false, &target.comm, vb)?,
                _ => ColumnParallelLayer::new(i, o, &None, false, &target.comm, vb)?,
            };
            target.quantized(full, options.isq)
        };
        let norm = |name: String| -> Result<Tensor> {
            let norm = RmsNorm::new(h, config.rms_norm_eps, vb.pp(name))?;
            Ok(norm.weight().clone())
        };
        let weights = Weights {
            embeddings,
            head,
            norm: &norm,
            linear: &linear,
        };
        Self::assemble(&config, spec.clone(), device.clone(), weights)
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
        let embeddings = get("model.embed_tokens.weight".into())?;
        let head = match config.tie_word_embeddings {
            true => embeddings.clone(),
            false => get("lm_head.weight".into())?,
        };
        let linear = |layer: usize, p: ModuleKind| -> Result<Weight> {
            let name = format!("model.layers.{layer}.{}.weight", p.path());
            Ok(Weight::Trained(get(name)?))
        };
        let weights = Weights {
            embeddings,
            head: Weight::Trained(head),
            norm: &|name| get(format!("{name}.weight")),
            linear: &linear,
        };
        let spec = crate::model::spec(config, name, b"");
        Self::assemble(config, spec, device.clone(), weights)
    }

    fn assemble(
        config: &LlamaConfig,
        spec: ModelSpec,
        device: Device,
        weights: Weights,
    ) -> Result<Self> {
        let Weights { norm, linear, .. } = weights;
        let block = |layer: usize| -> Result<Block> {
            let [q, k, v, o, gate, up, down] = ModuleKind::ALL.map(|p| linear(layer, p));
            let linears = [q?, k?, v?, o?, gate?, up?, down?];
            let norms = [
                norm(format!("model.layers.{layer}.input_layernorm"))?,
                norm(format!("model.layers.{layer}.post_attention_layernorm"))?,
            ];
            let eps = config.rms_norm_eps;
            Ok(Block::new(layer, spec.head_dim, eps, norms, linears))
        };
        Ok(Self {
            blocks: (0..spec.layers).map(block).collect::<Result<_>>()?,
            norm: norm("model.norm".into())?,
            norm_eps: config.rms_norm_eps,
            rotation: RotationTable::new(config)?,
            embeddings: weights.embeddings,
            head: weights.head,
            device,
            spec,
        })
    }
}
