//! What is done with a model: extract, tune, evaluate, merge, run.

mod error;
pub mod world;

pub use error::{Error, Result};
