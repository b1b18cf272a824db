//! Merging an adapter into a checkpoint, or into the weights of a UQFF.

use crate::peak_bytes;
use crate::workload::spec;
use anyhow::Result;
use candle_core::Tensor;
use clap::Args;
use reptune::Source;
use reptune::quantize::{ErrorCompensation, QuantizedMerge, WeightTypes};
use reptune_adapters::Adapter;
use reptune_adapters::LoraInit;
use reptune_adapters::model::ModuleKind;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Instant;

#[derive(Args)]
pub struct MergeArgs {
    /// Model directory, or .uqff file
    #[arg(long)]
    model: PathBuf,
    /// Directory of the merged model
    #[arg(long)]
    work: PathBuf,
    /// Rank of the update of v_proj and o_proj in every layer
    #[arg(long, default_value_t = 16)]
    rank: usize,
    /// Seed of the update
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub fn run(a: &MergeArgs) -> Result<Value> {
    let spec = spec(&a.model)?;
    let layers: Vec<usize> = (0..spec.layers).collect();
    let modules = [ModuleKind::VProj, ModuleKind::OProj];
    let mut update = Adapter::init(
        &spec,
        &LoraInit {
            layers: &layers,
            kinds: &modules,
            rank: a.rank,
            alpha: 1e-2,
            seed: a.seed,
        },
    )?;
    for adapter in update.modules.values_mut() {
        let shape = adapter.b.dims2()?;
        adapter.b = Tensor::ones(shape, adapter.b.dtype(), adapter.b.device())?;
    }
    let started = Instant::now();
    let source = Source::open(&a.model)?;
    if source.is_quantized() {
        let merge = QuantizedMerge {
            source: &source,
            update: &update,
            types: WeightTypes::all(None),
            compensation: ErrorCompensation::None,
            calibration: &[],
        };
        merge.write(&a.work, &mut |_, _| {})?;
    } else {
        reptune_recipes::merge::merge(&a.model, &update, &a.work, &mut |_, _, _| {})?;
    }
    let seconds = started.elapsed().as_secs_f64();
    let files = std::fs::read_dir(&a.work)?.filter_map(|f| f.ok()?.metadata().ok());
    let bytes: u64 = files.map(|m| m.len()).sum();
    Ok(json!({
        "work": "merge", "seconds": seconds, "bytes": bytes,
        "bytes_per_second": bytes as f64 / seconds, "peak_bytes": peak_bytes(),
    }))
}
