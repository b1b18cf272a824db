//! GGUF, the container of llama.cpp: typed metadata and tensors in blocks of ggml.
//!
//! A reader that believes a header allocates whatever it claims. [`Gguf`] measures every
//! length against the file before it allocates, and reads tensors one at a time.

pub mod llama;
mod read;
mod write;

pub use candle_core::quantized::GgmlDType;
pub use candle_core::quantized::gguf_file::Value;
pub use read::{Gguf, TensorInfo};
pub use write::GgufWriter;

const MAGIC: &[u8; 4] = b"GGUF";
/// Where tensors start, unless `general.alignment` says otherwise.
const ALIGNMENT: u64 = 32;

/// Numbers of the types that are known here.
const TYPES: [(u32, GgmlDType); 15] = [
    (0, GgmlDType::F32),
    (1, GgmlDType::F16),
    (2, GgmlDType::Q4_0),
    (3, GgmlDType::Q4_1),
    (6, GgmlDType::Q5_0),
    (7, GgmlDType::Q5_1),
    (8, GgmlDType::Q8_0),
    (9, GgmlDType::Q8_1),
    (10, GgmlDType::Q2K),
    (11, GgmlDType::Q3K),
    (12, GgmlDType::Q4K),
    (13, GgmlDType::Q5K),
    (14, GgmlDType::Q6K),
    (15, GgmlDType::Q8K),
    (30, GgmlDType::BF16),
];

#[cfg(test)]
mod tests;
