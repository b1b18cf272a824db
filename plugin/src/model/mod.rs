//! A model on disk: configuration, checkpoint, UQFF, GGUF, hub. [`ModelDir`] finds it once, at
//! the edge of the program.

mod checkpoint;
mod companions;
mod config;
mod config_file;
mod dequantize;
pub mod gguf;
mod hub;
mod merged;
mod model_check;
mod model_dir;
mod rope;
mod source;
pub mod uqff;

pub use companions::Companions;
pub(crate) use config::{EMBEDDINGS, spec};
pub use config::{ModelConfig, SlidingWindow, model_spec};
pub use dequantize::dequantize;
pub(crate) use model_check::open_checked;
pub use model_check::{ModelCheck, check};
pub use model_dir::ModelDir;
pub use source::{Source, StoredLinear};
