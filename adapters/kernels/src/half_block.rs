//! The two halves of a block, each as one op: frozen layers, and low-rank updates on some.
//!
//! Composed of single operations, a half block keeps every intermediate table for its
//! backward, and gradients are summed table by table. As one operation it keeps only what the
//! backward needs, or (with gradient checkpointing) only its input, and returns one gradient.

use crate::ancestors::Ancestors;
use crate::attention::{Attention, attention};
use crate::linear::{FrozenMatrix, Small, frozen_linear, lora_linear};
use crate::linear::{products_back, small_gradients};
use crate::recorded::recorded;
use crate::row_wise::{
    Rotation, norm_backward, rms_norm, rotary, rotated, swiglu, swiglu_backward,
};
use crate::slice::{sum_of, tensor, with_data};
use candle_core::{DType, Device, Result, Tensor, bail};
use rayon::prelude::*;
use std::sync::Arc;

/// What a forward keeps for its backward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GradientCheckpointing {
    /// Everything.
    #[default]
    Off,
    /// The input of every block; the backward runs each block again.
    On,
}

/// Factors A (R, I) and B (O, R) of the low-rank update of a layer, and its scale.
pub type Factors<'a> = (&'a Tensor, &'a Tensor, f64);

type Weight = Arc<dyn FrozenMatrix>;

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
    /// Weights (D,) of the norms of every head of q and of k before they are rotated, if there
    /// are such; their epsilon is `eps` too.
    pub head_norms: Option<[Tensor; 2]>,
    /// (heads * D, H).
    pub q: Arc<dyn FrozenMatrix>,
    /// (kv_heads * D, H).
    pub k: Arc<dyn FrozenMatrix>,
    /// (kv_heads * D, H).
    pub v: Arc<dyn FrozenMatrix>,
    /// (H, heads * D).
    pub o: Arc<dyn FrozenMatrix>,
}

/// The MLP half of a block, `y = x + down(swiglu(gate(h), up(h)))` with `h = norm(x)`,
/// differentiable in `x` and in the factors.
///
/// Shapes: `x` (N, H), result (N, H); `updates` of gate, up and down.
///
/// # Errors
/// When the shapes do not fit.
pub fn mlp_half(
    x: &Tensor,
    weights: &Arc<FrozenMlp>,
    updates: [Option<Factors>; 3],
    keep: GradientCheckpointing,
) -> Result<Tensor> {
    Half::apply(x, weights, &updates, (), keep)
}

/// The attention half of a block, `y = x + o(attention(rotary(q(h)), rotary(k(h)), v(h)))` with
/// `h = norm(x)`, differentiable in `x` and in the factors. Where `weights` has norms of heads,
/// those of q and k are normalised before they are rotated.
///
/// Shapes: `x` (N, H), result (N, H); `updates` of q, k, v and o; `rotation` and `ancestors` of
/// the N tokens.
///
/// # Errors
/// When the shapes do not fit.
pub fn attention_half(
    x: &Tensor,
    weights: &Arc<FrozenAttention>,
    updates: [Option<Factors>; 4],
    (rotation, ancestors): (&Rotation, &Arc<Ancestors>),
    keep: GradientCheckpointing,
) -> Result<Tensor> {
    let rows = (rotation.clone(), ancestors.clone());
    Half::apply(x, weights, &updates, rows, keep)
}

/// Half a block: layers that read the norm of its rows, an operation on what they give, and a
/// layer whose result is added to the rows. Updates are those of its layers, in this order.
trait HalfBlock: Send + Sync + 'static {
    /// What the operation needs to know of the rows.
    type Rows: Send + Sync;

    const NAME: &'static str;

    /// Weight and epsilon of the norm, the layers that read it, and the last layer.
    fn parts(&self) -> (&Tensor, f64, Vec<&Weight>, &Weight);

    /// Tables that the backward needs, from the results of the layers that read the norm.
    fn kept(&self, results: Vec<Tensor>, rows: &Self::Rows) -> Result<Vec<Tensor>>;

    /// What the last layer reads.
    fn inner(&self, kept: &[Tensor]) -> Result<Tensor>;

    /// Gradients of the results of the layers that read the norm, given that of what the last
    /// layer reads; those of queries and keys are needed only if `scores` is true.
    fn back(
        &self,
        kept: &[Tensor],
        rows: &Self::Rows,
        g: Vec<f32>,
        scores: bool,
    ) -> Result<Vec<Tensor>>;
}

/// A half block with its updates, without their gradients, and what it knows of the rows.
struct Half<W: HalfBlock> {
    weights: Arc<W>,
    updates: Vec<Option<(Tensor, Tensor, f64)>>,
    rows: W::Rows,
}

impl<W: HalfBlock> Half<W> {
    fn apply(
        x: &Tensor,
        weights: &Arc<W>,
        given: &[Option<Factors>],
        rows: W::Rows,
        keep: GradientCheckpointing,
    ) -> Result<Tensor> {
        let x = &x.contiguous()?;
        let held = |(a, b, scale): &Factors| (a.detach(), b.detach(), *scale);
        let half = Self {
            weights: weights.clone(),
            updates: given.iter().map(|u| u.as_ref().map(held)).collect(),
            rows,
        };
        let kept = half.kept(&x.detach())?;
        let (_, _, first, last) = weights.parts();
        let change = linear(&weights.inner(&kept)?, last, half.update(first.len()))?;
        if change.dims() != x.dims() {
            let (change, x) = (change.dims(), x.dims());
            bail!("{}: {change:?} are added to rows {x:?}", W::NAME)
        }
        let y = with_data([x, &change], |[x, change]| sum_of(x, change))?;
        let all = given.iter().flatten().flat_map(|(a, b, _)| [*a, *b]);
        if ![x].into_iter().chain(all.clone()).any(Tensor::track_op) {
            return tensor(y, x);
        }
        let kept = (keep == GradientCheckpointing::Off).then_some(kept);
        // an op takes three arguments at most: all factors are one
        let all = all.map(Tensor::flatten_all);
        let all = match all.collect::<Result<Vec<_>>>()? {
            none if none.is_empty() => Tensor::zeros(0, DType::F32, &Device::Cpu)?,
            all => Tensor::cat(&all, 0)?.contiguous()?,
        };
        let y = (y, x.shape().clone());
        recorded(W::NAME, [x, &all], y, move |[x, all], _, g| {
            let (gx, small) = match &kept {
                Some(kept) => half.backward(x, kept, g)?,
                None => half.backward(x, &half.kept(&x.detach())?, g)?,
            };
            let gx = gx.map(|gx| tensor(gx, x)).transpose()?;
            Ok([gx, Some(tensor(small, all)?)])
        })
    }

    fn update(&self, layer: usize) -> Option<Factors<'_>> {
        let update = self.updates[layer].as_ref();
        update.map(|(a, b, scale)| (a, b, *scale))
    }

    /// The first layers are computed at the same time.
    fn kept(&self, x: &Tensor) -> Result<Vec<Tensor>> {
        let (norm, eps, first, _) = self.weights.parts();
        let h = rms_norm(x, norm, eps)?;
        let layers = first.par_iter().enumerate();
        let results = layers.map(|(i, matrix)| linear(&h, matrix, self.update(i)));
        let results = results.collect::<Result<_>>()?;
        self.weights.kept(results, &self.rows)
    }

    /// Gradients of the rows (N, H), if they are tracked, and of all factors.
    fn backward(
        &self,
        x: &Tensor,
        kept: &[Tensor],
        g: &Tensor,
    ) -> Result<(Option<Vec<f32>>, Vec<f32>)> {
        let (below, x) = (x.track_op(), &x.detach());
        let (norm, eps, first, last) = self.weights.parts();
        let y = self.update(first.len());
        let y = y.map(|_| self.weights.inner(kept)).transpose()?;
        let last = Passed::back(last, g, self.update(first.len()), y.as_ref())?;
        let read = self.updates[..first.len()].iter().any(Option::is_some);
        let results;
        let mut passed = Vec::new();
        if below || read {
            let gy = through(std::slice::from_ref(&last))?;
            let scores = below || self.updates[..2].iter().any(Option::is_some);
            results = self.weights.back(kept, &self.rows, gy, scores)?;
            let h = read.then(|| rms_norm(x, norm, eps)).transpose()?;
            for (i, (matrix, g)) in first.iter().zip(&results).enumerate() {
                passed.push(Passed::back(matrix, g, self.update(i), h.as_ref())?);
            }
        }
        let gx = below.then(|| {
            let (gh, eps) = (through(&passed)?, eps as f32);
            with_data([x, norm, g], |[x, w, g]| {
                norm_backward(x, w, gh, Some(g), eps)
            })
        });
        let gx = gx.transpose()?;
        passed.push(last);
        let small = passed.into_iter().filter_map(|layer| layer.small);
        let factors = small.flat_map(|(small, _)| [small.a, small.b]).flatten();
        Ok((gx, factors.collect()))
    }
}

impl HalfBlock for FrozenMlp {
    type Rows = ();
    const NAME: &'static str = "mlp_half";

    fn parts(&self) -> (&Tensor, f64, Vec<&Weight>, &Weight) {
        (&self.norm, self.eps, vec![&self.gate, &self.up], &self.down)
    }

    fn kept(&self, gate_and_up: Vec<Tensor>, _rows: &()) -> Result<Vec<Tensor>> {
        Ok(gate_and_up)
    }

    fn inner(&self, kept: &[Tensor]) -> Result<Tensor> {
        swiglu(&kept[0], &kept[1])
    }

    fn back(&self, kept: &[Tensor], _rows: &(), g: Vec<f32>, _: bool) -> Result<Vec<Tensor>> {
        let (gate, up) = (&kept[0], &kept[1]);
        let (gg, gu) = with_data([gate, up], |[gate, up]| swiglu_backward(gate, up, g))?;
        Ok(vec![tensor(gg, gate)?, tensor(gu, up)?])
    }
}

impl HalfBlock for FrozenAttention {
    type Rows = (Rotation, Arc<Ancestors>);
    const NAME: &'static str = "attention_half";

    fn parts(&self) -> (&Tensor, f64, Vec<&Weight>, &Weight) {
        let first = vec![&self.q, &self.k, &self.v];
        (&self.norm, self.eps, first, &self.o)
    }

    /// Rotated queries and keys, values, and the result of attention; then queries and keys
    /// before their heads are normalised, if they are.
    fn kept(&self, qkv: Vec<Tensor>, (rotation, ancestors): &Self::Rows) -> Result<Vec<Tensor>> {
        let rotated = |i: usize| match &self.head_norms {
            // the norm of a table goes through it by the width of its weight: head by head
            Some(norms) => rotary(&rms_norm(&qkv[i], &norms[i], self.eps)?, rotation),
            None => rotary(&qkv[i], rotation),
        };
        let (q, k, v) = (rotated(0)?, rotated(1)?, qkv[2].clone());
        let y = attention(&q, &k, &v, ancestors, self.head_dim)?;
        let mut kept = vec![q, k, v, y];
        if self.head_norms.is_some() {
            kept.extend_from_slice(&qkv[..2]);
        }
        Ok(kept)
    }

    fn inner(&self, kept: &[Tensor]) -> Result<Tensor> {
        Ok(kept[3].clone())
    }

    fn back(
        &self,
        kept: &[Tensor],
        (rotation, ancestors): &Self::Rows,
        g: Vec<f32>,
        scores: bool,
    ) -> Result<Vec<Tensor>> {
        let (q, k, v, y) = (&kept[0], &kept[1], &kept[2], &kept[3]);
        let op = Attention::of((q.dim(1)?, k.dim(1)?), ancestors, self.head_dim);
        let [gq, gk, gv] = with_data([q, k, v, y], |[q, k, v, y]| {
            op.backward([q, k, v], y, &g, scores)
        })?;
        let back = |g: &[f32], t: &Tensor, i: usize| {
            let g = rotated(rotation, g, t.dims()[0], -1.);
            let Some(norms) = &self.head_norms else {
                return tensor(g, t);
            };
            let g = with_data([&kept[4 + i], &norms[i]], |[x, w]| {
                norm_backward(x, w, g, None, self.eps as f32)
            })?;
            tensor(g, t)
        };
        Ok(vec![back(&gq, q, 0)?, back(&gk, k, 1)?, tensor(gv, v)?])
    }
}

/// A linear layer with an update or none.
fn linear(h: &Tensor, matrix: &Weight, update: Option<Factors>) -> Result<Tensor> {
    match update {
        None => frozen_linear(h, matrix),
        Some((a, b, scale)) => lora_linear(h, matrix, (a, b), scale),
    }
}

/// A layer, the gradient of its result, and the gradients of its update with its A.
struct Passed<'a> {
    matrix: &'a Weight,
    g: &'a Tensor,
    small: Option<(Small, &'a Tensor)>,
}

impl<'a> Passed<'a> {
    /// `h`: the rows that the layer read, if it is updated.
    fn back(
        matrix: &'a Weight,
        g: &'a Tensor,
        update: Option<Factors<'a>>,
        h: Option<&Tensor>,
    ) -> Result<Self> {
        let small = match update.zip(h) {
            Some(((a, b, scale), h)) => Some((small_gradients(h, g, (a, b), scale as f32)?, a)),
            None => None,
        };
        Ok(Self { matrix, g, small })
    }
}

/// `sum_i g_i (W_i + scale B_i A_i)`: the gradient (N, I) of what several linear layers read; at
/// once where weights are held in full, one after the other where each is made full to be read.
fn through(layers: &[Passed]) -> Result<Vec<f32>> {
    let full = layers.iter().all(|layer| layer.matrix.is_full());
    let mut sum = Vec::new();
    for layers in layers.chunks(if full { layers.len() } else { 1 }) {
        let weights = layers.iter().map(|layer| layer.matrix.weight());
        let weights = weights.collect::<Result<Vec<_>>>()?;
        let frozen = layers.iter().map(|layer| layer.g).zip(&weights);
        let small = layers.iter().filter_map(|layer| layer.small.as_ref());
        let small = small.map(|(small, a)| (&small.back, *a));
        let gx = products_back(&frozen.chain(small).collect::<Vec<_>>())?;
        sum = match sum.is_empty() {
            true => gx,
            false => sum_of(&sum, &gx),
        };
    }
    Ok(sum)
}
