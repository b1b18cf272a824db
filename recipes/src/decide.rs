//! Gates that decide once per prompt: read before anything is steered.
//!
//! Why a pass of its own: see `reptune_adapters::steering::gate`. What is decided becomes
//! marks of rows, by `reptune_adapters::steering::intervention::token_mask_gated`.

use crate::error::Result;
use crate::groups::groups;
use candle_core::DType;
use reptune_adapters::model::prefix_tree::TokenMask;
use reptune_adapters::{
    Adapter, Decide, Error, ForwardOptions, Gate, HookedModel, Intervention, KeyValueCache,
    PrefixTree,
};
use std::collections::BTreeSet;

/// Prompt rows computed in one forward; more are done in turns.
const ROWS: usize = 4096;

/// For every prompt, the gates that are open to it: bit i says whether that of
/// intervention i, if it decides once per prompt, opened; other bits are set.
///
/// `open = h[last prompt row] . g > threshold` (or `<`), with h the output of the
/// gate's layer in the model without interventions but with `adapter`. Without a
/// gate of that kind nothing is computed.
///
/// # Errors
/// When a prompt is empty, a layer or a width does not fit, or the model fails.
pub fn decide<P: AsRef<[u32]>>(
    host: &dyn HookedModel,
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
    let layers: BTreeSet<usize> = gates.iter().map(|(_, layer, _)| *layer).collect();
    let layers: Vec<usize> = layers.into_iter().collect();
    host.spec().check_layers(&layers)?;
    for range in groups(prompts, ROWS) {
        let from = range.start;
        let (forest, rows) = PrefixTree::pack(&prompts[range]);
        let last = rows
            .iter()
            .enumerate()
            .map(|(i, rows)| {
                rows.last().copied().ok_or_else(|| {
                    Error::value(
                        format!("prompt {}", from + i),
                        "at least one token",
                        "none",
                        "give a prompt",
                    )
                })
            })
            .collect::<std::result::Result<Vec<u32>, _>>()?;
        let request = ForwardOptions {
            capture: &layers,
            adapter,
            ..ForwardOptions::default()
        };
        let residuals = host
            .forward(&forest, &mut KeyValueCache::none(), &request)?
            .residuals;
        for (i, layer, gate) in &gates {
            let h = residuals[layer].detach().to_dtype(DType::F32)?;
            for (p, &row) in last.iter().enumerate() {
                if gate.rows(&h, *layer, &[row])?.is_empty() {
                    open[from + p] &= !(1 << i);
                }
            }
        }
    }
    Ok(open)
}
