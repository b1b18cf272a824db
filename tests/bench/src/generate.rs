//! Generation: by our own forward, plain and steered, and by mistral.rs itself.

use crate::workload::{DeviceArgs, GenerateWork, WorkArgs, directions, read_or_make, spec};
use crate::{median, peak_bytes};
use anyhow::Result;
use clap::{Args, ValueEnum};
use reptune::runtime::Engine;
use reptune_adapters::{Dose, Intervention, Operator};
use reptune_recipes::generate::{Generation, generate};
use serde_json::{Value, json};
use std::time::Instant;

#[derive(Clone, Copy, ValueEnum)]
enum GenerateArm {
    /// Our forward
    Own,
    /// Our forward, steered at the middle layer
    Steered,
    /// mistral.rs itself
    Engine,
}

#[derive(Args)]
pub struct GenerateArgs {
    #[command(flatten)]
    work: WorkArgs,
    /// Who generates
    #[arg(long, value_enum, default_value = "own")]
    arm: GenerateArm,
    /// Prompts that are continued at the same time
    #[arg(long, default_value_t = 1)]
    prompts: usize,
    /// New tokens after each prompt
    #[arg(long, default_value_t = 32)]
    new: usize,
    /// Timed runs, of which the median counts
    #[arg(long, default_value_t = 3)]
    repeats: usize,
}

pub fn run(a: &GenerateArgs) -> Result<Value> {
    let spec = spec(&a.work.model)?;
    let (work, _) = read_or_make(&a.work.work, |_| {
        let work = GenerateWork {
            kind: "generate".into(),
            prompts: a.work.prompts(&spec, a.prompts),
            max_new_tokens: a.new,
        };
        Ok((work, None))
    })?;
    let mut times = Vec::new();
    let mut measure = |run: &mut dyn FnMut() -> Result<Value>| -> Result<Value> {
        let mut output = run()?; // not timed: the first run also fills caches
        for _ in 0..a.repeats.max(1) {
            let started = Instant::now();
            output = run()?;
            times.push(started.elapsed().as_secs_f64());
        }
        Ok(output)
    };
    let (key, output) = match a.arm {
        GenerateArm::Engine => {
            let engine = Engine::load(&a.work.model, None)?;
            let mut run = || {
                let texts = engine.generate_together(&work.prompts, work.max_new_tokens)?;
                Ok(json!(texts))
            };
            ("texts", measure(&mut run)?)
        }
        GenerateArm::Own | GenerateArm::Steered => {
            let (llama, _) = DeviceArgs::default().load(&a.work.model)?;
            let set = directions(&spec, a.work.seed)?;
            let middle = spec.layers / 2;
            let steering = [Intervention::new(
                &set,
                &[middle],
                Dose::Total(4.),
                Operator::Add,
            )?];
            let how = Generation {
                interventions: match a.arm {
                    GenerateArm::Steered => &steering,
                    _ => &[],
                },
                max_new_tokens: work.max_new_tokens,
                ..Generation::default()
            };
            let mut run = || {
                let tokens = generate(&llama, &work.prompts, &how, &mut |_| {})?;
                Ok(json!(tokens))
            };
            ("tokens", measure(&mut run)?)
        }
    };
    let seconds = median(&times);
    let tokens = work.prompts.len() * work.max_new_tokens;
    Ok(json!({
        "work": "generate", "seconds": seconds, "tokens_per_second": tokens as f64 / seconds,
        "peak_bytes": peak_bytes(), key: output,
    }))
}
