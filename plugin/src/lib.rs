//! reptune on mistral.rs: the hooked Llama, generation, baking, the command line.

mod error;
pub mod llama;
pub mod uqff;

pub use error::{Error, Result};
pub use llama::{Llama, LoadOptions};
