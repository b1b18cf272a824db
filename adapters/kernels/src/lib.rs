//! Fused operations of a Llama block on the CPU in f32, each with a hand-written backward.
//!
//! Work is parallel over rows or heads with a fixed order of summation, so results do not
//! depend on the number of threads. All unsafe code of the libraries is in this crate
//! (`gemm.rs`, `slice.rs`). It knows no other device or dtype: `reptune_adapters::ops` has
//! the same operations composed of candle's own, which serve as the reference in tests and
//! for everything that [`takes`] refuses.
//!
//! Shape letters: N tokens of a batch, H hidden, D head dimension, R rank, I/O in and out
//! features, V vocabulary.

mod ancestors;
mod attention;
mod gemm;
mod half_block;
mod linear;
mod recorded;
mod row_wise;
mod slice;
mod target_loss;

pub use ancestors::{Ancestors, Span};
pub use attention::attention;
pub use half_block::{Factors, FrozenAttention, FrozenMlp, GradientCheckpointing};
pub use half_block::{attention_half, mlp_half};
pub use linear::{FrozenMatrix, frozen_linear, lora_linear};
pub use row_wise::{Rotation, rms_norm, rotary, swiglu};
pub use slice::takes;
pub use target_loss::{Target, target_loss};

/// Runs `f` on a thread of the pool that computes the operations, so that their parallel
/// parts start on that thread instead of waking another one each time.
pub fn in_pool<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| f())
}
