//! The two halves of a block none of whose weights is trained, each as one op.
//!
//! Composed of ops, a half block keeps every intermediate table for its backward, and
//! gradients are gathered table by table. As one op it keeps what the backward needs and no
//! more, or nothing but its input, and hands down one gradient.

use super::attention::{Attention, Heads, attention};
use super::frozen_linear::{FrozenMatrix, frozen_linear};
use super::fused;
use super::product::products_back;
use super::rms_norm::{backward as norm_backward, rms_norm};
use super::rotary::{Rotation, rotary};
use super::slice::{contiguous, sum_of, with_data};
use super::swiglu::{backward as swiglu_backward, swiglu};
use crate::forest::Ancestry;
use crate::host::Activations;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;
use std::sync::{Arc, OnceLock};

/// Weights of the MLP half of a block.
pub struct FrozenMlp {
    /// Weight (H,) of the norm before it.
    pub norm: Tensor,
    /// Epsilon of that norm.
    pub eps: f64,
    /// (I, H).
    pub gate: Arc<dyn FrozenMatrix>,
    /// (I, H).
    pub up: Arc<dyn FrozenMatrix>,
    /// (H, I).
    pub down: Arc<dyn FrozenMatrix>,
}

/// Weights of the attention half of a block.
pub struct FrozenAttention {
    /// Weight (H,) of the norm before it.
    pub norm: Tensor,
    /// Epsilon of that norm.
    pub eps: f64,
    /// D.
    pub head_dim: usize,
    /// (heads * D, H).
    pub q: Arc<dyn FrozenMatrix>,
    /// (kv_heads * D, H).
    pub k: Arc<dyn FrozenMatrix>,
    /// (kv_heads * D, H).
    pub v: Arc<dyn FrozenMatrix>,
    /// (H, heads * D).
    pub o: Arc<dyn FrozenMatrix>,
}

/// The MLP half of a block: `x + down(swiglu(gate(h), up(h)))`, h = norm(x).
///
/// Shapes: `x` (N, H), result (N, H).
///
/// # Errors
/// When the shapes do not fit.
pub fn frozen_mlp(x: &Tensor, weights: &Arc<FrozenMlp>, keep: Activations) -> Result<Tensor> {
    match x.track_op() && fused(x) {
        true => x.contiguous()?.apply_op1(Half::new(weights, (), keep)),
        false => frozen_mlp_composed(x, weights),
    }
}

/// [`frozen_mlp`] from single ops.
///
/// # Errors
/// When the shapes do not fit.
pub fn frozen_mlp_composed(x: &Tensor, weights: &FrozenMlp) -> Result<Tensor> {
    let [gate, up] = weights.kept(x, &())?;
    x + frozen_linear(&swiglu(&gate, &up)?, &weights.down)?
}

/// The attention half of a block: `x + o(attention(q(h), k(h), v(h)))`, h = norm(x), with
/// queries and keys rotated.
///
/// Shapes: `x` (N, H), result (N, H); `rotation` and `ancestry` of the N rows.
///
/// # Errors
/// When the shapes do not fit.
pub fn frozen_attention(
    x: &Tensor,
    weights: &Arc<FrozenAttention>,
    rotation: &Rotation,
    ancestry: &Arc<Ancestry>,
    keep: Activations,
) -> Result<Tensor> {
    let rows = (rotation.clone(), ancestry.clone());
    match x.track_op() && fused(x) {
        true => x.contiguous()?.apply_op1(Half::new(weights, rows, keep)),
        false => frozen_attention_composed(x, weights, rotation, ancestry),
    }
}

/// [`frozen_attention`] from single ops.
///
/// # Errors
/// When the shapes do not fit.
pub fn frozen_attention_composed(
    x: &Tensor,
    weights: &FrozenAttention,
    rotation: &Rotation,
    ancestry: &Arc<Ancestry>,
) -> Result<Tensor> {
    let rows = (rotation.clone(), ancestry.clone());
    let [_, _, _, y] = weights.kept(x, &rows)?;
    x + frozen_linear(&y, &weights.o)?
}

/// Half a block, as the op sees it.
trait HalfBlock: Send + Sync {
    /// What it needs to know of the rows.
    type Rows: Send + Sync;
    /// Tables that the backward needs.
    type Kept: Send + Sync;

    const NAME: &'static str;

    fn kept(&self, x: &Tensor, rows: &Self::Rows) -> Result<Self::Kept>;

    /// What is added to `x`.
    fn change(&self, kept: &Self::Kept) -> Result<Tensor>;

    /// Gradient (N, H) of `x`, given that of the result.
    fn backward(
        &self,
        x: &[f32],
        kept: &Self::Kept,
        rows: &Self::Rows,
        g: &Tensor,
    ) -> Result<Vec<f32>>;
}

struct Half<W: HalfBlock> {
    weights: Arc<W>,
    rows: W::Rows,
    keep: Activations,
    kept: OnceLock<W::Kept>,
}

impl<W: HalfBlock> Half<W> {
    fn new(weights: &Arc<W>, rows: W::Rows, keep: Activations) -> Self {
        Self {
            weights: weights.clone(),
            rows,
            keep,
            kept: OnceLock::new(),
        }
    }
}

impl<W: HalfBlock> CustomOp1 for Half<W> {
    fn name(&self) -> &'static str {
        W::NAME
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = contiguous(W::NAME, s, l)?;
        let table = Tensor::from_slice(x, l.shape(), &candle_core::Device::Cpu)?;
        let kept = self.weights.kept(&table, &self.rows)?;
        let y = with_data(&self.weights.change(&kept)?, |change| Ok(sum_of(x, change)))?;
        if self.keep == Activations::Keep {
            // set once, as an op is run once
            let _ = self.kept.set(kept);
        }
        Ok((CpuStorage::F32(y), l.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let x = x.detach().contiguous()?;
        let again;
        let kept = match self.kept.get() {
            Some(kept) => kept,
            None => {
                again = self.weights.kept(&x, &self.rows)?;
                &again
            }
        };
        let gx = with_data(&x, |x| self.weights.backward(x, kept, &self.rows, grad))?;
        Ok(Some(Tensor::from_vec(gx, x.shape(), x.device())?))
    }
}

impl HalfBlock for FrozenMlp {
    type Rows = ();
    /// Gate and up.
    type Kept = [Tensor; 2];
    const NAME: &'static str = "frozen_mlp";

    fn kept(&self, x: &Tensor, _rows: &()) -> Result<Self::Kept> {
        let h = rms_norm(x, &self.norm, self.eps)?;
        of_all(&h, [&self.gate, &self.up])
    }

    fn change(&self, [gate, up]: &Self::Kept) -> Result<Tensor> {
        frozen_linear(&swiglu(gate, up)?, &self.down)
    }

    fn backward(
        &self,
        x: &[f32],
        [gate, up]: &Self::Kept,
        _rows: &(),
        g: &Tensor,
    ) -> Result<Vec<f32>> {
        let ga = through(&[(&self.down, g)])?;
        let (gg, gu) = with_data(gate, |gate| {
            with_data(up, |up| Ok(swiglu_backward(gate, up, ga)))
        })?;
        let (gg, gu) = (table(gg, gate)?, table(gu, up)?);
        let gh = through(&[(&self.gate, &gg), (&self.up, &gu)])?;
        with_data(&self.norm, |w| {
            with_data(g, |g| Ok(norm_backward(x, w, gh, Some(g), self.eps as f32)))
        })
    }
}

impl HalfBlock for FrozenAttention {
    type Rows = (Rotation, Arc<Ancestry>);
    /// Rotated queries and keys, values, and what attention made of them.
    type Kept = [Tensor; 4];
    const NAME: &'static str = "frozen_attention";

    fn kept(&self, x: &Tensor, (rotation, ancestry): &Self::Rows) -> Result<Self::Kept> {
        let h = rms_norm(x, &self.norm, self.eps)?;
        let [q, k, v] = of_all(&h, [&self.q, &self.k, &self.v])?;
        let (q, k) = (rotary(&q, rotation)?, rotary(&k, rotation)?);
        let y = attention(&q, &k, &v, ancestry, self.head_dim)?;
        Ok([q, k, v, y])
    }

    fn change(&self, [_, _, _, y]: &Self::Kept) -> Result<Tensor> {
        frozen_linear(y, &self.o)
    }

    fn backward(
        &self,
        x: &[f32],
        [q, k, v, y]: &Self::Kept,
        (rotation, ancestry): &Self::Rows,
        g: &Tensor,
    ) -> Result<Vec<f32>> {
        let gy = through(&[(&self.o, g)])?;
        let op = Attention {
            ancestry: ancestry.clone(),
            head_dim: self.head_dim,
            heads: q.dims()[1] / self.head_dim,
            kv_heads: k.dims()[1] / self.head_dim,
        };
        let heads = with_data(q, |q| {
            with_data(k, |k| {
                with_data(v, |v| {
                    with_data(y, |y| Ok(op.backward(Heads { q, k, v }, y, &gy)))
                })
            })
        })?;
        let back = rotation.inverse();
        let gq = rotary(&table(heads.q, q)?, &back)?;
        let gk = rotary(&table(heads.k, k)?, &back)?;
        let gv = table(heads.v, v)?;
        let gh = through(&[(&self.q, &gq), (&self.k, &gk), (&self.v, &gv)])?;
        with_data(&self.norm, |w| {
            with_data(g, |g| Ok(norm_backward(x, w, gh, Some(g), self.eps as f32)))
        })
    }
}

/// `sum_i g_i W_i`: the gradient (N, I) of what several linear layers read; at once where
/// weights are held in full, one after the other where each is made full to be read.
fn through(layers: &[(&Arc<dyn FrozenMatrix>, &Tensor)]) -> Result<Vec<f32>> {
    let weight = |(matrix, _): &(&Arc<dyn FrozenMatrix>, &Tensor)| matrix.weight();
    if layers.iter().all(|(matrix, _)| matrix.is_full()) {
        let weights = layers.iter().map(weight).collect::<Result<Vec<_>>>()?;
        let pairs = layers
            .iter()
            .zip(&weights)
            .map(|((_, g), weight)| (*g, weight));
        return products_back(&pairs.collect::<Vec<_>>());
    }
    let mut sum = Vec::new();
    for layer in layers {
        let gx = products_back(&[(layer.1, &weight(layer)?)])?;
        sum = match sum.is_empty() {
            true => gx,
            false => sum_of(&sum, &gx),
        };
    }
    Ok(sum)
}

/// What several linear layers make of `h`, at once where products run in the pool.
fn of_all<const N: usize>(h: &Tensor, layers: [&Arc<dyn FrozenMatrix>; N]) -> Result<[Tensor; N]> {
    let all: Vec<_> = match fused(h) {
        true => layers
            .par_iter()
            .map(|matrix| frozen_linear(h, matrix))
            .collect::<Result<_>>(),
        false => layers
            .iter()
            .map(|matrix| frozen_linear(h, matrix))
            .collect(),
    }?;
    all.try_into()
        .map_err(|_| candle_core::Error::Msg("as many as layers".into()))
}

fn table(data: Vec<f32>, like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(data, like.shape(), like.device())
}
