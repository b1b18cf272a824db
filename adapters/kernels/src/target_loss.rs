//! Weighted cross-entropy against any number of target tokens per row.

use crate::recorded::recorded;
use crate::slice::{exp, tensor, with_data};
use candle_core::{Result, Tensor};
use rayon::prelude::*;

/// One term of the loss: row `row` should give token `token`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target {
    /// Row of the logits.
    pub row: u32,
    /// Token id.
    pub token: u32,
    /// Factor of the term.
    pub weight: f32,
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
    let (n, v) = logits.dims2()?;
    let outside = |t: &&Target| t.row as usize >= n || t.token as usize >= v;
    if let Some(t) = targets.iter().find(outside) {
        candle_core::bail!("target_loss: target {t:?} outside of logits ({n}, {v})")
    }
    let (logits, targets) = (&logits.contiguous()?, targets.to_vec());
    let terms: Vec<f32> = with_data([logits], |[logits]| {
        let term = |t: &Target| {
            let row = &logits[t.row as usize * v..][..v];
            t.weight * (log_sum_exp(row) - row[t.token as usize])
        };
        targets.par_iter().map(term).collect()
    })?;
    let loss = terms.iter().map(|&x| f64::from(x)).sum::<f64>() as f32;
    let loss = (vec![loss], ().into());
    recorded("target_loss", [logits], loss, move |[logits], _, grad| {
        let scale = grad.to_scalar::<f32>()?;
        let mut by_row: Vec<Vec<(u32, f32)>> = vec![Vec::new(); n];
        for t in &targets {
            by_row[t.row as usize].push((t.token, t.weight));
        }
        let mut g = vec![0f32; n * v];
        with_data([logits], |[logits]| {
            let rows = g.par_chunks_mut(v).zip(logits.par_chunks(v)).zip(&by_row);
            let rows = rows.filter(|(_, targets)| !targets.is_empty());
            rows.for_each(|((g, x), targets)| {
                let total: f32 = targets.iter().map(|t| t.1).sum();
                let lse = log_sum_exp(x);
                for (g, x) in g.iter_mut().zip(x) {
                    *g = scale * total * exp(x - lse);
                }
                for (token, weight) in targets {
                    g[*token as usize] -= scale * weight;
                }
            });
        })?;
        Ok([Some(tensor(g, logits)?)])
    })
}

fn log_sum_exp(row: &[f32]) -> f32 {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    max + row.iter().map(|x| exp(x - max)).sum::<f32>().ln()
}
