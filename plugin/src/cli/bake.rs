//! `reptune bake`: steering written into a UQFF.

use super::{bar, flags, generate};
use crate::bake;
use crate::hub;
use crate::llama::{LlamaConfig, model_spec};
use crate::uqff::WeightType;
use anyhow::{Result, bail};
use serde_json::json;
use std::collections::BTreeMap;

pub fn bake(a: &flags::Bake) -> Result<()> {
    let directory = hub::resolve(&a.model)?;
    let spec = model_spec(&LlamaConfig::read(&directory)?, &directory)?;
    let Some(intervention) = generate::steering(&a.steering, &spec)? else {
        bail!("--directions: expected a direction file with --layers and --coeff, found none");
    };
    let quantize = a
        .quantize
        .as_deref()
        .map_or(Ok(WeightType::F32), WeightType::parse)?;
    let bar = bar(spec.layers, "bake");
    let report = bake::bake(
        &directory,
        &[intervention],
        quantize,
        &a.out,
        &mut |done, _| bar.set_position(done as u64),
    )?;
    bar.finish_and_clear();
    if a.json {
        println!(
            "{}",
            json!({"out": a.out, "bytes": report.bytes, "biases": report.biases, "other_types": other(&report.other)})
        );
        return Ok(());
    }
    let biases: Vec<String> = report
        .biases
        .iter()
        .map(|(l, norm)| format!("{l} (norm {norm:.2})"))
        .collect();
    println!(
        "{}: {} bytes, biases at layers {}",
        a.out.display(),
        report.bytes,
        biases.join(", ")
    );
    if !report.other.is_empty() {
        println!(
            "in another type, as blocks do not divide their rows: {}",
            summary(&report.other)
        );
    }
    Ok(())
}

/// Types by tensor, for JSON.
fn other(types: &BTreeMap<String, WeightType>) -> BTreeMap<&String, String> {
    types.iter().map(|(n, t)| (n, t.to_string())).collect()
}

/// How many tensors have which type: `43 in q4_0, 2 in f32`.
fn summary(types: &BTreeMap<String, WeightType>) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for t in types.values() {
        *counts.entry(t.to_string()).or_default() += 1;
    }
    let parts = counts.iter().map(|(t, n)| format!("{n} in {t}"));
    parts.collect::<Vec<_>>().join(", ")
}
