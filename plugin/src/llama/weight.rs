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
    pub(super) fn frozen(method: Arc<dyn QuantMethod>) -> Self {
        let plain = None;
        Self::Frozen(Arc::new(RuntimeMatrix { method, plain }))
    }

    /// One that is neither quantized nor has a bias. (A layer does not say whether it has
    /// one: it keeps it beside what [`QuantMethod::unquant_weight_bias`] shows.)
    pub(super) fn full(method: Arc<dyn QuantMethod>) -> Self {
        let plain = method.unquant_weight_bias().map(|(weight, _)| weight);
        Self::Frozen(Arc::new(RuntimeMatrix { method, plain }))
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
    plain: Option<Tensor>,
}

impl FrozenMatrix for RuntimeMatrix {
    fn product(&self, x: &Tensor) -> Result<Tensor> {
        // mistral.rs works on (batch, rows, features)
        MatMul
            .qmethod_matmul(&x.unsqueeze(0)?, &*self.method)?
            .squeeze(0)
    }

    fn plain(&self) -> Option<Tensor> {
        self.plain.clone()
    }

    fn weight(&self) -> Result<Tensor> {
        self.method.dequantize_w()?.to_dtype(DType::F32)
    }
}
