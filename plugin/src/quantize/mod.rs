//! Merging a LoRA update into quantized weights, and how much of its effect is retained.
//!
//! The delta of a tuning is often smaller than a quantization step, so rounding to the
//! nearest value can remove it. [`RoundedModule`] measures this, and [`Merger`] has these
//! remedies, named by [`MergeRounding`](reptune_recipes::recipe::MergeRounding):
//!
//! | rounding | what it does |
//! |---|---|
//! | nearest | rounds every weight to the nearest value |
//! | bias-corrected | adds the mean error of the outputs back as a bias, which costs nothing per token |
//! | gptq | rounds with error feedback on calibration prompts, and corrects the bias |
//! | mixed | gptq, with finer types for the modules that lose most of their delta |
//! | retuned | quantizes the base, tunes on the quantized weights, and merges into them |
//! | unquantized | retuned, with the tuned modules left as f32 |
//!
//! Weights come from a full checkpoint, where the delta is added before anything is
//! rounded, or from a UQFF, whose entries are dequantized, changed and quantized again.
//! One block is in memory at a time, with the residual stream of the calibration prompts.

mod delta;
mod merger;
mod quantized_merge;
mod retention;
mod smallest;
mod types;

pub use delta::{QuantizedReport, RoundedModule};
pub use merger::{Merger, Retuner};
pub use quantized_merge::{ErrorCompensation, QuantizedMerge};
pub use retention::{RetentionCheck, RetentionScores};
pub use smallest::{SmallestMerge, TriedMerge, candidates};
pub use types::WeightTypes;
