//! Updates of weights: what they are, their files, and the losses and optimiser that tune
//! them.

pub mod adamw;
mod adapter;
pub mod delta_file;
pub mod gguf;
pub mod loss;
pub mod peft;

pub use adapter::{Adapter, LoraInit, WeightDelta};
