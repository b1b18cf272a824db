//! Other systems read what we write, and we read what they write: with the same numbers.
//!
//! `tests/interop/` has the scripts that asked those systems, and what they said.

mod control_vectors;
mod generator;
mod llama_cpp;
mod merged;
mod peft;

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use reptune_adapters::{Adapter, ForwardOptions, HookedModel, Intervention};
use reptune_tests::{Oracle, Walk, fixture, logits, marked, pick, whole};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// A file or directory that a script of `tests/interop` wrote.
fn interop(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("interop/fixtures").join(name)
}

fn prompts() -> Result<Vec<Vec<u32>>> {
    Oracle::read("oracle-llama2.safetensors")?.prompts()
}

/// Our logits (T, V) of every prompt.
fn ours(
    model: &dyn HookedModel,
    prompts: &[Vec<u32>],
    interventions: &[Intervention],
    adapter: Option<&Adapter>,
) -> Result<Vec<Tensor>> {
    let (tree, rows) = marked(prompts, interventions);
    let request = ForwardOptions {
        interventions,
        adapter,
        ..ForwardOptions::default()
    };
    let pass = whole(model, &tree, request)?;
    rows.iter().map(|r| pick(logits(&pass), r)).collect()
}

/// Compares our logits with `{case}.{i}` of theirs.
fn same(case: &str, ours: &[Tensor], theirs: &HashMap<String, Tensor>) -> Result<()> {
    let mut walk = Walk::default();
    for (i, ours) in ours.iter().enumerate() {
        let place = format!("{case}.{i}");
        let expected = theirs.get(&place).with_context(|| place.clone())?;
        walk.check(&place, ours, expected);
    }
    walk.finish(case);
    Ok(())
}

fn tensors(path: &Path) -> Result<HashMap<String, Tensor>> {
    candle_core::safetensors::load(path, &Device::Cpu).with_context(|| path.display().to_string())
}
