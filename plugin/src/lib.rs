//! reptune on mistral.rs: the hooked Llama, generation, baking, the command line.

pub mod bake;
pub mod cli;
mod error;
pub mod gguf;
pub mod hub;
pub mod inspect;
pub mod llama;
pub mod prompts;
pub mod quantized;
pub mod serve;
pub mod session;
pub mod source;
pub mod stages;
pub mod steered;
pub mod stock;
pub mod testing;
pub mod uqff;

pub use error::{Error, Result};
pub use llama::{Llama, LoadOptions};
pub use source::Source;
pub use steered::{Steer, Steered, Steering};
