//! What a model on disk is: configuration, checkpoint, UQFF, GGUF, hub; resolved once, at the
//! edge of the program.

mod checkpoint;
mod config;
pub mod gguf;
pub mod hub;
mod source;
pub mod uqff;

pub use checkpoint::Checkpoint;
pub(crate) use config::spec;
pub use config::{LlamaConfig, model_spec};
pub use source::Source;
