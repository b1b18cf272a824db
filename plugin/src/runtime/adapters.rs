//! What mistral.rs keeps on the thread that loads, and never clears.

use super::message::failed;
use crate::error::Result;
use candle_core::{DType, Device};
use mistralrs_quant::{
    LoraAdapter, LoraConfig, ShardedSafeTensors, clear_applied_loras, clear_immediate_isq,
    push_applied_lora,
};
use std::path::Path;

/// The adapters that mistral.rs merges into what this thread loads.
///
/// mistral.rs 0.8.1 takes adapters only from the hub, but its list is public and belongs to
/// the thread. It is never cleared, so the next model loaded on the thread would get the
/// adapter too; nor is the quantization of the last `with_isq`. Both are cleared when this is
/// made and when it is dropped.
pub(super) struct ThreadAdapters;

impl ThreadAdapters {
    /// Leaves only the adapter of a PEFT directory on the list, or nothing.
    ///
    /// # Errors
    /// When it cannot be read; the list is empty then.
    pub(super) fn set(adapter: Option<&Path>) -> Result<Self> {
        clear();
        let adapters = Self; // cleared from here on, whatever happens
        if let Some(directory) = adapter {
            push_applied_lora(read(directory)?);
        }
        Ok(adapters)
    }
}

impl Drop for ThreadAdapters {
    fn drop(&mut self) {
        clear();
    }
}

fn clear() {
    clear_applied_loras();
    clear_immediate_isq();
}

fn read(directory: &Path) -> Result<LoraAdapter> {
    let wrong = |path: &Path, reason: String| failed(path.display().to_string(), &reason);
    let path = directory.join("adapter_config.json");
    let config: LoraConfig = serde_json::from_slice(&reptune_adapters::files::read(&path)?)
        .map_err(|e| wrong(&path, e.to_string()))?;
    let path = directory.join("adapter_model.safetensors");
    let tensors = candle_core::safetensors::load(&path, &Device::Cpu)
        .map_err(|e| wrong(&path, e.to_string()))?;
    let weights = ShardedSafeTensors::wrap(Box::new(tensors), DType::F32, Device::Cpu);
    Ok(LoraAdapter { config, weights })
}
