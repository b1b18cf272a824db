//! Benchmarks: the real code paths on made-up models and workloads, each as one JSON object.
//!
//! A workload is a directory (`work.json`, and safetensors where directions or factors are
//! needed) that holds every token id, row and rate, so that another program can do the very
//! same work; `tests/peers` does it with torch, transformers and peft.

mod capture;
mod generate;
mod merge;
mod model;
mod product;
mod serve;
mod sweep;
mod tune;
mod work;

pub use capture::capture;
pub use generate::{Arm, Settings as GenerateSettings, generate};
pub use merge::merge;
pub use model::{Sizes, make_model};
pub use product::product;
pub use serve::{Settings as ServeSettings, serve};
pub use sweep::{Settings as SweepSettings, sweep};
pub use tune::{Settings as TuneSettings, tune};
pub use work::Lengths;

use crate::error::Result;
use crate::llama::{Llama, LlamaConfig, LoadOptions, model_spec};
use reptune_adapters::ModelSpec;
use std::path::Path;
use std::time::Instant;

/// A model, and the seconds that loading it took.
fn loaded(model: &Path, options: LoadOptions) -> Result<(Llama, f64)> {
    let begun = Instant::now();
    let llama = Llama::load(model, options)?;
    Ok((llama, begun.elapsed().as_secs_f64()))
}

/// Most memory that this process has had resident, in bytes, where the system tells it
/// (Linux).
pub fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

/// Sizes of the model, without its weights.
fn spec(model: &Path) -> Result<ModelSpec> {
    let directory = match model.is_file() {
        true => model.parent().unwrap_or(model),
        false => model,
    };
    model_spec(&LlamaConfig::read(directory)?, directory)
}
