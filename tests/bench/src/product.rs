//! The best rate of this machine.

use anyhow::Result;
use candle_core::{Device, Tensor};
use clap::Args;
use serde_json::{Value, json};
use std::time::Instant;

const TRIALS: usize = 9;

#[derive(Args)]
pub struct ProductArgs {
    /// Rows and columns of both matrices
    #[arg(long, default_value_t = 2048)]
    side: usize,
}

/// Multiplies two square matrices; the fastest of some trials counts.
pub fn run(a: &ProductArgs) -> Result<Value> {
    let square = || Tensor::rand(-1f32, 1f32, (a.side, a.side), &Device::Cpu);
    let (left, right) = (square()?, square()?);
    let mut least = f64::INFINITY;
    for _ in 0..TRIALS {
        let started = Instant::now();
        left.matmul(&right)?;
        least = least.min(started.elapsed().as_secs_f64());
    }
    let gflops = 2. * (a.side as f64).powi(3) / least / 1e9;
    Ok(json!({"work": "product", "side": a.side, "gflops": gflops}))
}
