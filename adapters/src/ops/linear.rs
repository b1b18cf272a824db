//! A frozen linear layer, alone or with a low-rank update, and the two halves of a block that
//! are made of such layers.

use super::attention::attention;
use super::row_wise::{head_norm, rms_norm, rotary, swiglu};
use candle_core::{Result, Tensor};
use reptune_kernels::{self as kernels, Ancestors, Factors, FrozenAttention, FrozenMatrix};
use reptune_kernels::{FrozenMlp, GradientCheckpointing, Rotation, takes};
use std::sync::Arc;

pub use reptune_kernels::frozen_linear;

/// [`frozen_linear`] composed of candle operations; also differentiates by the weight, if
/// that is tracked.
///
/// # Errors
/// When the shapes do not fit.
pub fn frozen_linear_composed(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.matmul(&weight.t()?)
}

/// A frozen linear layer with a low-rank update, `y = x W^T + scale (x A^T) B^T`,
/// differentiable in x, A and B.
///
/// Shapes: `x` (N, I), `a` (R, I), `b` (O, R), result (N, O).
///
/// # Errors
/// When the shapes do not fit.
pub fn lora_linear(
    x: &Tensor,
    matrix: &Arc<dyn FrozenMatrix>,
    (a, b): (&Tensor, &Tensor),
    scale: f64,
) -> Result<Tensor> {
    match [x, a, b].into_iter().all(takes) {
        true => kernels::lora_linear(x, matrix, (a, b), scale),
        false => lora_linear_composed(x, matrix, (a, b), scale),
    }
}

/// [`lora_linear`] composed of single operations, with factors in the dtype of `x`.
///
/// # Errors
/// When the shapes do not fit.
pub fn lora_linear_composed(
    x: &Tensor,
    matrix: &Arc<dyn FrozenMatrix>,
    (a, b): (&Tensor, &Tensor),
    scale: f64,
) -> Result<Tensor> {
    let (a, b) = (like(a, x)?, like(b, x)?);
    frozen_linear(x, matrix)? + (x.matmul(&a.t()?)?.matmul(&b.t()?)? * scale)?
}

/// `t` on the device and in the dtype of `x`.
pub(crate) fn like(t: &Tensor, x: &Tensor) -> Result<Tensor> {
    t.to_device(x.device())?.to_dtype(x.dtype())
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
    match all_taken(x, &updates) {
        true => kernels::mlp_half(x, weights, updates, keep),
        false => mlp_half_composed(x, weights, updates),
    }
}

/// [`mlp_half`] composed of single operations.
///
/// # Errors
/// When the shapes do not fit.
pub fn mlp_half_composed(
    x: &Tensor,
    weights: &FrozenMlp,
    [gate, up, down]: [Option<Factors>; 3],
) -> Result<Tensor> {
    let h = rms_norm(x, &weights.norm, weights.eps)?;
    let gate = linear(&h, &weights.gate, gate)?;
    let up = linear(&h, &weights.up, up)?;
    x + linear(&swiglu(&gate, &up)?, &weights.down, down)?
}

/// The attention half of a block, `y = x + o(attention(rotary(q(h)), rotary(k(h)), v(h)))` with
/// `h = norm(x)`, differentiable in `x` and in the factors. Where `weights` has norms of heads,
/// those of q and k are normalised before they are rotated.
///
/// Shapes: `x` (N, H), result (N, H); `updates` of q, k, v and o; `rotation` and `ancestors`
/// of the N tokens.
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
    match all_taken(x, &updates) {
        true => kernels::attention_half(x, weights, updates, (rotation, ancestors), keep),
        false => attention_half_composed(x, weights, updates, (rotation, ancestors)),
    }
}

/// [`attention_half`] composed of single operations.
///
/// # Errors
/// When the shapes do not fit.
pub fn attention_half_composed(
    x: &Tensor,
    weights: &FrozenAttention,
    [q, k, v, o]: [Option<Factors>; 4],
    (rotation, ancestors): (&Rotation, &Arc<Ancestors>),
) -> Result<Tensor> {
    let h = rms_norm(x, &weights.norm, weights.eps)?;
    let (mut q, mut k) = (linear(&h, &weights.q, q)?, linear(&h, &weights.k, k)?);
    if let Some([of_q, of_k]) = &weights.head_norms {
        q = head_norm(&q, of_q, weights.eps)?;
        k = head_norm(&k, of_k, weights.eps)?;
    }
    let (q, k) = (rotary(&q, rotation)?, rotary(&k, rotation)?);
    let v = linear(&h, &weights.v, v)?;
    let y = attention(&q, &k, &v, ancestors, weights.head_dim)?;
    x + linear(&y, &weights.o, o)?
}

fn all_taken(x: &Tensor, updates: &[Option<Factors>]) -> bool {
    let mut factors = updates.iter().flatten().flat_map(|(a, b, _)| [*a, *b]);
    takes(x) && factors.all(takes)
}

/// A linear layer with an update or none.
fn linear(h: &Tensor, matrix: &Arc<dyn FrozenMatrix>, update: Option<Factors>) -> Result<Tensor> {
    match update {
        None => frozen_linear(h, matrix),
        Some((a, b, scale)) => lora_linear(h, matrix, (a, b), scale),
    }
}
