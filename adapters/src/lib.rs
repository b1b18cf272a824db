//! What acts on a model: its residual stream and its weights, without any runtime.
//!
//! Layers, lowest first: [`process`] names who writes; [`files`] and [`formats`] read and write; [`model`] holds sizes, the
//! [`PrefixTree`] that packs prompts into one table of tokens, and the key/value cache;
//! [`ops`] are differentiable operations over that table; [`steering`] has [`DirectionSet`]s
//! and [`Intervention`]s; [`lora`] has [`Adapter`]s and the losses that tune them;
//! [`hooked`] has [`HookedModel`], the trait that a runtime implements.
//!
//! Layer convention, everywhere: the residual stream at layer `i` is the OUTPUT
//! of decoder block `i`, counted from 0.
//!
//! Shape letters: N tokens of a batch, H hidden, L layers, P pairs, R rank, I/O in and out
//! features, V vocabulary, T tokens of one sequence.

mod error;
pub mod files;
pub mod formats;
pub mod hooked;
pub mod lora;
pub mod model;
pub mod ops;
pub mod process;
pub mod rounding;
pub mod steering;

pub use error::{Error, Result};
pub use hooked::{CaptureTokens, ForwardOptions, ForwardOutput, HookedModel, Resume};
pub use lora::{Adapter, LoraInit, WeightDelta};
pub use model::{
    Architecture, GradientCheckpointing, KeyValueCache, ModelSpec, ModuleKind, PrefixTree,
    TargetModule, TokenMask,
};
pub use steering::{
    Decide, Direction, DirectionSet, Dose, Gate, HookPoint, Intervention, Operator, Positions,
    Side, open_directions, open_directions_for,
};
