//! An adapter on mistral.rs's own list.

use crate::error::{Error, Result};
use candle_core::{DType, Device};
use mistralrs_quant::{
    LoraAdapter, LoraConfig, ShardedSafeTensors, clear_applied_loras, push_applied_lora,
};
use std::path::Path;

/// An adapter that mistral.rs merges into what this thread loads.
///
/// mistral.rs 0.8.1 takes adapters from the hub only, but its list is a public one, of
/// this thread. It never clears it, and the next model loaded on the thread would get
/// the adapter too; so the list is cleared when this goes, whatever happened.
pub(crate) struct Applied;

impl Applied {
    /// Puts the adapter of a PEFT directory on the list, and nothing else.
    ///
    /// # Errors
    /// When it cannot be read; the list is empty then.
    pub(crate) fn new(adapter: Option<&Path>) -> Result<Self> {
        clear_applied_loras();
        let applied = Self; // from here on the list is cleared, whatever happens
        if let Some(directory) = adapter {
            push_applied_lora(read(directory)?);
        }
        Ok(applied)
    }
}

impl Drop for Applied {
    fn drop(&mut self) {
        clear_applied_loras();
    }
}

fn read(directory: &Path) -> Result<LoraAdapter> {
    let wrong = |path: &Path, reason: String| Error::Runtime {
        place: path.display().to_string(),
        reason,
    };
    let path = directory.join("adapter_config.json");
    let config: LoraConfig = serde_json::from_slice(&reptune_adapters::artefact::read(&path)?)
        .map_err(|e| wrong(&path, e.to_string()))?;
    let path = directory.join("adapter_model.safetensors");
    let tensors = candle_core::safetensors::load(&path, &Device::Cpu)
        .map_err(|e| wrong(&path, e.to_string()))?;
    let weights = ShardedSafeTensors::wrap(Box::new(tensors), DType::F32, Device::Cpu);
    Ok(LoraAdapter { config, weights })
}
