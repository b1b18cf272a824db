//! Capturing rows of prompts.

use super::work::{self, CaptureWork, Lengths};
use super::{loaded, peak_bytes};
use crate::error::Result;
use crate::llama::LoadOptions;
use candle_core::Tensor;
use reptune_adapters::HookedModel;
use reptune_recipes::capture::{Logits, Wanted, capture as captured};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

/// Captures the last `last` rows at all layers of `pairs` pairs of prompts, which are made
/// of `lengths` and `seed` if `directory` does not hold them.
///
/// # Errors
/// When the model cannot be loaded, or the workload is of another kind.
pub fn capture(
    model: &Path,
    options: LoadOptions,
    directory: &Path,
    pairs: usize,
    lengths: Lengths,
    last: usize,
    seed: u64,
) -> Result<Value> {
    let (llama, load_seconds) = loaded(model, options)?;
    let (work, _) = work::read_or_make(directory, |_| {
        let work = CaptureWork {
            kind: "capture".into(),
            prompts: work::prompts(llama.spec(), 2 * pairs, lengths, seed),
            layers: (0..llama.spec().layers).collect(),
            last,
        };
        Ok((work, None))
    })?;
    let wanted = Wanted {
        layers: &work.layers,
        last: Some(work.last),
        logits: Logits::None,
    };
    let begun = Instant::now();
    let mut rows: BTreeMap<usize, Vec<Tensor>> = BTreeMap::new();
    captured(&llama, &work.prompts, &wanted, &mut |_, found| {
        for (layer, residual) in found.residuals {
            rows.entry(layer).or_default().push(residual);
        }
        Ok(())
    })?;
    llama.device().synchronize()?;
    let seconds = begun.elapsed().as_secs_f64();
    let mut digest = Vec::new();
    for (layer, rows) in &rows {
        let (mut sum, mut squares) = (0f64, 0f64);
        for row in rows {
            for x in row.flatten_all()?.to_vec1::<f32>()? {
                sum += f64::from(x);
                squares += f64::from(x) * f64::from(x);
            }
        }
        digest.push(json!([layer, sum, squares.sqrt()]));
    }
    let tokens: usize = work.prompts.iter().map(Vec::len).sum();
    Ok(json!({
        "work": "capture", "seconds": seconds, "tokens_per_second": tokens as f64 / seconds,
        "load_seconds": load_seconds, "peak_bytes": peak_bytes(), "digest": digest,
    }))
}
