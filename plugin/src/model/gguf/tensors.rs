//! Tensors of a GGUF Llama: all that belong to one, and no others; rows of q and k put back.

use super::file::GgufLlama;
use crate::error::Result;
use crate::model::uqff::{Entry, WeightType};
use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{Device, Tensor};
use reptune_adapters::formats::gguf::TensorInfo;
use reptune_adapters::model::ModuleKind;
use reptune_adapters::model::llama_cpp as llama;
use reptune_adapters::{ModelSpec, TargetModule};
use std::borrow::Cow;
use std::collections::BTreeSet;

impl GgufLlama {
    /// Refuses a tensor that an ordinary Llama has not, such as a bias: leaving it out
    /// would make another model.
    pub(super) fn check_complete(&self, spec: &ModelSpec) -> Result<()> {
        let mut known: BTreeSet<String> = ["token_embd", "output_norm", "output", "rope_freqs"]
            .map(|t| format!("{t}.weight"))
            .into();
        for layer in 0..spec.layers {
            for norm in ["attn_norm", "ffn_norm"] {
                known.insert(format!("blk.{layer}.{norm}.weight"));
            }
            for kind in ModuleKind::ALL {
                known.insert(llama::name(TargetModule { layer, kind }));
            }
        }
        match self.file.tensors().keys().find(|t| !known.contains(*t)) {
            None => Ok(()),
            Some(other) => {
                let expected = format!("only the weights of a Llama of {} blocks", spec.layers);
                Err(self.wrong(other, &expected, "a tensor".into()))
            }
        }
    }

    /// Rows of a tensor.
    pub(super) fn rows(&self, tensor: &str) -> Result<usize> {
        let shape = &self.expected(tensor, &[])?.shape;
        Ok(shape.first().copied().unwrap_or(0))
    }

    /// A linear layer (O, I); `heads` of q and k, whose rows are put back in their order.
    pub(super) fn entry(
        &self,
        tensor: &str,
        shape: (usize, usize),
        heads: Option<usize>,
    ) -> Result<Entry> {
        let info = self.expected(tensor, &[shape.0, shape.1])?;
        let bytes = self.file.bytes(tensor)?;
        let bytes = match heads {
            Some(heads) => llama::from_llama_cpp(&bytes, shape.0, heads),
            None => bytes,
        };
        match info.dtype {
            GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16 => {
                let weight = floats(&bytes, info.dtype, &[shape.0, shape.1])?;
                Entry::quantize(&weight, None, WeightType::F32)
            }
            dtype
                if WeightType::ALL
                    .iter()
                    .any(|(_, t)| *t == WeightType::Ggml(dtype)) =>
            {
                Entry::ggml(dtype, shape, &bytes)
            }
            other => {
                let expected = "a type that mistral.rs reads from a UQFF: q8_0, q6k, q4_0 ..";
                Err(self.wrong(tensor, expected, format!("{other:?}").to_lowercase()))
            }
        }
    }

    /// A tensor in f32.
    pub(super) fn tensor(&self, tensor: &str) -> Result<Tensor> {
        let info = self.expected(tensor, &[])?;
        floats(&self.file.bytes(tensor)?, info.dtype, &info.shape)
    }

    pub(super) fn shaped(&self, tensor: &str, shape: &[usize]) -> Result<Tensor> {
        self.expected(tensor, shape)?;
        self.tensor(tensor)
    }

    /// The tensor's type and shape, which must be `shape` if that is not empty.
    pub(super) fn expected(&self, tensor: &str, shape: &[usize]) -> Result<&TensorInfo> {
        match self.info(tensor) {
            Some(info) if shape.is_empty() || info.shape == shape => Ok(info),
            Some(info) => {
                let found = format!("{:?}", info.shape);
                Err(self.wrong(tensor, &format!("a tensor of shape {shape:?}"), found))
            }
            None => Err(self.wrong(tensor, "a tensor", "nothing".into())),
        }
    }

    pub(super) fn info(&self, tensor: &str) -> Option<&TensorInfo> {
        self.file.tensor(tensor)
    }
}

fn floats(bytes: &[u8], dtype: GgmlDType, shape: &[usize]) -> Result<Tensor> {
    let storage = QStorage::from_data(Cow::from(bytes), &Device::Cpu, dtype)?;
    Ok(QTensor::new(storage, shape)?.dequantize(&Device::Cpu)?)
}
