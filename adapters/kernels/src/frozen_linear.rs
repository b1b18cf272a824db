//! A linear layer whose weight takes no gradient.
//!
//! candle's own matrix product computes the gradients of both factors. For a frozen weight
//! that doubles the work of the backward and makes a tensor as large as the weight. Here the
//! backward computes the gradient of the input only.

use crate::product::{product, product_back};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use std::sync::Arc;

/// A weight matrix of any storage (full or quantized) that can be multiplied with.
pub trait FrozenMatrix: Send + Sync {
    /// `x W^T (+ b)`. Shapes: `x` (N, I), result (N, O). No gradient is recorded.
    ///
    /// # Errors
    /// When the product fails.
    fn product(&self, x: &Tensor) -> Result<Tensor>;

    /// The weight (O, I) in the dtype of the activations, for the backward.
    ///
    /// # Errors
    /// When it cannot be dequantized.
    fn weight(&self) -> Result<Tensor>;

    /// Whether the weight is stored in the dtype of the activations, so that
    /// [`FrozenMatrix::weight`] copies nothing.
    fn is_full(&self) -> bool;
}

/// Applies a frozen linear layer, differentiable in its input only.
///
/// `y = x W^T`, `gx = gy W`. A quantized product also rounds its input; the
/// backward ignores that rounding (straight-through estimator).
///
/// Shapes: `x` (N, I), result (N, O).
///
/// # Errors
/// When the product fails.
pub fn frozen_linear(x: &Tensor, matrix: &Arc<dyn FrozenMatrix>) -> Result<Tensor> {
    let y = matrix.product(&x.detach())?.contiguous()?;
    if x.track_op() {
        x.apply_op2(&y.detach(), Graft(matrix.clone()))
    } else {
        Ok(y)
    }
}

/// Returns its second argument as if it had been computed from the first.
struct Graft(Arc<dyn FrozenMatrix>);

impl CustomOp2 for Graft {
    fn name(&self) -> &'static str {
        "frozen_linear"
    }

    fn cpu_fwd(
        &self,
        _s1: &CpuStorage,
        _l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        whole(s2, l2)
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        _s1: &candle_core::CudaStorage,
        _l1: &Layout,
        s2: &candle_core::CudaStorage,
        l2: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        whole(s2, l2)
    }

    #[cfg(feature = "metal")]
    fn metal_fwd(
        &self,
        _s1: &candle_core::MetalStorage,
        _l1: &Layout,
        s2: &candle_core::MetalStorage,
        l2: &Layout,
    ) -> Result<(candle_core::MetalStorage, Shape)> {
        whole(s2, l2)
    }

    fn bwd(
        &self,
        _x: &Tensor,
        _y: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(product_back(grad, &self.0.weight()?)?), None))
    }
}

/// A copy of a storage that begins with its tensor.
fn whole<S: BackendStorage>(storage: &S, layout: &Layout) -> Result<(S, Shape)> {
    match layout.is_contiguous() && layout.start_offset() == 0 {
        true => Ok((storage.try_clone(layout)?, layout.shape().clone())),
        false => bail!("frozen_linear: product is a view of another tensor"),
    }
}

/// A plain tensor is the simplest frozen matrix.
impl FrozenMatrix for Tensor {
    fn product(&self, x: &Tensor) -> Result<Tensor> {
        product(x, self)
    }

    fn weight(&self) -> Result<Tensor> {
        Ok(self.detach())
    }

    fn is_full(&self) -> bool {
        true
    }
}
