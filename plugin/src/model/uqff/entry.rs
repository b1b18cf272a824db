//! One linear layer as a UQFF holds it: bytes, and what they mean.

use super::layout::{FLOATS, Layout, Misfit};
use super::weight_type::WeightType;
use crate::error::{Error, Result};
use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{DType, Device, Tensor};
use mistralrs_quant::{
    ColumnParallelLayer, Comm, GgufMatMul, Id, QuantMethod, QuantMethodConfig, QuantizeOntoGuard,
    QuantizedSerde, ReplicatedLayer, RowParallelLayer,
};
use reptune_adapters::model::ModuleKind;
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
        Self::of(&*stored.quantize(&weight.contiguous()?)?)?.with_bias(bias)
    }

    /// Holds a weight (O, I) whose blocks of ggml are `data`.
    ///
    /// # Errors
    /// When there are more or fewer bytes than the shape takes, or mistral.rs knows no such
    /// type.
    pub fn ggml(dtype: GgmlDType, (o, i): (usize, usize), data: &[u8]) -> Result<Self> {
        let storage = QStorage::from_data(Cow::from(data), &Device::Cpu, dtype)?;
        let q_weight = Arc::new(QTensor::new(storage, (o, i))?);
        let config = QuantMethodConfig::Gguf { q_weight, b: None };
        Self::of(&GgufMatMul::new(config)?)
    }

    fn of(method: &dyn QuantMethod) -> Result<Self> {
        let bytes = method.serialize_with_bias(None)?.into_owned();
        Self::read(bytes).map_err(broken)
    }

    /// Takes bytes as an entry.
    ///
    /// # Errors
    /// What was expected and what was found, where the bytes are not an entry.
    pub fn read(bytes: Vec<u8>) -> std::result::Result<Self, Misfit> {
        let layout = Layout::of(&bytes)?;
        Ok(Self { bytes, layout })
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The parts of the bytes.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The bias (O,), f32.
    ///
    /// # Errors
    /// When it is no float.
    pub fn bias(&self) -> Result<Option<Tensor>> {
        let Some((dtype, range)) = &self.layout.bias else {
            return Ok(None);
        };
        if !FLOATS.contains(dtype) {
            let expected = "a bias of f32, f16 or bf16".to_owned();
            return Err(broken((expected, format!("{dtype:?}"))));
        }
        let (data, shape) = (&self.bytes[range.clone()], [self.layout.shape.0]);
        let bias = Tensor::from_raw_buffer(data, *dtype, &shape, &Device::Cpu)?;
        Ok(Some(bias.to_dtype(DType::F32)?))
    }

    /// The same weight with another bias (O,), or none.
    ///
    /// It is stored as f32, and with an unquantized weight in that weight's dtype:
    /// mistral.rs adds it as it is to the output of the layer.
    ///
    /// # Errors
    /// When the type takes none: [`WeightType::takes_bias`].
    pub fn with_bias(&self, bias: Option<&Tensor>) -> Result<Self> {
        let (layout, stored) = (&self.layout, self.layout.stored);
        let mut bytes = self.bytes[..layout.end].to_vec();
        bytes[layout.flag] = u8::from(bias.is_some());
        if let Some(bias) = bias {
            if !stored.takes_bias() {
                return Err(Error::Bake {
                    what: format!("a bias into {stored}"),
                    reason: "mistral.rs 0.8.1 adds it twice there; use another type".into(),
                });
            }
            let dtype = layout.full.unwrap_or(DType::F32);
            let code = match dtype {
                DType::F16 => 4,
                DType::BF16 => 5,
                _ => 6,
            };
            let mut data = Vec::new();
            bias.to_dtype(dtype)?.write_bytes(&mut data)?;
            for word in [data.len(), code, 1, bias.dims1()?] {
                bytes.extend((word as u32).to_le_bytes());
            }
            bytes.extend(data);
        }
        Self::read(bytes).map_err(broken)
    }

    /// The same weight with `bias` (O,) added to the bias that it has.
    ///
    /// # Errors
    /// Those of [`Entry::with_bias`].
    pub fn plus_bias(&self, bias: &Tensor) -> Result<Self> {
        match self.bias()? {
            Some(earlier) => self.with_bias(Some(&(earlier + bias)?)),
            None => self.with_bias(Some(bias)),
        }
    }

    /// The linear layer `kind`, or the output head if there is none, on `device`, with its bias
    /// and as mistral.rs itself runs it.
    ///
    /// # Errors
    /// When mistral.rs refuses the bytes.
    pub fn method(
        &self,
        kind: Option<ModuleKind>,
        device: &Device,
    ) -> Result<Arc<dyn QuantMethod>> {
        let (bytes, guard) = (Cow::from(&*self.bytes), QuantizeOntoGuard::new());
        let comm = Arc::new(Comm::from_device(Id::new(), device, 0, 1)?);
        Ok(match kind {
            None => ReplicatedLayer::deserialize(bytes, device, &comm, guard)?,
            Some(ModuleKind::OProj | ModuleKind::DownProj) => {
                RowParallelLayer::deserialize(bytes, device, &comm, guard)?
            }
            Some(_) => ColumnParallelLayer::deserialize(bytes, device, &comm, guard)?,
        })
    }

    /// The weight (O, I) that the entry stands for, f32.
    ///
    /// # Errors
    /// When mistral.rs refuses the bytes.
    pub fn weight(&self) -> Result<Tensor> {
        if let WeightType::Ggml(dtype) = self.layout.stored {
            // mistral.rs itself dequantizes through f16
            let data = Cow::from(&self.bytes[self.layout.data.clone()]);
            let storage = QStorage::from_data(data, &Device::Cpu, dtype)?;
            return Ok(QTensor::new(storage, self.layout.shape)?.dequantize(&Device::Cpu)?);
        }
        let method = self.method(Some(ModuleKind::QProj), &Device::Cpu)?;
        Ok(method.dequantize_w()?.to_dtype(DType::F32)?)
    }
}

fn broken((expected, found): Misfit) -> Error {
    Error::model("a UQFF entry", "bytes", expected, found, "write it again")
}
