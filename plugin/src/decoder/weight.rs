//! A linear layer of the hooked Llama: frozen in mistral.rs's storage, or a trained tensor.

use candle_core::{DType, Result, Tensor};
use mistralrs_core::layers::MatMul;
use mistralrs_quant::QuantMethod;
use reptune_adapters::ops::{FrozenMatrix, frozen_linear};
use std::sync::Arc;

/// The weight of one linear layer.
#[derive(Clone)]
pub(super) enum Weight {
    /// Full or quantized, never changed.
    Frozen(Arc<dyn FrozenMatrix>),
    /// (O, I), takes a gradient.
    Trained(Tensor),
}

impl Weight {
    /// A weight as mistral.rs loaded it. `biased` says whether it has a bias, `dtype` is that of
    /// its inputs. A full weight of that dtype without bias becomes a plain tensor, because
    /// its product is faster here.
    pub(super) fn frozen(method: Arc<dyn QuantMethod>, biased: bool, dtype: DType) -> Self {
        match method.unquant_weight_bias() {
            Some((weight, None)) if !biased && weight.dtype() == dtype => {
                Self::Frozen(Arc::new(weight))
            }
            _ => Self::Frozen(Arc::new(RuntimeMatrix { method, dtype })),
        }
    }

    pub(super) fn as_frozen(&self) -> Option<&Arc<dyn FrozenMatrix>> {
        match self {
            Self::Frozen(matrix) => Some(matrix),
            Self::Trained(_) => None,
        }
    }

    /// `x W^T`. Shapes: `x` (N, I), result (N, O).
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Frozen(matrix) => frozen_linear(x, matrix),
            Self::Trained(weight) => x.matmul(&weight.t()?),
        }
    }
}

/// A weight as mistral.rs holds it.
struct RuntimeMatrix {
    method: Arc<dyn QuantMethod>,
    dtype: DType,
}

impl FrozenMatrix for RuntimeMatrix {
    fn product(&self, x: &Tensor) -> Result<Tensor> {
        // mistral.rs works on (batch, rows, features)
        MatMul
            .qmethod_matmul(&x.unsqueeze(0)?, &*self.method)?
            .squeeze(0)
    }

    fn weight(&self) -> Result<Tensor> {
        self.method.dequantize_w()?.to_dtype(self.dtype)
    }

    fn is_full(&self) -> bool {
        false
    }
}
