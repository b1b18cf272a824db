//! Operations on each token for itself: norm, rotation, gated activation and loss.

use candle_core::{D, DType, Result, Tensor};
use reptune_kernels::{self as kernels, Rotation, Target, takes};

/// Normalises every row to a root mean square of 1 and scales its columns:
/// `y[n] = w * x[n] / sqrt(mean(x[n]^2) + eps)`.
///
/// Shapes: `x` (N, H), `weight` (H,), result (N, H).
///
/// # Errors
/// When the shapes do not fit.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    match takes(x) {
        true => kernels::rms_norm(x, weight, eps),
        false => rms_norm_composed(x, weight, eps),
    }
}

/// [`rms_norm`] composed of candle operations.
///
/// # Errors
/// When the shapes do not fit.
pub fn rms_norm_composed(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let wide = x.to_dtype(DType::F32)?;
    let mean = wide.sqr()?.mean_keepdim(D::Minus1)?;
    wide.broadcast_div(&(mean + eps)?.sqrt()?)?
        .to_dtype(x.dtype())?
        .broadcast_mul(weight)
}

/// [`rms_norm`] of every head of every row for itself.
///
/// Shapes: `x` (N, heads * D), `weight` (D,), result (N, heads * D).
///
/// # Errors
/// When the shapes do not fit.
pub fn head_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let heads = x.reshape(((), weight.dim(0)?))?; // (N * heads, D)
    rms_norm(&heads, weight, eps)?.reshape(x.dims())
}

/// Rotates every head of every token by the angles of its position:
/// `y = (x1 cos - x2 sin, x2 cos + x1 sin)`. The pairs are (i, i + D / 2), as in Hugging Face's
/// decoders.
///
/// Shapes: `x` (N, heads * D), result the same.
///
/// # Errors
/// When the shapes do not fit.
pub fn rotary(x: &Tensor, rotation: &Rotation) -> Result<Tensor> {
    match takes(x) {
        true => kernels::rotary(x, rotation),
        false => rotary_composed(x, rotation),
    }
}

/// [`rotary`] composed of candle operations.
///
/// # Errors
/// When the shapes do not fit.
pub fn rotary_composed(x: &Tensor, rotation: &Rotation) -> Result<Tensor> {
    let (n, width) = x.dims2()?;
    let half = rotation.half();
    let (cos, sin) = rotation.tensors(x.dtype(), x.device())?; // (N, 1, D / 2)
    let x = x.reshape((n, width / (2 * half), 2 * half))?; // (N, heads, D)
    let (x1, x2) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
    let y1 = (x1.broadcast_mul(&cos)? - x2.broadcast_mul(&sin)?)?;
    let y2 = (x2.broadcast_mul(&cos)? + x1.broadcast_mul(&sin)?)?;
    Tensor::cat(&[y1, y2], 2)?.reshape((n, width))
}

/// Multiplies `up` by the SiLU of `gate`: `y = gate * sigmoid(gate) * up`.
///
/// Shapes: all (N, I).
///
/// # Errors
/// When the shapes differ.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    match takes(gate) {
        true => kernels::swiglu(gate, up),
        false => swiglu_composed(gate, up),
    }
}

/// [`swiglu`] composed of candle operations.
///
/// # Errors
/// When the shapes differ.
pub fn swiglu_composed(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.silu()? * up
}

/// Sum of weighted cross-entropies.
///
/// `loss = sum_t weight_t * (logsumexp(logits[row_t]) - logits[row_t, token_t])`
///
/// A soft label is two targets of half weight; a token that several prompts share has the
/// targets of all of them.
///
/// Shapes: `logits` (N, V), result a scalar.
///
/// # Errors
/// When a target lies outside of the logits.
pub fn target_loss(logits: &Tensor, targets: &[Target]) -> Result<Tensor> {
    match takes(logits) {
        true => kernels::target_loss(logits, targets),
        false => target_loss_composed(logits, targets),
    }
}

/// [`target_loss`] composed of candle operations.
///
/// # Errors
/// When a target lies outside of the logits.
pub fn target_loss_composed(logits: &Tensor, targets: &[Target]) -> Result<Tensor> {
    let column =
        |f: &dyn Fn(&Target) -> u32| Tensor::from_iter(targets.iter().map(f), logits.device());
    let logits = logits.to_dtype(DType::F32)?;
    let logp = candle_nn::ops::log_softmax(&logits, 1)?.index_select(&column(&|t| t.row)?, 0)?; // (targets, V)
    let picked = logp
        .gather(&column(&|t| t.token)?.unsqueeze(1)?, 1)?
        .squeeze(1)?;
    let weights = Tensor::from_iter(targets.iter().map(|t| t.weight), logits.device())?;
    (picked * weights)?.sum_all()?.neg()
}
