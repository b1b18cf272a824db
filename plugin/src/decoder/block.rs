//! One decoder block over a table of rows, and its weights: frozen in mistral.rs's storage, or
//! tensors that are trained.

use super::rows::{Read, Seen};
use crate::model::ModelConfig;
use candle_core::{DType, Tensor};
use mistralrs_core::layers::MatMul;
use mistralrs_quant::QuantMethod;
use reptune_adapters::model::ModuleKind::{self, *};
use reptune_adapters::ops::{
    Factors, FrozenAttention, FrozenMatrix, FrozenMlp, Rotation, attention, attention_half,
    frozen_linear, head_norm, lora_linear, mlp_half, rms_norm, rotary, swiglu,
};
use reptune_adapters::{Adapter, GradientCheckpointing, KeyValueCache, Result};
use std::sync::Arc;

/// Is called with the input of every linear layer.
pub(super) type Listener<'a> = &'a dyn Fn(ModuleKind, &Tensor) -> Result<()>;

/// Changes the rows between attention and MLP.
pub(super) type Middle<'a> = &'a dyn Fn(&Tensor) -> Result<Tensor>;

/// What a block needs in addition to the rows.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub rotation: &'a Rotation,
    pub seen: &'a Seen,
    pub adapter: Option<&'a Adapter>,
    pub listener: Option<Listener<'a>>,
    pub middle: Option<Middle<'a>>,
    /// Rows that the result holds; none: all.
    pub read: Option<&'a Read>,
    pub activations: GradientCheckpointing,
}

/// `x + o(attention(q, k, v of norm(x)))`, then `x + down(swiglu(gate, up of norm(x)))`.
pub(super) struct Block {
    layer: usize,
    head_dim: usize,
    eps: f64,
    /// Whether attention sees a sliding window.
    windowed: bool,
    /// Weights of the norms before attention and before the MLP.
    norms: [Tensor; 2],
    /// Weights of the norms of the heads of q and of k, if there are such.
    head_norms: Option<[Tensor; 2]>,
    /// In the order of [`ModuleKind::ALL`].
    weights: [Weight; 7],
    /// The same as halves that are one op; none where a weight itself is trained.
    halves: Option<(Arc<FrozenAttention>, Arc<FrozenMlp>)>,
}

impl Block {
    /// The block `layer`, of which `tensor` gives the norms by name.
    pub(super) fn new<E>(
        config: &ModelConfig,
        layer: usize,
        weights: [Weight; 7],
        tensor: impl Fn(&str) -> std::result::Result<Tensor, E>,
    ) -> std::result::Result<Self, E> {
        let norm = |norm: &str| tensor(&format!("model.layers.{layer}.{norm}.weight"));
        let norms = [norm("input_layernorm")?, norm("post_attention_layernorm")?];
        let head_norms = match config.architecture.normalises_heads() {
            true => Some([norm("self_attn.q_norm")?, norm("self_attn.k_norm")?]),
            false => None,
        };
        let (head_dim, eps) = (config.head_dim, config.rms_norm_eps);
        let halves = || {
            let [q, k, v, o, gate, up, down] = weights.each_ref().map(Weight::as_frozen);
            let attention = FrozenAttention {
                norm: norms[0].clone(),
                eps,
                head_dim,
                head_norms: head_norms.clone(),
                q: q?.clone(),
                k: k?.clone(),
                v: v?.clone(),
                o: o?.clone(),
            };
            let mlp = FrozenMlp {
                norm: norms[1].clone(),
                eps,
                gate: gate?.clone(),
                up: up?.clone(),
                down: down?.clone(),
            };
            Some((Arc::new(attention), Arc::new(mlp)))
        };
        Ok(Self {
            halves: halves(),
            layer,
            head_dim,
            eps,
            windowed: config.window(layer).is_some(),
            norms,
            head_norms,
            weights,
        })
    }

    /// Keys and values are computed of all rows, the rest of those that are read.
    ///
    /// Shapes: `x` (N, H), result (R, H) with R the rows that are read.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        cache: &mut KeyValueCache,
        c: Context,
    ) -> Result<Tensor> {
        let mut x = self.attention(x, cache, &c)?;
        if let Some(change) = c.middle {
            x = change(&x)?;
        }
        self.mlp(&x, &c)
    }

    fn attention(&self, x: &Tensor, cache: &mut KeyValueCache, c: &Context) -> Result<Tensor> {
        if let (Some((attention, _)), None) = (&self.halves, c.read)
            && !cache.keeps()
            && let Some(updates) = self.updates(c, [QProj, KProj, VProj, OProj])
        {
            let rows = (c.rotation, c.seen.by(self.windowed));
            return Ok(attention_half(x, attention, updates, rows, c.activations)?);
        }
        let h = rms_norm(x, &self.norms[0], self.eps)?;
        let k = self.rotated(KProj, &h, c.rotation, c)?;
        let v = self.linear(VProj, &h, c)?;
        let (k, v) = cache.append(self.layer, k, v)?;
        let (x, h, rotation, seen) = match c.read {
            None => (x.clone(), h, c.rotation, c.seen),
            Some(read) => {
                let pick = |t: &Tensor| t.index_select(&read.index, 0);
                (pick(x)?, pick(&h)?, &read.rotation, &read.seen)
            }
        };
        let q = self.rotated(QProj, &h, rotation, c)?;
        let y = attention(&q, &k, &v, seen.by(self.windowed), self.head_dim)?;
        Ok((x + self.linear(OProj, &y, c)?)?)
    }

    /// Queries or keys: every head normalised, where there are norms of heads, then rotated.
    fn rotated(
        &self,
        p: ModuleKind,
        h: &Tensor,
        rotation: &Rotation,
        c: &Context,
    ) -> Result<Tensor> {
        let mut heads = self.linear(p, h, c)?;
        if let Some(norms) = &self.head_norms {
            heads = head_norm(&heads, &norms[p as usize], self.eps)?;
        }
        Ok(rotary(&heads, rotation)?)
    }

    fn mlp(&self, x: &Tensor, c: &Context) -> Result<Tensor> {
        if let Some((_, mlp)) = &self.halves
            && let Some(updates) = self.updates(c, [GateProj, UpProj, DownProj])
        {
            return Ok(mlp_half(x, mlp, updates, c.activations)?);
        }
        let h = rms_norm(x, &self.norms[1], self.eps)?;
        let y = swiglu(&self.linear(GateProj, &h, c)?, &self.linear(UpProj, &h, c)?)?;
        Ok((x + self.linear(DownProj, &y, c)?)?)
    }

    /// The low-rank updates of these layers; none where a full delta is among them, or where
    /// there is a listener.
    fn updates<'a, const N: usize>(
        &self,
        c: &Context<'a>,
        layers: [ModuleKind; N],
    ) -> Option<[Option<Factors<'a>>; N]> {
        let updates = layers.map(|p| c.adapter.and_then(|l| l.at(self.layer, p)));
        let low = updates.iter().flatten().all(|u| u.full.is_none());
        (low && c.listener.is_none()).then(|| updates.map(|u| u.map(|u| (&u.a, &u.b, u.scale))))
    }

    fn linear(&self, p: ModuleKind, x: &Tensor, c: &Context) -> Result<Tensor> {
        if let Some(listener) = c.listener {
            listener(p, x)?;
        }
        let weight = &self.weights[p as usize];
        let update = c.adapter.and_then(|l| l.at(self.layer, p));
        match (update, weight.as_frozen()) {
            (None, _) => Ok(weight.forward(x)?),
            (Some(u), Some(matrix)) if u.full.is_none() => {
                Ok(lora_linear(x, matrix, (&u.a, &u.b), u.scale)?)
            }
            (Some(u), _) => Ok((weight.forward(x)? + u.forward(x)?)?),
        }
    }
}

/// The weight of one linear layer, and its bias (O,), if it has one.
pub(super) enum Weight {
    /// Full or quantized, never changed.
    Frozen(Arc<dyn FrozenMatrix>),
    /// (O, I), takes a gradient.
    Trained(Tensor, Option<Tensor>),
}

impl Weight {
    /// A weight as mistral.rs loaded it. `biased` says whether it has a bias, `dtype` is that of
    /// its inputs. A full weight of that dtype without bias becomes a plain tensor, because
    /// its product is faster here.
    pub(super) fn frozen(method: Arc<dyn QuantMethod>, biased: bool, dtype: DType) -> Self {
        match method.unquant_weight_bias() {
            Some((weight, None)) if !biased && weight.dtype() == dtype => {
                Self::Frozen(Arc::new(weight))
            }
            _ => Self::Frozen(Arc::new(RuntimeMatrix { method, dtype })),
        }
    }

    /// The same with a bias (O,), of the dtype of the stream.
    pub(super) fn with_bias(self, bias: Option<Tensor>) -> Self {
        match (self, bias) {
            (Self::Frozen(matrix), Some(bias)) => {
                Self::Frozen(Arc::new(BiasedMatrix { matrix, bias }))
            }
            (Self::Trained(weight, _), bias) => Self::Trained(weight, bias),
            (weight, None) => weight,
        }
    }

    fn as_frozen(&self) -> Option<&Arc<dyn FrozenMatrix>> {
        match self {
            Self::Frozen(matrix) => Some(matrix),
            Self::Trained(..) => None,
        }
    }

    /// `x W^T + b`. Shapes: `x` (N, I), result (N, O).
    pub(super) fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::Frozen(matrix) => frozen_linear(x, matrix),
            Self::Trained(weight, None) => x.matmul(&weight.t()?),
            Self::Trained(weight, Some(bias)) => x.matmul(&weight.t()?)?.broadcast_add(bias),
        }
    }
}

/// A weight with the bias of a model that has such; what the backward needs of it is that of the
/// weight alone.
struct BiasedMatrix {
    matrix: Arc<dyn FrozenMatrix>,
    bias: Tensor,
}

impl FrozenMatrix for BiasedMatrix {
    fn product(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.matrix.product(x)?.broadcast_add(&self.bias)
    }

    fn weight(&self) -> candle_core::Result<Tensor> {
        self.matrix.weight()
    }

    fn is_full(&self) -> bool {
        self.matrix.is_full()
    }
}

/// A weight as mistral.rs holds it.
struct RuntimeMatrix {
    method: Arc<dyn QuantMethod>,
    dtype: DType,
}

impl FrozenMatrix for RuntimeMatrix {
    fn product(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        // mistral.rs works on (batch, rows, features)
        let y = MatMul.qmethod_matmul(&x.unsqueeze(0)?, &*self.method)?;
        y.squeeze(0)
    }

    fn weight(&self) -> candle_core::Result<Tensor> {
        self.method.dequantize_w()?.to_dtype(self.dtype)
    }

    fn is_full(&self) -> bool {
        false
    }
}
