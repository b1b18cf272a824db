//! Weighted cross-entropy against any number of target tokens per row.

use candle_core::{DType, Result, Tensor};
use reptune_kernels::{self as kernels, Target, takes};

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
