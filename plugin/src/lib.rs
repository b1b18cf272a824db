//! reptune on mistral.rs: the hooked Llama, steering and tuning on mistral.rs's own builder,
//! baking and merging into its files, a server, and the command line.

// in the order in which they may use each other
mod error;
mod progress;
mod stages;
pub mod store;

pub mod model;

pub mod decoder;
pub mod runtime;

pub mod bake;
pub mod convert;
pub mod inspect;
pub mod prompts;

pub mod quantize;
pub mod steered;
pub mod testing;

pub mod serve;
pub mod session;

mod pipeline;

pub mod cli;

pub use decoder::{Llama, LoadOptions};
pub use error::{Error, Result};
pub use model::Source;
pub use reptune_recipes::Chat;
pub use steered::{Steer, Steered, Steering};
