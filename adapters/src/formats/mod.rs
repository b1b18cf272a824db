//! Containers: safetensors and GGUF, one reader and one writer each. Hostile input is refused.

pub mod gguf;
pub mod safetensors;
pub mod tables;

/// Numbers of 4 bytes, little-endian.
pub(crate) fn floats(bytes: &[u8]) -> Vec<f32> {
    let (words, _) = bytes.as_chunks::<4>();
    words.iter().map(|w| f32::from_le_bytes(*w)).collect()
}
