//! A frozen linear layer, alone or with a low-rank update.

use candle_core::{Result, Tensor};
use reptune_kernels::{self as kernels, FrozenMatrix, takes};
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

/// A frozen linear layer with a low-rank update, differentiable in x, A and B.
///
/// `y = x W^T + scale (x A^T) B^T`
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

/// [`lora_linear`] composed of single operations; the factors are converted to the dtype of
/// `x`.
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
