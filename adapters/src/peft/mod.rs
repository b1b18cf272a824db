//! Low-rank updates as PEFT directories: `adapter_config.json` and
//! `adapter_model.safetensors`, as Hugging Face PEFT and mistral.rs load them.
//!
//! What PEFT writes is read as PEFT reads it, several ranks and scales included. What is
//! written here is the part of it that mistral.rs reads in the same way.

mod config;
mod patterns;
mod read;
mod write;

pub use read::{load, read};
pub use write::save;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";
