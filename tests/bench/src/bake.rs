//! Baking a random direction into a quantized model, for mistral.rs itself to run.

use crate::peak_bytes;
use crate::workload::{directions, spec};
use anyhow::Result;
use clap::Args;
use reptune::model::uqff::WeightType;
use reptune_adapters::{Dose, Intervention, Operator};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Instant;

#[derive(Args)]
pub struct BakeArgs {
    /// Model directory
    #[arg(long)]
    model: PathBuf,
    /// Directory to write
    #[arg(long)]
    out: PathBuf,
    /// Layer of the direction
    #[arg(long, default_value_t = 5)]
    layer: usize,
    /// Steering coefficient; 0 bakes nothing in
    #[arg(long, default_value_t = 4., allow_negative_numbers = true)]
    coeff: f64,
    /// Type of the weights
    #[arg(long, value_name = "TYPE", default_value = "q4k")]
    quantize: String,
    /// Seed of the direction
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub fn run(a: &BakeArgs) -> Result<Value> {
    let set = directions(&spec(&a.model)?, a.seed)?;
    let steering = match a.coeff {
        0. => Vec::new(),
        coeff => vec![Intervention::new(
            &set,
            &[a.layer],
            Dose::Total(coeff),
            Operator::Add,
        )?],
    };
    let started = Instant::now();
    let quantize = WeightType::parse(&a.quantize)?;
    let report = reptune::bake::bake(&a.model, &steering, quantize, &a.out, &mut |_, _| {})?;
    Ok(json!({
        "work": "bake", "seconds": started.elapsed().as_secs_f64(), "bytes": report.bytes,
        "peak_bytes": peak_bytes(),
    }))
}
