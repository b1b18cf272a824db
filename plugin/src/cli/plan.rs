//! `reptune plan`: what tuning a recipe takes, before any weight is read.

use super::flags;
use crate::decoder::parse_isq;
use crate::model::{LlamaConfig, model_spec};
use anyhow::{Context, Result, bail};
use candle_core::quantized::GgmlDType;
use reptune_adapters::model::ModuleKind;
use reptune_adapters::{GradientCheckpointing, ModelSpec};
use reptune_recipes::data::Items;
use reptune_recipes::plan::{Plan, Tuned};
use reptune_recipes::tune::Prompt;
use reptune_recipes::{Chat, Recipe};
use serde_json::json;
use std::path::Path;

pub fn plan(a: &flags::Plan) -> Result<()> {
    let recipe = Recipe::read(&a.recipe)?;
    let items = Items::read(&recipe)?;
    let directory = Path::new(a.model.as_deref().unwrap_or(&recipe.model));
    if !directory.is_dir() {
        bail!(
            "{}: expected a directory with config.json and tokenizer.json, found none; weights are not needed",
            directory.display()
        );
    }
    let config = LlamaConfig::read(directory)?;
    let spec = model_spec(&config, directory)?;
    spec.check_layers(&recipe.tuning.layers)?;
    let chat = Chat::load(directory)?;
    let prompts = |claims: &[reptune_recipes::data::Claim]| {
        let all = claims.iter().map(|c| Prompt::new(&chat, &recipe, c));
        all.collect::<reptune_recipes::Result<Vec<_>>>()
    };
    let (train, validation) = (prompts(&items.train)?, prompts(&items.validation)?);
    let (blocks, rest) = sizes(&spec, config.tie_word_embeddings);
    let bits = match &a.isq {
        None => 32.,
        Some(name) => bits(name)?,
    };
    let mut plans = Vec::new();
    for mode in &recipe.tuning.modes {
        if a.mode.is_some_and(|wanted| wanted != *mode) {
            continue;
        }
        let tuned = Tuned {
            spec: &spec,
            parameters: blocks + rest,
            weights: (blocks as f64 * bits / 8.) as u64 + 4 * rest,
            tuning: &recipe.tuning,
            representation: mode.representation().is_some(),
            train: &train,
            validation: &validation,
            seed: recipe.seed,
        };
        plans.push((*mode, Plan::of(&tuned), tuned.within_budget(), tuned));
    }
    let Some((_, first, _, tuned)) = plans.first() else {
        bail!("--mode: expected one of the recipe's modes, found another");
    };
    let (gflops, source) = match a.gflops {
        Some(gflops) => (gflops, "given"),
        None => (tuned.rate()? / 1e9, "measured here"),
    };
    let seconds = |work: f64| work / gflops / 1e9;
    if a.json {
        let all = plans.iter().map(|(mode, plan, within, _)| {
            json!({
                "mode": mode, "plan": plan, "seconds": seconds(plan.work.total()),
                "trunk_on_disk": within.trunk == reptune_recipes::activation_cache::CacheStorage::Disk,
                "recompute": within.activations == GradientCheckpointing::On,
            })
        });
        let all: Vec<_> = all.collect();
        println!(
            "{}",
            json!({"model": spec.name, "gflops": gflops, "modes": all})
        );
        return Ok(());
    }
    println!(
        "{}: {} parameters, {} layers of width {}\n{gflops:.0} GFLOP/s ({source})\n",
        spec.name,
        count(first.parameters as f64),
        spec.layers,
        spec.hidden
    );
    for (mode, plan, within, _) in &plans {
        let row = |name: &str, value: String| vec![name.to_owned(), value];
        let m = &plan.memory;
        let step = plan.work.steps / plan.steps.max(1) as f64;
        let trunk = match (plan.trunk_layer, within.trunk) {
            (None, _) => "none: block 0 is trained or read".to_owned(),
            (Some(l), reptune_recipes::activation_cache::CacheStorage::Memory) => {
                format!("{}, layer {l}, {} rows", bytes(m.trunk), plan.distinct)
            }
            (Some(l), _) => format!("on disk, layer {l}, {} rows", plan.distinct),
        };
        let again = match within.activations {
            GradientCheckpointing::Off => "",
            GradientCheckpointing::On => ", blocks computed again in the backward",
        };
        let rows = [
            row("tune", mode.to_string()),
            row("parameters trained", count(plan.trained as f64)),
            row("steps", plan.steps.to_string()),
            row(
                "rows",
                format!(
                    "{} of {} tokens ({:.0} %), at most {} at once",
                    plan.rows,
                    plan.tokens,
                    100. * plan.rows as f64 / plan.tokens.max(1) as f64,
                    plan.largest
                ),
            ),
            row("memory", bytes(m.total())),
            row("  program", bytes(m.program)),
            row("  weights", bytes(m.weights)),
            row("  reading them", bytes(m.reading)),
            row("  trunk", trunk),
            row("  activations", format!("{}{again}", bytes(m.activations))),
            row("  backward", bytes(m.backward)),
            row("  optimizer", bytes(m.optimizer)),
            row("  held by the allocator", bytes(m.held)),
            row("work", format!("{} FLOP", count(plan.work.total()))),
            row("  trunk, once", format!("{} FLOP", count(plan.work.trunk))),
            row(
                "  a step",
                format!("{} FLOP, {}", count(step), time(seconds(step))),
            ),
            row(
                "  validation",
                format!("{} FLOP", count(plan.work.validation)),
            ),
            row("time", time(seconds(plan.work.total()))),
        ];
        println!("{}\n", aligned_left(&rows));
    }
    Ok(())
}

/// Parameters of the linear layers, which a quantization takes, and of the rest.
fn sizes(spec: &ModelSpec, tied: bool) -> (u64, u64) {
    let (h, v) = (spec.hidden as u64, spec.vocab as u64);
    let matrix = |p: &ModuleKind| {
        let (o, i) = p.shape(spec);
        (o * i) as u64
    };
    let block: u64 = ModuleKind::ALL.iter().map(matrix).sum();
    let layers = spec.layers as u64;
    let head = if tied { 0 } else { v * h };
    (layers * block + head, v * h + h + layers * 2 * h)
}

fn bits(isq: &str) -> Result<f64> {
    let dtype = GgmlDType::try_from(parse_isq(isq)?)
        .with_context(|| format!("--isq: expected a type of ggml such as q8_0, found `{isq}`"))?;
    Ok(8. * dtype.type_size() as f64 / dtype.block_size() as f64)
}

/// Two columns, both left-aligned.
fn aligned_left(rows: &[Vec<String>]) -> String {
    let width = rows.iter().map(|r| r[0].len()).max().unwrap_or(0);
    let line = |r: &Vec<String>| format!("{:width$}  {}", r[0], r[1]);
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// `1.30 M`.
fn count(n: f64) -> String {
    let units = [(1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    match units.into_iter().find(|(size, _)| n >= *size) {
        Some((size, unit)) => format!("{:.2} {unit}", n / size),
        None => format!("{n:.0}"),
    }
}

/// `1.3 GB`.
fn bytes(n: u64) -> String {
    match n {
        0..1_000_000_000 => format!("{:.1} MB", n as f64 / 1e6),
        _ => format!("{:.1} GB", n as f64 / 1e9),
    }
}

/// `1 h 20 min`, `3 min 5 s`, `2.25 s`, `3.3 ms`.
fn time(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0 if seconds < 0.5 => format!("{:.1} ms", 1e3 * seconds),
        0..60 => format!("{seconds:.2} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}
