//! One linear layer as a UQFF holds it: bytes, and what they mean.

use super::layout::{Dtype, Layout};
use super::weight_type::WeightType;
use crate::error::Result;
use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{DType, Device, Tensor};
use mistralrs_quant::{
    AfqLayer, F8Q8Linear, FP8Linear, GgufMatMul, HqqLayer, MXFP4Layer, QuantMethod,
    QuantMethodConfig, QuantizeOntoGuard, QuantizedSerde, UnquantLinear,
};
use std::borrow::Cow;
use std::sync::Arc;

/// The bytes of an entry, measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    bytes: Vec<u8>,
    layout: Layout,
}

impl Entry {
    /// Stores `weight` (O, I), f32, in the type that `wanted` [comes to](WeightType::fitted)
    /// for its shape, with `bias` (O,).
    ///
    /// # Errors
    /// When a bias is given to a type that takes none.
    pub fn quantize(weight: &Tensor, bias: Option<&Tensor>, wanted: WeightType) -> Result<Self> {
        let stored = wanted.fitted(weight.dims2()?);
        let method = stored.quantize(&weight.contiguous()?)?;
        let bytes = method.serialize_with_bias(None)?.into_owned();
        let entry = Self::read(bytes).map_err(broken)?;
        entry.with_bias(bias)
    }

    /// Holds a weight (O, I) whose blocks of ggml are `data`.
    ///
    /// # Errors
    /// When there are more or fewer bytes than the shape takes, or mistral.rs knows no such
    /// type.
    pub fn ggml(dtype: GgmlDType, (o, i): (usize, usize), data: &[u8]) -> Result<Self> {
        let storage = QStorage::from_data(Cow::from(data), &Device::Cpu, dtype)?;
        let q_weight = Arc::new(QTensor::new(storage, (o, i))?);
        let method = GgufMatMul::new(QuantMethodConfig::Gguf { q_weight, b: None })?;
        let bytes = method.serialize_with_bias(None)?.into_owned();
        Self::read(bytes).map_err(broken)
    }

    /// Takes bytes as an entry.
    ///
    /// # Errors
    /// What was expected and what was found, where the bytes are not an entry.
    pub fn read(bytes: Vec<u8>) -> std::result::Result<Self, super::layout::Misfit> {
        let layout = Layout::of(&bytes)?;
        Ok(Self { bytes, layout })
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What stands where.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Bits a weight takes, scales and all.
    pub fn bits_per_weight(&self) -> f64 {
        let (o, i) = self.layout.shape;
        8. * self.layout.end as f64 / (o * i) as f64
    }

    /// The bias (O,), f32.
    ///
    /// # Errors
    /// When it is no float.
    pub fn bias(&self) -> Result<Option<Tensor>> {
        let Some((dtype, range)) = &self.layout.bias else {
            return Ok(None);
        };
        let dtype = match dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => {
                return Err(broken((
                    "a bias of f32, f16 or bf16".into(),
                    format!("{other:?}"),
                )));
            }
        };
        let data = &self.bytes[range.clone()];
        let bias = Tensor::from_raw_buffer(data, dtype, &[self.layout.shape.0], &Device::Cpu)?;
        Ok(Some(bias.to_dtype(DType::F32)?))
    }

    /// The same weight with another bias (O,), or none.
    ///
    /// It is stored as f32, and beside an unquantized weight in that weight's dtype:
    /// mistral.rs adds it as it is to what the layer puts out.
    ///
    /// # Errors
    /// When the type takes none: [`WeightType::takes_bias`].
    pub fn with_bias(&self, bias: Option<&Tensor>) -> Result<Self> {
        let mut bytes = self.bytes[..self.layout.end].to_vec();
        bytes[self.layout.flag] = u8::from(bias.is_some());
        if let Some(bias) = bias {
            if !self.layout.stored.takes_bias() {
                return Err(crate::Error::Bake {
                    what: format!("a bias into {}", self.layout.stored),
                    reason: "mistral.rs 0.8.1 adds it twice there; use another type".into(),
                });
            }
            bytes.extend(Self::bias_bytes(
                bias,
                self.layout.full.unwrap_or(DType::F32),
            )?);
        }
        Self::read(bytes).map_err(broken)
    }

    /// How a bias (O,) stands at the end of an entry: f32, or the `dtype` of a weight of
    /// 16 bits beside it.
    ///
    /// # Errors
    /// When it is no vector.
    pub fn bias_bytes(bias: &Tensor, dtype: DType) -> Result<Vec<u8>> {
        let code = match dtype {
            DType::F16 => 4,
            DType::BF16 => 5,
            _ => 6,
        };
        let mut data = Vec::new();
        bias.to_dtype(dtype)?.write_bytes(&mut data)?;
        let head = [data.len(), code, 1, bias.dims1()?].map(|word| (word as u32).to_le_bytes());
        Ok([head.concat(), data].concat())
    }

    /// The layer as mistral.rs computes with it, without its bias.
    ///
    /// # Errors
    /// When mistral.rs refuses the bytes.
    pub fn method(&self) -> Result<Arc<dyn QuantMethod>> {
        let (bytes, cpu) = (Cow::from(self.bytes.as_slice()), &Device::Cpu);
        let guard = QuantizeOntoGuard::new();
        let (method, _) = match self.layout.stored {
            WeightType::F32 => UnquantLinear::deserialize_ext_bias(bytes, cpu, guard)?,
            WeightType::Ggml(_) => GgufMatMul::deserialize_ext_bias(bytes, cpu, guard)?,
            WeightType::Hqq(_) => HqqLayer::deserialize_ext_bias(bytes, cpu, guard)?,
            WeightType::Afq(_) => AfqLayer::deserialize_ext_bias(bytes, cpu, guard)?,
            WeightType::Fp8 => FP8Linear::deserialize_ext_bias(bytes, cpu, guard)?,
            WeightType::F8Q8 => F8Q8Linear::deserialize_ext_bias(bytes, cpu, guard)?,
            WeightType::Mxfp4 => MXFP4Layer::deserialize_ext_bias(bytes, cpu, guard)?,
        };
        Ok(method)
    }

    /// The weight (O, I) that the entry stands for, f32.
    ///
    /// # Errors
    /// When mistral.rs refuses the bytes.
    pub fn weight(&self) -> Result<Tensor> {
        match self.layout.stored {
            WeightType::Ggml(dtype) => Ok(self.dequantized(dtype)?),
            _ => Ok(self.method()?.dequantize_w()?.to_dtype(DType::F32)?),
        }
    }

    /// mistral.rs's own way goes through f16.
    fn dequantized(&self, dtype: GgmlDType) -> candle_core::Result<Tensor> {
        let data = Cow::from(&self.bytes[self.layout.data.clone()]);
        let storage = QStorage::from_data(data, &Device::Cpu, dtype)?;
        QTensor::new(storage, self.layout.shape)?.dequantize(&Device::Cpu)
    }
}

fn broken((expected, found): super::layout::Misfit) -> crate::Error {
    crate::Error::model("a UQFF entry", "bytes", expected, found, "write it again")
}
