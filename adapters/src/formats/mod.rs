//! Containers: safetensors and GGUF, one reader and one writer each. Hostile input is refused.

pub mod gguf;
pub mod safetensors;
pub mod tables;
