//! Differentiable operations of a decoder over a table of tokens.
//!
//! On the CPU in f32 each is one fused operation of [`reptune_kernels`], with a hand-written
//! backward. On other devices and in other dtypes each is composed of candle operations,
//! with means, softmaxes and losses taken in f32; the composed form is also the reference
//! that the tests compare the kernels with.

mod attention;
mod linear;
mod row_wise;

#[cfg(test)]
mod tests;

pub use attention::{attention, attention_composed};
pub(crate) use linear::like;
pub use linear::{attention_half, attention_half_composed, mlp_half, mlp_half_composed};
pub use linear::{frozen_linear, frozen_linear_composed, lora_linear, lora_linear_composed};
pub use reptune_kernels::{Factors, FrozenAttention, FrozenMatrix, FrozenMlp};
pub use reptune_kernels::{Rotation, Target, in_pool};
pub use row_wise::{head_norm, rms_norm, rms_norm_composed, rotary, rotary_composed};
pub use row_wise::{swiglu, swiglu_composed};
pub use row_wise::{target_loss, target_loss_composed};
