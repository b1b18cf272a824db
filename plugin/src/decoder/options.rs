//! How a model is loaded: where, in which type, quantized or not.

use crate::error::Result;
use candle_core::{DType, Device};
use mistralrs_quant::IsqType;
use reptune_adapters::Error;

/// How a model is loaded.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Quantize every linear layer in place after loading.
    pub isq: Option<IsqType>,
    /// Where it computes.
    pub device: Device,
    /// Type of its weights and of the residual stream. Factors that are trained, losses and
    /// captured rows are f32 in any case.
    pub dtype: DType,
}

impl Default for LoadOptions {
    /// The CPU, in f32.
    fn default() -> Self {
        Self {
            isq: None,
            device: Device::Cpu,
            dtype: DType::F32,
        }
    }
}

impl LoadOptions {
    /// Refuses a dtype in which the device has no products.
    pub(super) fn check(&self) -> Result<()> {
        if self.dtype == DType::BF16 && self.device.is_cpu() {
            let hint = "leave it at f32, in which the CPU computes";
            return Err(Error::value("dtype", "f32 on the CPU", "bf16", hint).into());
        }
        Ok(())
    }
}

/// Parses a device: `cpu`, `cuda`, `cuda:1`, `metal`.
///
/// # Errors
/// When there is none of that name, the program was built without it, or it does not answer.
pub fn parse_device(name: &str) -> Result<Device> {
    let (kind, number) = name.split_once(':').unwrap_or((name, "0"));
    let device = match (kind, number.parse()) {
        ("cpu", _) if name == "cpu" => return Ok(Device::Cpu),
        ("cuda", Ok(number)) => Device::new_cuda(number),
        ("metal", Ok(number)) => Device::new_metal(number),
        _ => {
            let (expected, found) = ("cpu, cuda, cuda:1, .. or metal", format!("`{name}`"));
            let hint = "the number is that of the device, from 0";
            return Err(Error::value("device", expected, found, hint).into());
        }
    };
    device.map_err(|e| {
        let hint = "it takes a program built with --features cuda or metal, and its driver";
        Error::value("device", format!("`{name}`"), e.to_string(), hint).into()
    })
}

/// Parses a type of weights: `f32`, `bf16` or `f16`.
///
/// # Errors
/// When it is another.
pub fn parse_dtype(name: &str) -> Result<DType> {
    match name {
        "f32" => Ok(DType::F32),
        "bf16" => Ok(DType::BF16),
        "f16" => Ok(DType::F16),
        _ => {
            let hint = "--quantize stores smaller types";
            Err(Error::value("dtype", "f32, bf16 or f16", format!("`{name}`"), hint).into())
        }
    }
}

/// Parses a quantization such as `q8_0` or `q4k`.
///
/// # Errors
/// When mistral.rs does not know it.
pub fn parse_isq(name: &str) -> Result<IsqType> {
    mistralrs_core::parse_isq_value(name, Some(&Device::Cpu)).map_err(|reason| {
        let expected = "a type of mistral.rs such as q8_0 or q4k";
        Error::value("quantization", expected, format!("`{name}`"), reason).into()
    })
}
