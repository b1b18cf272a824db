//! Merging an adapter into a checkpoint.

use super::peak_bytes;
use crate::error::Result;
use reptune_adapters::Adapter;
use reptune_adapters::model::ModuleKind;
use reptune_recipes::merge::merge as fold;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Instant;

/// Folds a random update of `rank` at every layer's v and o into `model` and writes the
/// result to `out`.
///
/// # Errors
/// When the model is not complete, or `out` cannot be written.
pub fn merge(model: &Path, out: &Path, rank: usize, seed: u64) -> Result<Value> {
    let spec = super::spec(model)?;
    let layers: Vec<usize> = (0..spec.layers).collect();
    let modules = [ModuleKind::VProj, ModuleKind::OProj];
    let mut update = Adapter::init(&spec, &layers, &modules, rank, 1e-2, seed)?;
    for adapter in update.modules.values_mut() {
        let shape = adapter.b.dims2()?;
        adapter.b = candle_core::Tensor::ones(shape, adapter.b.dtype(), adapter.b.device())?;
    }
    let begun = Instant::now();
    fold(model, &update, out, &mut |_, _, _| {})?;
    let seconds = begun.elapsed().as_secs_f64();
    let files = std::fs::read_dir(out).map_err(|e| reptune_adapters::Error::read(out, e))?;
    let sizes = files
        .filter_map(|f| f.ok()?.metadata().ok())
        .map(|m| m.len());
    let bytes: u64 = sizes.sum();
    Ok(json!({
        "work": "merge", "seconds": seconds, "bytes": bytes,
        "bytes_per_second": bytes as f64 / seconds, "peak_bytes": peak_bytes(),
    }))
}
