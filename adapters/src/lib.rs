//! What can be done to a residual stream or to a weight.
//!
//! The nouns of reptune, without any runtime: the [`Forest`] that packs prompts
//! into one table of rows, the differentiable [`ops`] over it, [`Intervention`]s
//! on its residual rows, [`DirectionSet`]s, low-rank updates ([`LowRank`]) and
//! the losses that tune them. What a runtime must offer stands in [`host`].
//!
//! Layer convention, everywhere: the residual stream at layer `i` is the OUTPUT
//! of decoder block `i`, counted from 0.
//!
//! Shape letters: N rows, H hidden, L layers, P pairs, R rank, I/O in and out
//! features, V vocabulary, T tokens of one sequence.

pub mod adamw;
pub mod algebra;
pub mod artefact;
pub mod delta_file;
pub mod direction;
mod error;
pub mod exchange;
pub mod forest;
pub mod gate;
pub mod gguf;
pub mod host;
pub mod intervention;
pub mod loss;
pub mod low_rank;
pub mod operator;
pub mod ops;
pub mod patch;
pub mod peft;
pub mod rounding;
pub mod rows;
pub mod staging;
pub mod tensor_file;

pub use direction::{Direction, DirectionSet};
pub use error::{Error, Result};
pub use forest::Forest;
pub use gate::{Decide, Gate, Side};
pub use host::{Activations, Cache, Host, ModelSpec, Pass, Request, Start};
pub use intervention::{Intervention, Point};
pub use low_rank::{LowRank, LowRankUpdate, Site};
pub use operator::Operator;
pub use rows::RowRule;
