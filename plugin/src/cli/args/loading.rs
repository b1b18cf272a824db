//! Where and how a model is loaded.

use crate::decoder::{LoadOptions, parse_device, parse_dtype, parse_isq};
use clap::Args;

/// How a model is loaded.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Model")]
pub struct LoadingArgs {
    /// Quantize the weights in memory, for example q8_0 or q4k
    #[arg(long, value_name = "TYPE")]
    pub quantize: Option<String>,
    /// Device that computes: cpu, or cuda, cuda:1, .. or metal in a build with that feature
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Type of the weights and the residual stream: f32; on a GPU also bf16 or f16
    #[arg(long, default_value = "f32")]
    pub dtype: String,
}

impl LoadingArgs {
    /// Opens the device.
    pub fn options(&self) -> crate::Result<LoadOptions> {
        Ok(LoadOptions {
            isq: self.quantize.as_deref().map(parse_isq).transpose()?,
            device: parse_device(&self.device)?,
            dtype: parse_dtype(&self.dtype)?,
        })
    }
}
