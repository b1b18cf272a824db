//! Gates that decide once per prompt: read before anything is steered.
//!
//! Why a pass of its own: see `reptune_adapters::gate`. What is decided becomes
//! marks of rows, by `reptune_adapters::intervention::marks_decided`.

use crate::error::Result;
use crate::groups::groups;
use candle_core::DType;
use reptune_adapters::forest::Marks;
use reptune_adapters::{
    Cache, Decide, Error, Forest, Gate, Host, Intervention, LowRankUpdate, Request,
};
use std::collections::BTreeSet;

/// Prompt rows computed in one forward; more are done in turns.
const ROWS: usize = 4096;

/// For every prompt, the gates that are open to it: bit i says whether that of
/// intervention i, if it decides once per prompt, opened; other bits are set.
///
/// `open = h[last prompt row] . g > threshold` (or `<`), with h the output of the
/// gate's layer in the model without interventions but with `low_rank`. Without a
/// gate of that kind nothing is computed.
///
/// # Errors
/// When a prompt is empty, a layer or a width does not fit, or the model fails.
pub fn decide<P: AsRef<[u32]>>(
    host: &dyn Host,
    prompts: &[P],
    interventions: &[Intervention],
    low_rank: Option<&LowRankUpdate>,
) -> Result<Vec<Marks>> {
    let mut open = vec![Marks::MAX; prompts.len()];
    let gates: Vec<(usize, usize, &Gate)> = interventions
        .iter()
        .enumerate()
        .take(Marks::BITS as usize)
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
        let (forest, rows) = Forest::pack(&prompts[range]);
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
        let request = Request {
            capture: &layers,
            low_rank,
            ..Request::default()
        };
        let residuals = host
            .forward(&forest, &mut Cache::none(), &request)?
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
