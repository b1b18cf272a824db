//! Generation: our own forward, plain and steered, and stock mistral.rs.

use super::tune::median;
use super::work::{self, GenerateWork, Lengths};
use super::{loaded, peak_bytes};
use crate::error::Result;
use crate::llama::LoadOptions;
use crate::stock::Stock;
use reptune_adapters::{Intervention, Operator};
use reptune_recipes::generate::{Generation, generate as continue_prompts};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Instant;

/// Who generates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arm {
    /// Our forward.
    Own,
    /// Our forward, steered at every row of the middle layer.
    Steered,
    /// Unmodified mistral.rs.
    Stock,
}

/// What is generated.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Who generates.
    pub arm: Arm,
    /// Number of prompts, all of which are continued at once.
    pub prompts: usize,
    /// Their lengths.
    pub lengths: Lengths,
    /// Tokens after each.
    pub new: usize,
    /// How often; the median counts.
    pub repeats: usize,
    /// Of the prompts.
    pub seed: u64,
}

/// Continues prompts, which are made of `settings` if `directory` does not hold them.
///
/// # Errors
/// When the model cannot be loaded, or the workload is of another kind.
pub fn generate(model: &Path, directory: &Path, settings: &Settings) -> Result<Value> {
    let spec = super::spec(model)?;
    let (work, _) = work::read_or_make(directory, |_| {
        let work = GenerateWork {
            kind: "generate".into(),
            prompts: work::prompts(&spec, settings.prompts, settings.lengths, settings.seed),
            max_new_tokens: settings.new,
        };
        Ok((work, None))
    })?;
    let mut times = Vec::new();
    let mut measure = |run: &mut dyn FnMut() -> Result<Value>| -> Result<Value> {
        let mut said = run()?; // not counted: the first also fills caches
        for _ in 0..settings.repeats.max(1) {
            let begun = Instant::now();
            said = run()?;
            times.push(begun.elapsed().as_secs_f64());
        }
        Ok(said)
    };
    let (key, said) = match settings.arm {
        Arm::Stock => {
            let stock = Stock::load(model, None)?;
            let mut run = || {
                Ok(json!(
                    stock.generate_together(&work.prompts, work.max_new_tokens)?
                ))
            };
            ("texts", measure(&mut run)?)
        }
        Arm::Own | Arm::Steered => {
            let (llama, _) = loaded(model, LoadOptions::default())?;
            let set = work::directions(&spec, settings.seed)?;
            let middle = spec.layers / 2;
            let steering = [Intervention::new(&set, &[middle], 4., Operator::Add)?];
            let how = Generation {
                interventions: match settings.arm {
                    Arm::Steered => &steering,
                    _ => &[],
                },
                max_new_tokens: work.max_new_tokens,
                ..Generation::default()
            };
            let mut run = || {
                Ok(json!(continue_prompts(
                    &llama,
                    &work.prompts,
                    &how,
                    &mut |_| {}
                )?))
            };
            ("tokens", measure(&mut run)?)
        }
    };
    let seconds = median(&times);
    let tokens = work.prompts.len() * work.max_new_tokens;
    Ok(json!({
        "work": "generate", "seconds": seconds, "tokens_per_second": tokens as f64 / seconds,
        "peak_bytes": peak_bytes(), key: said,
    }))
}
