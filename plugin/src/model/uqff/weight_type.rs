//! The types that a weight can have in a UQFF, as far as mistral.rs 0.8.1 runs them
//! on a CPU.

use crate::error::Result;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use mistralrs_quant::{
    AfqBits, AfqGroupSize, AfqLayer, F8Q8Linear, FP8Linear, GgufMatMul, HqqAxis, HqqBits,
    HqqConfig, HqqLayer, MXFP4Layer, QuantMethod, QuantMethodConfig, UnquantLinear,
};
use std::fmt;
use std::sync::Arc;

/// Elements that share a scale in HQQ, as mistral.rs has it.
const HQQ_GROUP: usize = 64;

/// How the numbers of a weight are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WeightType {
    /// Not quantized.
    F32,
    /// Blocks of 32 (q4_0 to q8_0) or 256 (q2k to q6k) numbers of a row.
    Ggml(GgmlDType),
    /// Half-quadratic quantization: groups of 64 with scale and zero point.
    Hqq(u8),
    /// Affine groups of 64 numbers of a row, or of 32 where 64 does not divide it.
    Afq(u8),
    /// 8-bit floats with one scale.
    Fp8,
    /// Blocks of 32 with an 8-bit float as scale.
    F8Q8,
    /// 4-bit floats in blocks of 32 with a power of two as scale.
    Mxfp4,
}

impl WeightType {
    /// All that can be asked for, by name. What mistral.rs 0.8.1 writes but cannot read
    /// back is left out: q8k, q8_1, and hqq with 3, 2 or 1 bits.
    pub const ALL: [(&'static str, Self); 21] = [
        ("f32", Self::F32),
        ("q8_0", Self::Ggml(GgmlDType::Q8_0)),
        ("q5_1", Self::Ggml(GgmlDType::Q5_1)),
        ("q5_0", Self::Ggml(GgmlDType::Q5_0)),
        ("q4_1", Self::Ggml(GgmlDType::Q4_1)),
        ("q4_0", Self::Ggml(GgmlDType::Q4_0)),
        ("q6k", Self::Ggml(GgmlDType::Q6K)),
        ("q5k", Self::Ggml(GgmlDType::Q5K)),
        ("q4k", Self::Ggml(GgmlDType::Q4K)),
        ("q3k", Self::Ggml(GgmlDType::Q3K)),
        ("q2k", Self::Ggml(GgmlDType::Q2K)),
        ("hqq8", Self::Hqq(8)),
        ("hqq4", Self::Hqq(4)),
        ("afq8", Self::Afq(8)),
        ("afq6", Self::Afq(6)),
        ("afq4", Self::Afq(4)),
        ("afq3", Self::Afq(3)),
        ("afq2", Self::Afq(2)),
        ("fp8", Self::Fp8),
        ("f8q8", Self::F8Q8),
        ("mxfp4", Self::Mxfp4),
    ];

    /// The type called `name`.
    ///
    /// # Errors
    /// When there is none; the message names all.
    pub fn parse(name: &str) -> Result<Self> {
        let lower = name.to_ascii_lowercase();
        let found = Self::ALL.into_iter().find(|(n, _)| *n == lower);
        found.map(|(_, t)| t).ok_or_else(|| {
            let names = Self::ALL.map(|(n, _)| n).join(", ");
            let (found, hint) = (format!("`{name}`"), "give one of these");
            reptune_adapters::Error::value("quantization", names, found, hint).into()
        })
    }

    /// What becomes of a weight (O, I) that is to have this type: this one, or where
    /// its blocks do not divide the rows the one that mistral.rs falls back to.
    pub fn fitted(self, (o, i): (usize, usize)) -> Self {
        use GgmlDType as G;
        match self {
            Self::Ggml(t) if !i.is_multiple_of(t.block_size()) => match t {
                G::Q2K | G::Q3K => Self::Ggml(G::Q4_0).fitted((o, i)),
                G::Q4K => Self::Ggml(G::Q4_1).fitted((o, i)),
                G::Q5K => Self::Ggml(G::Q5_0).fitted((o, i)),
                G::Q6K => Self::Ggml(G::Q5_1).fitted((o, i)),
                _ => Self::F32,
            },
            Self::Hqq(_) if !(o * i).is_multiple_of(HQQ_GROUP) => Self::F32,
            Self::Afq(_) | Self::Mxfp4 if !i.is_multiple_of(32) => Self::F32,
            fits => fits,
        }
    }

    /// Consecutive numbers of a row that are quantized together, and without regard to
    /// others; none where all numbers depend on each other.
    pub fn block(self, row: usize) -> Option<usize> {
        match self {
            Self::F32 => Some(1),
            Self::Ggml(t) => Some(t.block_size()),
            Self::Afq(_) => Some(afq_group(row) as usize),
            Self::Mxfp4 => Some(32),
            Self::F8Q8 if row.is_multiple_of(32) => Some(32),
            Self::F8Q8 | Self::Hqq(_) | Self::Fp8 => None,
        }
    }

    /// Whether mistral.rs 0.8.1 adds a bias once. It adds that of mxfp4 twice.
    pub fn takes_bias(self) -> bool {
        self != Self::Mxfp4
    }

    /// Stores `weight` (O, I), f32, in this type, which must be [fitted](Self::fitted).
    ///
    /// # Errors
    /// When the type does not fit.
    pub fn quantize(self, weight: &Tensor) -> candle_core::Result<Arc<dyn QuantMethod>> {
        let cpu = Device::Cpu;
        let plain = candle_nn::Linear::new(weight.clone(), None);
        Ok(match self {
            Self::F32 => Arc::new(UnquantLinear::new(QuantMethodConfig::Unquantized(plain))?),
            Self::Ggml(t) => {
                let q_weight = Arc::new(QTensor::quantize(weight, t)?);
                let config = QuantMethodConfig::Gguf { q_weight, b: None };
                Arc::new(GgufMatMul::new(config)?)
            }
            Self::Hqq(bits) => {
                let config = HqqConfig {
                    bits: HqqBits::try_from(usize::from(bits))?,
                    group_size: HQQ_GROUP.try_into()?,
                    axis: HqqAxis::Zero,
                    optimization_steps: Some(20), // as mistral.rs has it
                    round_zeros: false,
                    channel_wise: true,
                };
                Arc::new(HqqLayer::quantize(weight, &cpu, config)?)
            }
            Self::Afq(bits) => Arc::new(AfqLayer::new(QuantMethodConfig::Afq {
                // scales are kept in the dtype of the weight
                weight: weight.to_dtype(DType::F16)?,
                bias: None,
                bits: AfqBits::try_from(bits)?,
                group_size: afq_group(weight.dims2()?.1),
            })?),
            Self::Fp8 => Arc::new(FP8Linear::new(QuantMethodConfig::FP8 {
                lin: plain,
                dtype: DType::F8E4M3,
            })?),
            Self::F8Q8 => Arc::new(F8Q8Linear::from_weight(weight, None)?),
            Self::Mxfp4 => MXFP4Layer::quantize(weight, None, &cpu)?,
        })
    }
}

fn afq_group(row: usize) -> AfqGroupSize {
    match row.is_multiple_of(64) {
        true => AfqGroupSize::Med,
        false => AfqGroupSize::Low,
    }
}

impl fmt::Display for WeightType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (Self::ALL.iter().find(|(_, t)| t == self), self) {
            (Some((name, _)), _) => f.write_str(name),
            (None, Self::Ggml(t)) => write!(f, "{}", format!("{t:?}").to_lowercase()),
            (None, other) => write!(f, "{other:?}"),
        }
    }
}
