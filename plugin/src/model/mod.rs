//! A model on disk: configuration, checkpoint, UQFF, GGUF, hub. [`ModelDir`] finds it once, at
//! the edge of the program.

mod checkpoint;
mod config;
mod config_file;
pub mod gguf;
mod hub;
mod model_dir;
mod rope;
mod source;
pub mod uqff;

pub(crate) use config::{EMBEDDINGS, spec};
pub use config::{ModelConfig, SlidingWindow, model_spec};
pub use model_dir::ModelDir;
pub use source::Source;
