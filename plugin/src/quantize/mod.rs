//! Merging into quantized weights, and what survives of the delta.
//!
//! A low-rank delta is often smaller than a quantization step. BlockQuantizer it away is
//! what this module measures ([`Survival`]), and what it works against: by rounding
//! with feedback on calibration prompts, by folding the mean error of every layer into
//! its bias, which mistral.rs adds at no cost, by keeping the few modules that carry the
//! delta in a finer type ([`Types::keep`]), and by tuning on weights that are quantized
//! already.
//!
//! Weights come from a full checkpoint, where the delta is added before anything is
//! rounded, or from a UQFF, whose entries are dequantized, changed and quantized again.
//! One block is in memory at a time, with the residual rows of the calibration prompts.

mod auto;
mod exam;
mod merge;
mod survey;
mod survival;
mod types;
mod ways;

pub use auto::{Candidate, auto, candidates};
pub use exam::{Exam, Grade};
pub use merge::{ErrorCompensation, QuantizedMerge};
pub use survey::{Subject, Survey};
pub use survival::{QuantizedReport, Survival};
pub use types::Types;
pub use ways::{Retuner, Ways, calibration};
