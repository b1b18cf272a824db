//! `reptune merge` and `reptune bake`: from a model directory to another.

use super::{bar, flags, generate};
use crate::bake;
use crate::hub;
use crate::llama::{LlamaConfig, model_spec, parse_isq};
use anyhow::{Result, bail};
use reptune_adapters::{Site, peft};
use reptune_recipes::merge::{self as fold, MergedSite};
use serde_json::json;

pub fn merge(a: &flags::Merge) -> Result<()> {
    let directory = hub::resolve(&a.model)?;
    let spec = model_spec(&LlamaConfig::read(&directory)?, &directory)?;
    let update = peft::load(&a.adapter, &spec)?;
    let bar = bar(1, "merge");
    let report = fold::merge(&directory, &update, &a.out, &mut |_, done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    if a.json {
        let site = |(site, m): (&Site, &MergedSite)| json!({"site": site.to_string(), "delta_norm": m.delta_norm, "weight_norm": m.weight_norm, "changed": m.changed});
        let sites: Vec<_> = report.sites.iter().map(site).collect();
        println!(
            "{}",
            json!({"out": a.out, "files": report.files, "sites": sites})
        );
        return Ok(());
    }
    println!(
        "{}: {} files, {} weights changed",
        a.out.display(),
        report.files,
        report.sites.len()
    );
    if let Some((site, ratio)) = report.largest() {
        println!("largest change: {site}, {:.2} % of its norm", 100. * ratio);
    }
    Ok(())
}

pub fn bake(a: &flags::Bake) -> Result<()> {
    let directory = hub::resolve(&a.model)?;
    let spec = model_spec(&LlamaConfig::read(&directory)?, &directory)?;
    let Some(intervention) = generate::steering(&a.steering, &spec)? else {
        bail!("--directions: expected a direction file with --layers and --coeff, found none");
    };
    let quantize = a.quantize.as_deref().map(parse_isq).transpose()?;
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
            json!({"out": a.out, "bytes": report.bytes, "biases": report.biases, "full": report.full})
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
    if !report.full.is_empty() {
        println!(
            "left in f32, as blocks do not divide their rows: {}",
            report.full.join(", ")
        );
    }
    Ok(())
}
