//! The two halves of a block, each as one op: frozen layers, and low-rank updates on some.
//!
//! Composed of single operations, a half block keeps every intermediate table for its
//! backward, and gradients are summed table by table. As one operation it keeps only what the
//! backward needs, or (with gradient checkpointing) only its input, and returns one gradient.

use crate::ancestors::Ancestors;
use crate::attention::{Attention, Heads, attention};
use crate::checkpointing::GradientCheckpointing;
use crate::frozen_linear::{FrozenMatrix, frozen_linear};
use crate::lora_linear::{Small, lora_linear, small_gradients};
use crate::product::products_back;
use crate::rms_norm::{backward as norm_backward, rms_norm};
use crate::rotary::{Turn, rotary, rotated};
use crate::rotation::Rotation;
use crate::slice::{sum_of, tensor, with_data};
use crate::swiglu::{backward as swiglu_backward, swiglu};
use candle_core::{CpuStorage, CustomOp2, DType, Device, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;
use std::sync::{Arc, Mutex, PoisonError};

/// Factors A (R, I) and B (O, R) of the low-rank update of a layer, and its scale.
pub type Factors<'a> = (&'a Tensor, &'a Tensor, f64);

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

/// The MLP half of a block, differentiable in `x` and in the factors.
///
/// `y = x + down(swiglu(gate(h), up(h)))` with `h = norm(x)`
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

/// The attention half of a block, differentiable in `x` and in the factors.
///
/// `y = x + o(attention(rotary(q(h)), rotary(k(h)), v(h)))` with `h = norm(x)`
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

/// Gradients of every update's factors, and that of the rows (N, H) if it is asked for.
type Gradients = (Vec<Option<Small>>, Option<Vec<f32>>);

/// Half a block, as the op sees it. Updates are those of its layers, in their order.
trait HalfBlock: Send + Sync {
    /// What it needs to know of the rows.
    type Rows: Send + Sync;
    /// Tables that the backward needs.
    type Kept: Send + Sync;

    const NAME: &'static str;

    fn kept(
        &self,
        x: &Tensor,
        updates: &[Option<Factors>],
        rows: &Self::Rows,
    ) -> Result<Self::Kept>;

    /// What is added to `x`.
    fn change(&self, kept: &Self::Kept, updates: &[Option<Factors>]) -> Result<Tensor>;

    /// Given the gradient of the result; the rows have one where there is something `below`.
    fn backward(
        &self,
        x: &Tensor,
        kept: &Self::Kept,
        updates: &[Option<Factors>],
        rows: &Self::Rows,
        g: &Tensor,
        below: bool,
    ) -> Result<Gradients>;
}

struct Half<W: HalfBlock> {
    weights: Arc<W>,
    factors: Vec<Held>,
    rows: W::Rows,
    kept: Option<W::Kept>,
    /// Computed before the op is applied, which hands it on.
    result: Mutex<Option<Vec<f32>>>,
}

/// Factors of an update and its scale, without a gradient.
type Held = Option<(Tensor, Tensor, f64)>;

fn updates(held: &[Held]) -> Vec<Option<Factors<'_>>> {
    let lent = held.iter().map(Option::as_ref);
    lent.map(|held| held.map(|(a, b, scale)| (a, b, *scale)))
        .collect()
}

impl<W: HalfBlock + 'static> Half<W> {
    fn apply(
        x: &Tensor,
        weights: &Arc<W>,
        updated: &[Option<Factors>],
        rows: W::Rows,
        keep: GradientCheckpointing,
    ) -> Result<Tensor> {
        let x = x.contiguous()?;
        let held = |(a, b, scale): &Factors| (a.detach(), b.detach(), *scale);
        let factors: Vec<Held> = updated.iter().map(|u| u.as_ref().map(held)).collect();
        let kept = weights.kept(&x.detach(), &updates(&factors), &rows)?;
        let change = weights.change(&kept, &updates(&factors))?;
        if change.dims() != x.dims() {
            bail!(
                "{}: {:?} are added to rows {:?}",
                W::NAME,
                change.dims(),
                x.dims()
            )
        }
        let y = with_data([&x, &change], |[x, change]| sum_of(x, change))?;
        let all = updated.iter().flatten().flat_map(|(a, b, _)| [*a, *b]);
        if ![&x].into_iter().chain(all.clone()).any(Tensor::track_op) {
            return tensor(y, &x);
        }
        let op = Self {
            weights: weights.clone(),
            factors,
            rows,
            kept: (keep == GradientCheckpointing::Off).then_some(kept),
            result: Mutex::new(Some(y)),
        };
        // an op takes three arguments at most: all factors are one
        let all = all.map(Tensor::flatten_all);
        let all = match all.collect::<Result<Vec<_>>>()? {
            none if none.is_empty() => Tensor::zeros(0, DType::F32, &Device::Cpu)?,
            all => Tensor::cat(&all, 0)?,
        };
        x.apply_op2(&all.contiguous()?, op)
    }
}

impl<W: HalfBlock + 'static> CustomOp2 for Half<W> {
    fn name(&self) -> &'static str {
        W::NAME
    }

    fn cpu_fwd(
        &self,
        _s1: &CpuStorage,
        l1: &Layout,
        _s2: &CpuStorage,
        _l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let mut result = self.result.lock().unwrap_or_else(PoisonError::into_inner);
        match result.take() {
            Some(y) => Ok((CpuStorage::F32(y), l1.shape().clone())),
            None => bail!("{}: is applied once", W::NAME),
        }
    }

    fn bwd(
        &self,
        x: &Tensor,
        all: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (below, x) = (x.track_op(), x.detach());
        let updates = updates(&self.factors);
        let again;
        let kept = match &self.kept {
            Some(kept) => kept,
            None => {
                again = self.weights.kept(&x, &updates, &self.rows)?;
                &again
            }
        };
        let (small, gx) = self
            .weights
            .backward(&x, kept, &updates, &self.rows, grad, below)?;
        let small = small.into_iter().flatten().flat_map(|s| [s.a, s.b]);
        let small = small.flatten().collect::<Vec<_>>();
        let gx = gx.map(|gx| tensor(gx, &x)).transpose()?;
        Ok((gx, Some(tensor(small, all)?)))
    }
}

impl HalfBlock for FrozenMlp {
    type Rows = ();
    /// Gate and up.
    type Kept = [Tensor; 2];
    const NAME: &'static str = "mlp_half";

    fn kept(&self, x: &Tensor, updates: &[Option<Factors>], _rows: &()) -> Result<Self::Kept> {
        let h = rms_norm(x, &self.norm, self.eps)?;
        of_all(&h, [(&self.gate, updates[0]), (&self.up, updates[1])])
    }

    fn change(&self, [gate, up]: &Self::Kept, updates: &[Option<Factors>]) -> Result<Tensor> {
        linear(&swiglu(gate, up)?, &self.down, updates[2])
    }

    fn backward(
        &self,
        x: &Tensor,
        [gate, up]: &Self::Kept,
        updates: &[Option<Factors>],
        _rows: &(),
        g: &Tensor,
        below: bool,
    ) -> Result<Gradients> {
        let y = updates[2].map(|_| swiglu(gate, up)).transpose()?;
        let down = Passed::back(&self.down, g, updates[2], y.as_ref())?;
        let read = updates[..2].iter().any(Option::is_some);
        if !below && !read {
            return Ok((vec![None, None, down.small], None));
        }
        let ga = through(&[&down])?;
        let (gg, gu) = with_data([gate, up], |[gate, up]| swiglu_backward(gate, up, ga))?;
        let (gg, gu) = (tensor(gg, gate)?, tensor(gu, up)?);
        let h = read
            .then(|| rms_norm(x, &self.norm, self.eps))
            .transpose()?;
        let gate = Passed::back(&self.gate, &gg, updates[0], h.as_ref())?;
        let up = Passed::back(&self.up, &gu, updates[1], h.as_ref())?;
        let gx = below.then(|| before((&self.norm, self.eps), x, through(&[&gate, &up])?, g));
        Ok((vec![gate.small, up.small, down.small], gx.transpose()?))
    }
}

impl HalfBlock for FrozenAttention {
    type Rows = (Rotation, Arc<Ancestors>);
    /// Rotated queries and keys, values, and what attention made of them.
    type Kept = [Tensor; 4];
    const NAME: &'static str = "attention_half";

    fn kept(
        &self,
        x: &Tensor,
        updates: &[Option<Factors>],
        (rotation, ancestors): &Self::Rows,
    ) -> Result<Self::Kept> {
        let h = rms_norm(x, &self.norm, self.eps)?;
        let layers = [
            (&self.q, updates[0]),
            (&self.k, updates[1]),
            (&self.v, updates[2]),
        ];
        let [q, k, v] = of_all(&h, layers)?;
        let (q, k) = (rotary(&q, rotation)?, rotary(&k, rotation)?);
        let y = attention(&q, &k, &v, ancestors, self.head_dim)?;
        Ok([q, k, v, y])
    }

    fn change(&self, [_, _, _, y]: &Self::Kept, updates: &[Option<Factors>]) -> Result<Tensor> {
        linear(y, &self.o, updates[3])
    }

    fn backward(
        &self,
        x: &Tensor,
        [q, k, v, y]: &Self::Kept,
        updates: &[Option<Factors>],
        (rotation, ancestors): &Self::Rows,
        g: &Tensor,
        below: bool,
    ) -> Result<Gradients> {
        let o = Passed::back(&self.o, g, updates[3], Some(y))?;
        let read = updates[..3].iter().any(Option::is_some);
        if !below && !read {
            return Ok((vec![None, None, None, o.small], None));
        }
        let gy = through(&[&o])?;
        let op = Attention {
            ancestors: ancestors.clone(),
            head_dim: self.head_dim,
            heads: q.dims()[1] / self.head_dim,
            kv_heads: k.dims()[1] / self.head_dim,
        };
        let through_scores = below || updates[..2].iter().any(Option::is_some);
        let heads = with_data([q, k, v, y], |[q, k, v, y]| {
            op.backward(Heads { q, k, v }, y, &gy, through_scores)
        })?;
        let rows = x.dim(0)?;
        let gq = tensor(rotated(rotation, &heads.q, rows, Turn::Back), q)?;
        let gk = tensor(rotated(rotation, &heads.k, rows, Turn::Back), k)?;
        let gv = tensor(heads.v, v)?;
        let h = read
            .then(|| rms_norm(x, &self.norm, self.eps))
            .transpose()?;
        let q = Passed::back(&self.q, &gq, updates[0], h.as_ref())?;
        let k = Passed::back(&self.k, &gk, updates[1], h.as_ref())?;
        let v = Passed::back(&self.v, &gv, updates[2], h.as_ref())?;
        let gx = below.then(|| before((&self.norm, self.eps), x, through(&[&q, &k, &v])?, g));
        Ok((vec![q.small, k.small, v.small, o.small], gx.transpose()?))
    }
}

/// The gradient of `x`, given that of its norm and of the result of the half block.
fn before((norm, eps): (&Tensor, f64), x: &Tensor, gh: Vec<f32>, g: &Tensor) -> Result<Vec<f32>> {
    with_data([x, norm, g], |[x, w, g]| {
        norm_backward(x, w, gh, Some(g), eps as f32)
    })
}

/// A linear layer with an update or none.
fn linear(h: &Tensor, matrix: &Arc<dyn FrozenMatrix>, update: Option<Factors>) -> Result<Tensor> {
    match update {
        None => frozen_linear(h, matrix),
        Some((a, b, scale)) => lora_linear(h, matrix, (a, b), scale),
    }
}

/// What several linear layers make of `h`, computed at the same time.
fn of_all<const N: usize>(
    h: &Tensor,
    layers: [(&Arc<dyn FrozenMatrix>, Option<Factors>); N],
) -> Result<[Tensor; N]> {
    let of =
        |(matrix, update): &(&Arc<dyn FrozenMatrix>, Option<Factors>)| linear(h, matrix, *update);
    let all: Vec<_> = layers.par_iter().map(of).collect::<Result<_>>()?;
    all.try_into()
        .map_err(|_| candle_core::Error::Msg("as many as layers".into()))
}

/// A layer, the gradient of its result, and what is known of its update.
struct Passed<'a> {
    matrix: &'a Arc<dyn FrozenMatrix>,
    g: &'a Tensor,
    a: Option<&'a Tensor>,
    small: Option<Small>,
}

impl<'a> Passed<'a> {
    /// `h`: the rows that the layer read, if it is updated.
    fn back(
        matrix: &'a Arc<dyn FrozenMatrix>,
        g: &'a Tensor,
        update: Option<Factors<'a>>,
        h: Option<&Tensor>,
    ) -> Result<Self> {
        let small = update.zip(h);
        let small = small.map(|((a, b, scale), h)| small_gradients(h, g, (a, b), scale as f32));
        Ok(Self {
            matrix,
            g,
            a: update.map(|(a, _, _)| a),
            small: small.transpose()?,
        })
    }
}

/// `sum_i g_i (W_i + scale B_i A_i)`: the gradient (N, I) of what several linear layers read; at
/// once where weights are held in full, one after the other where each is made full to be read.
fn through(layers: &[&Passed]) -> Result<Vec<f32>> {
    let full = layers.iter().all(|layer| layer.matrix.is_full());
    let mut sum = Vec::new();
    for layers in layers.chunks(if full { layers.len() } else { 1 }) {
        let weights = layers.iter().map(|layer| layer.matrix.weight());
        let weights = weights.collect::<Result<Vec<_>>>()?;
        let frozen = layers.iter().map(|layer| layer.g).zip(&weights);
        let small = layers.iter().filter_map(|layer| {
            let small = layer.small.as_ref()?;
            Some((&small.back, layer.a?))
        });
        let gx = products_back(&frozen.chain(small).collect::<Vec<_>>())?;
        sum = match sum.is_empty() {
            true => gx,
            false => sum_of(&sum, &gx),
        };
    }
    Ok(sum)
}
