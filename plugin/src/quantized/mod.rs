//! Merging into quantized weights, and what survives of the delta.
//!
//! A low-rank delta is often smaller than a quantization step. Rounding it away is
//! what this module measures ([`Survival`]), and what it works against: by rounding
//! with feedback on calibration prompts, by folding the mean error of every layer into
//! its bias, which mistral.rs adds at no cost, and by keeping the few sites that carry
//! the delta in a finer type ([`Types::keep`]).
//!
//! Weights come from a full checkpoint, where the delta is added before anything is
//! rounded, or from a UQFF, whose entries are dequantized, changed and quantized again.
//! One block is in memory at a time, with the residual rows of the calibration prompts.

mod merge;
mod source;
mod survival;
mod types;

pub use merge::{QuantizedMerge, Way};
pub use source::Source;
pub use survival::{QuantizedReport, Survival};
pub use types::Types;
