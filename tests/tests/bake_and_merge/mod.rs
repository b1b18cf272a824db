//! Merged and baked directories: what is in them, and that unmodified mistral.rs 0.8.1
//! computes with them what the hooked Llama computes.

mod architectures;
mod bake;
mod engine;
mod merge;
mod places;

use anyhow::Result;
use candle_core::Tensor;
use reptune::Llama;
use reptune::runtime::Engine;
use reptune_adapters::model::ModuleKind;
use reptune_adapters::{Adapter, ForwardOptions, HookedModel, Intervention, lora::peft};
use reptune_tests::{
    Oracle, Walk, bits, fixture, flat, logits, marked, pick, random_update, whole,
};
use std::path::Path;
use tempfile::TempDir;

const MODELS: [&str; 2] = ["llama2", "llama32"];

fn prompts() -> Result<Vec<Vec<u32>>> {
    Oracle::read("oracle-llama2.safetensors")?.prompts()
}

/// Logits (T, V) of every prompt in the hooked Llama.
fn ours(
    llama: &dyn HookedModel,
    interventions: &[Intervention],
    adapter: Option<&Adapter>,
) -> Result<Vec<Tensor>> {
    let (tree, rows) = marked(&prompts()?, interventions);
    let request = ForwardOptions {
        interventions,
        adapter,
        ..ForwardOptions::default()
    };
    let pass = whole(llama, &tree, request)?;
    rows.iter().map(|r| pick(logits(&pass), r)).collect()
}

/// Logits (T, V) of every prompt in unmodified mistral.rs.
fn in_stock(path: &Path, adapter: Option<&Path>) -> Result<Vec<Tensor>> {
    let engine = Engine::load(path, adapter)?;
    let all = prompts()?;
    all.iter().map(|p| Ok(engine.logits(p)?)).collect()
}

fn same(what: &str, left: &[Tensor], right: &[Tensor]) {
    let mut walk = Walk::default();
    assert_eq!(left.len(), right.len());
    for (i, (l, r)) in left.iter().zip(right).enumerate() {
        walk.check(&format!("{what}: prompt.{i}.logits"), l, r);
    }
    walk.finish(what);
}

fn all_bits(tensors: &[Tensor]) -> Vec<u32> {
    tensors.iter().flat_map(bits).collect()
}

/// Largest difference of any element.
fn distance(left: &[Tensor], right: &[Tensor]) -> f32 {
    let both = left.iter().flat_map(flat).zip(right.iter().flat_map(flat));
    both.fold(0., |most, (l, r)| {
        assert!(l.is_finite() && r.is_finite(), "{l}, {r}");
        most.max((l - r).abs())
    })
}

/// What an error says, with the temporary directory and the fixtures by name.
fn said(error: impl std::fmt::Display, room: &TempDir) -> String {
    let text = error.to_string();
    let text = text.replace(&room.path().display().to_string(), "ROOM");
    text.replace(&fixture("").display().to_string(), "FIXTURES/")
}

/// A copy of a fixture, to be spoilt.
fn copy(name: &str, room: &TempDir) -> Result<std::path::PathBuf> {
    let to = room.path().join(name);
    std::fs::create_dir(&to)?;
    for entry in std::fs::read_dir(fixture(name))? {
        let entry = entry?;
        std::fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(to)
}

/// The adapter of the oracle on llama2, whose scale is 2; one like it on llama32.
fn adapter(model: &str, llama: &Llama) -> Result<Adapter> {
    let update = match model {
        "llama2" => peft::load(&fixture("peft-adapter"), llama.spec())?,
        _ => random_update(llama.spec(), &[0, 3], &ModuleKind::ALL, 5)?,
    };
    assert!(update.modules.values().all(|l| l.scale == 2.));
    Ok(update)
}
