//! Residual rows of prompts, at any layers.

use crate::batch::batches_by_length;
use crate::error::Result;
use candle_core::Tensor;
use reptune_adapters::{CaptureTokens, ForwardOptions, HookedModel, KeyValueCache};
use std::collections::BTreeMap;

/// Prompt rows computed in one forward.
const ROWS: usize = 2048;

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
    host: &dyn HookedModel,
    prompts: &[P],
    wanted: &CaptureRequest,
    take: &mut dyn FnMut(usize, CapturedPrompt) -> Result<()>,
) -> Result<()> {
    for batch in batches_by_length(prompts, ROWS, |_, _| 0) {
        let at = batch.prompts.start;
        let (forest, paths) = (batch.tree, batch.paths);
        let read = |path: &Vec<u32>| {
            let skipped = wanted
                .last
                .map_or(0, |last| path.len().saturating_sub(last));
            path[skipped..].to_vec()
        };
        let read: Vec<Vec<u32>> = paths.iter().map(read).collect();
        let everything = paths.concat();
        let request = ForwardOptions {
            capture: wanted.layers,
            captured: CaptureTokens::Only(&read.concat()),
            logits: match wanted.logits {
                CaptureLogits::All => &everything,
                CaptureLogits::None => &[],
            },
            ..ForwardOptions::default()
        };
        let pass = host.forward(&forest, &mut KeyValueCache::none(), &request)?;
        let (mut row, mut token) = (0, 0);
        for (i, (path, read)) in paths.iter().zip(&read).enumerate() {
            let residuals = pass.residuals.iter();
            let part = |(layer, rows): (&usize, &Tensor)| {
                Ok((*layer, rows.narrow(0, row, read.len())?.detach()))
            };
            let logits = pass.logits.as_ref();
            let captured = CapturedPrompt {
                residuals: residuals.map(part).collect::<Result<_>>()?,
                logits: logits.map(|l| l.narrow(0, token, path.len())).transpose()?,
            };
            take(at + i, captured)?;
            row += read.len();
            token += path.len();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
