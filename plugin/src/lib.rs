//! reptune on mistral.rs: the hooked Llama, generation, baking, the command line.

pub mod bake;
pub mod cli;
pub mod convert;
mod error;

pub mod decoder;
pub mod inspect;
pub mod model;
pub mod pipeline;
pub mod progress;
pub mod prompts;
pub mod quantize;
pub mod runtime;
pub mod serve;
pub mod session;
pub mod store;

pub mod stages;
pub mod steered;

pub mod testing;

pub use decoder::{Llama, LoadOptions};
pub use error::{Error, Result};
pub use model::Source;
pub use steered::{Steer, Steered, Steering};
