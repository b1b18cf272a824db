//! Where and how a model is loaded.

use crate::decoder::{LoadOptions, parse_device, parse_dtype, parse_isq};
use clap::Args;

/// Where a model computes, and in what.
#[derive(Args, Clone, Debug)]
pub struct Place {
    /// Where the model computes: cpu, or cuda, cuda:1, .. or metal if the program is built
    /// with that feature
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: String,
    /// Type of its weights and residual stream: f32; on a device bf16 or f16 too
    #[arg(long, value_name = "DTYPE", default_value = "f32")]
    pub dtype: String,
}

/// How a model is loaded.
#[derive(Args, Clone, Debug)]
pub struct Loading {
    /// Quantize the model in place, such as q8_0 or q4k
    #[arg(long, value_name = "TYPE")]
    pub isq: Option<String>,
    #[command(flatten)]
    pub place: Place,
}

impl Place {
    /// Opens the device.
    pub fn options(&self) -> crate::Result<LoadOptions> {
        Ok(LoadOptions {
            isq: None,
            device: parse_device(&self.device)?,
            dtype: parse_dtype(&self.dtype)?,
        })
    }
}

impl Loading {
    /// Opens the device.
    pub fn options(&self) -> crate::Result<LoadOptions> {
        Ok(LoadOptions {
            isq: self.isq.as_deref().map(parse_isq).transpose()?,
            ..self.place.options()?
        })
    }
}
