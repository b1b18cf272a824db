//! Differentiable operations of a Llama over a table of rows.
//!
//! On the CPU in f32 each is one fused op with a hand-written backward, parallel over
//! rows or heads with a fixed order of summation (so results do not depend on
//! the number of threads). On other devices and in other dtypes each is composed of
//! candle ops, with means, softmaxes and losses taken in f32; the composed form is also
//! the plain reference that the tests compare with.

mod attention;
mod frozen_linear;
mod gemm;
mod half_block;
mod lora_linear;
mod neighbours;
mod product;
mod rms_norm;
mod rotary;
mod slice;
mod swiglu;
mod target_loss;

#[cfg(test)]
mod tests;

use candle_core::{DType, Result, Tensor};

pub use attention::{attention, attention_composed};
pub use frozen_linear::{FrozenMatrix, frozen_linear, frozen_linear_composed};
pub use half_block::{
    Factors, FrozenAttention, FrozenMlp, attention_half, attention_half_composed, mlp_half,
    mlp_half_composed,
};
pub use lora_linear::{lora_linear, lora_linear_composed};
pub use rms_norm::{rms_norm, rms_norm_composed};
pub use rotary::{Rotation, rotary, rotary_composed};
pub use swiglu::{swiglu, swiglu_composed};
pub use target_loss::{Target, target_loss, target_loss_composed};

/// Whether the fused form can compute with `t`.
fn fused(t: &Tensor) -> bool {
    t.device().is_cpu() && t.dtype() == DType::F32
}

/// `t` on the device and in the dtype of `x`.
pub(crate) fn beside(t: &Tensor, x: &Tensor) -> Result<Tensor> {
    t.to_device(x.device())?.to_dtype(x.dtype())
}

/// Runs `f` on a thread of the pool that the ops compute on: its parallel parts then begin
/// where it stands, instead of waking another thread each time.
pub fn in_pool<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| f())
}
