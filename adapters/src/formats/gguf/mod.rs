//! GGUF, the container of llama.cpp: typed metadata and tensors in one file.
//!
//! candle reads it too, but allocates what the header claims before it looks whether the
//! file is that long. Files come from strangers, so here every count, length and extent is
//! held against the bytes that are really there, before memory is asked for; what is said
//! of the file is an [`Error::Content`](crate::Error) with the field's name. Values and
//! types of tensors are candle's own.
//!
//! Shapes are row-major, as everywhere in this project; the file has them the other way round.

mod cursor;
mod dtype;
mod layout;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use candle_core::quantized::GgmlDType;
pub use candle_core::quantized::gguf_file::Value;
pub use layout::{ARCHITECTURE, MAGIC};
pub use reader::{Gguf, TensorInfo};
pub use writer::GgufWriter;
