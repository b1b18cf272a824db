//! Gates that decide once per prompt: read before anything is steered.
//!
//! See `reptune_adapters::steering::gate` for why this takes a forward of its own. What is
//! decided here becomes token masks by
//! `reptune_adapters::steering::intervention::token_mask_gated`.

use crate::batch::{Most, TOKENS_PER_FORWARD, batches};
use crate::error::{Error, Result};
use candle_core::DType;
use reptune_adapters::model::prefix_tree::TokenMask;
use reptune_adapters::{Adapter, Decide, ForwardOptions, Gate, HookedModel, Intervention};

/// For every prompt, the gates that are open: bit i says whether the gate of intervention
/// i, if it decides once per prompt, opened. All other bits are set.
///
/// `open = h[last token] . g > threshold` (or `<`), with h the output of the gate's layer
/// in the model without interventions but with `adapter`. Without a gate of that kind
/// nothing is computed.
///
/// # Errors
/// When a prompt is empty, a layer or a width does not fit, or the model fails.
pub fn open_gates<P: AsRef<[u32]>>(
    model: &dyn HookedModel,
    prompts: &[P],
    interventions: &[Intervention],
    adapter: Option<&Adapter>,
) -> Result<Vec<TokenMask>> {
    let mut open = vec![TokenMask::MAX; prompts.len()];
    let gates: Vec<(usize, usize, &Gate)> = interventions
        .iter()
        .enumerate()
        .take(TokenMask::BITS as usize)
        .filter_map(|(i, x)| match (x.gate(), x.gate().map(Gate::decide)) {
            (Some(gate), Some(Decide::OncePerPrompt { layer })) => Some((i, layer, gate)),
            _ => None,
        })
        .collect();
    if gates.is_empty() {
        return Ok(open);
    }
    let mut layers: Vec<usize> = gates.iter().map(|(_, layer, _)| *layer).collect();
    layers.sort_unstable();
    layers.dedup();
    model.spec().check_layers(&layers)?;
    for batch in batches(prompts, Most::Total(TOKENS_PER_FORWARD), |_, _| 0) {
        let mut last = Vec::new();
        for (i, path) in batch.prompts.clone().zip(&batch.paths) {
            last.push(*path.last().ok_or_else(|| no_tokens(i))?);
        }
        let options = ForwardOptions {
            capture: &layers,
            adapter,
            ..ForwardOptions::default()
        };
        let output = batch.forward(model, &options)?;
        for (i, layer, gate) in &gates {
            let h = output.residuals[layer].detach().to_dtype(DType::F32)?;
            for (prompt, &token) in batch.prompts.clone().zip(&last) {
                if gate.rows(&h, *layer, &[token])?.is_empty() {
                    open[prompt] &= !(1 << i);
                }
            }
        }
    }
    Ok(open)
}

/// The error of a prompt without tokens.
pub(crate) fn no_tokens(prompt: usize) -> Error {
    let what = format!("prompt {prompt}");
    Error::value(what, "at least one token", "none", "give a prompt")
}
