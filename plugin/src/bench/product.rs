//! The best rate of this machine.

use crate::error::Result;
use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use std::time::Instant;

/// Products that are tried.
const TRIALS: usize = 9;

/// Multiplies two square matrices of `side` rows; the fastest of some trials counts.
///
/// # Errors
/// When there is no memory for them.
pub fn product(side: usize) -> Result<Value> {
    let square = || Tensor::rand(-1f32, 1f32, (side, side), &Device::Cpu);
    let (a, b) = (square()?, square()?);
    let mut least = f64::INFINITY;
    for _ in 0..TRIALS {
        let begun = Instant::now();
        a.matmul(&b)?;
        least = least.min(begun.elapsed().as_secs_f64());
    }
    let gflops = 2. * (side as f64).powi(3) / least / 1e9;
    Ok(json!({"work": "product", "side": side, "gflops": gflops}))
}
