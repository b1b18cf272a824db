//! GGUF, the container of llama.cpp: typed metadata and tensors in one file.
//!
//! candle reads it too, but allocates what the header claims before it checks the length of
//! the file. Files may be hostile, so here every count, length and extent is compared with
//! the bytes that are there before memory is allocated; errors are
//! [`Error::Content`](crate::Error) with the name of the field. Values and types of tensors
//! are candle's own.
//!
//! Shapes are row-major, as everywhere in this project; the file stores them reversed.

mod cursor;
mod layout;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use candle_core::quantized::GgmlDType;
pub use candle_core::quantized::gguf_file::Value;
pub use layout::{bytes, dtype};
pub use reader::{Gguf, TensorInfo};
pub use writer::GgufWriter;
