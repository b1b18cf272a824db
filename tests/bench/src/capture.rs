//! Capturing the residual stream of prompts.

use crate::peak_bytes;
use crate::workload::{CaptureWork, DeviceArgs, WorkArgs, read_or_make};
use anyhow::Result;
use candle_core::Tensor;
use clap::Args;
use reptune_adapters::HookedModel;
use reptune_recipes::capture::{CaptureLogits, CaptureRequest, capture};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Instant;

#[derive(Args)]
pub struct CaptureArgs {
    #[command(flatten)]
    work: WorkArgs,
    #[command(flatten)]
    place: DeviceArgs,
    /// Pairs of prompts
    #[arg(long, default_value_t = 400)]
    pairs: usize,
    /// Last tokens of each prompt whose residual stream is kept, at all layers
    #[arg(long, default_value_t = 22)]
    last: usize,
}

pub fn run(a: &CaptureArgs) -> Result<Value> {
    let (llama, load_seconds) = a.place.load(&a.work.model)?;
    let (work, _) = read_or_make(&a.work.work, |_| {
        let work = CaptureWork {
            kind: "capture".into(),
            prompts: a.work.prompts(llama.spec(), 2 * a.pairs),
            layers: (0..llama.spec().layers).collect(),
            last: a.last,
        };
        Ok((work, None))
    })?;
    let wanted = CaptureRequest {
        layers: &work.layers,
        last: Some(work.last),
        logits: CaptureLogits::None,
    };
    let started = Instant::now();
    let mut rows: BTreeMap<usize, Vec<Tensor>> = BTreeMap::new();
    capture(&llama, &work.prompts, &wanted, &mut |_, found| {
        for (layer, residual) in found.residuals {
            rows.entry(layer).or_default().push(residual);
        }
        Ok(())
    })?;
    llama.device().synchronize()?;
    let seconds = started.elapsed().as_secs_f64();
    let tokens: usize = work.prompts.iter().map(Vec::len).sum();
    Ok(json!({
        "work": "capture", "seconds": seconds, "tokens_per_second": tokens as f64 / seconds,
        "load_seconds": load_seconds, "peak_bytes": peak_bytes(), "digest": digest(&rows)?,
    }))
}

/// For each layer its number, and the sum and the L2 norm of all that was captured.
fn digest(rows: &BTreeMap<usize, Vec<Tensor>>) -> Result<Vec<Value>> {
    let mut digest = Vec::new();
    for (layer, rows) in rows {
        let (mut sum, mut squares) = (0f64, 0f64);
        for row in rows {
            for x in row.flatten_all()?.to_vec1::<f32>()? {
                sum += f64::from(x);
                squares += f64::from(x) * f64::from(x);
            }
        }
        digest.push(json!([layer, sum, squares.sqrt()]));
    }
    Ok(digest)
}
