//! Residual rows of prompts, at any layers.

use crate::batch::{CACHED_PER_FORWARD, Most, batches};
use crate::error::Result;
use candle_core::Tensor;
use reptune_adapters::{CaptureTokens, ForwardOptions, HookedModel};
use std::collections::BTreeMap;

/// What is taken of every prompt.
#[derive(Debug, Clone, Copy)]
pub struct CaptureRequest<'a> {
    /// Layers whose outputs are taken.
    pub layers: &'a [usize],
    /// Rows of that many last tokens; none: of all.
    pub last: Option<usize>,
    /// Whether logits of all tokens are taken too.
    pub logits: CaptureLogits,
}

/// Whether logits are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaptureLogits {
    /// Of all tokens.
    All,
    /// Of none: the forward ends at the highest layer.
    None,
}

/// What was taken of a prompt.
#[derive(Debug, Clone)]
pub struct CapturedPrompt {
    /// By layer, the rows (T, H) of its tokens, or of the last of them.
    pub residuals: BTreeMap<usize, Tensor>,
    /// Logits (T, V).
    pub logits: Option<Tensor>,
}

/// Captures `prompts`, those that fit together in one forward; `take` gets what was taken
/// of each, with its number, in order.
///
/// # Errors
/// When a layer does not exist, the model fails, and those of `take`.
pub fn capture<P: AsRef<[u32]>>(
    model: &dyn HookedModel,
    prompts: &[P],
    wanted: &CaptureRequest,
    take: &mut dyn FnMut(usize, CapturedPrompt) -> Result<()>,
) -> Result<()> {
    for batch in batches(prompts, Most::Total(CACHED_PER_FORWARD), |_, _| 0) {
        let skipped = |path: &Vec<u32>| match wanted.last {
            Some(last) => path.len().saturating_sub(last),
            None => 0,
        };
        let read = |path: &Vec<u32>| path[skipped(path)..].to_vec();
        let read: Vec<Vec<u32>> = batch.paths.iter().map(read).collect();
        let everything = batch.paths.concat();
        let options = ForwardOptions {
            capture: wanted.layers,
            captured: CaptureTokens::Only(&read.concat()),
            logits: match wanted.logits {
                CaptureLogits::All => &everything,
                CaptureLogits::None => &[],
            },
            ..ForwardOptions::default()
        };
        let output = batch.forward(model, &options)?;
        let (mut row, mut token) = (0, 0);
        for ((prompt, path), read) in batch.prompts.zip(&batch.paths).zip(&read) {
            let part = |(layer, rows): (&usize, &Tensor)| {
                Ok((*layer, rows.narrow(0, row, read.len())?.detach()))
            };
            let residuals = output.residuals.iter().map(part);
            let logits = output.logits.as_ref();
            let captured = CapturedPrompt {
                residuals: residuals.collect::<Result<_>>()?,
                logits: logits.map(|l| l.narrow(0, token, path.len())).transpose()?,
            };
            take(prompt, captured)?;
            row += read.len();
            token += path.len();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
