//! What mistral.rs keeps on the thread that loads, and never clears.

use crate::error::{Error, Result};
use candle_core::{DType, Device};
use mistralrs_quant::{
    LoraAdapter, LoraConfig, ShardedSafeTensors, clear_applied_loras, clear_immediate_isq,
    push_applied_lora,
};
use std::path::Path;

/// An adapter that mistral.rs merges into what this thread loads.
///
/// mistral.rs 0.8.1 takes adapters from the hub only, but its list is a public one, of
/// this thread. It never clears it, and the next model loaded on the thread would get
/// the adapter too; nor does it forget the quantization of the last `with_isq`, which the
/// next model would get. So both are cleared before, and when this goes, whatever happened.
pub(crate) struct Applied;

impl Applied {
    /// Puts the adapter of a PEFT directory on the list, and nothing else.
    ///
    /// # Errors
    /// When it cannot be read; the list is empty then.
    pub(crate) fn new(adapter: Option<&Path>) -> Result<Self> {
        clear();
        let applied = Self; // from here on they are cleared, whatever happens
        if let Some(directory) = adapter {
            push_applied_lora(read(directory)?);
        }
        Ok(applied)
    }
}

impl Drop for Applied {
    fn drop(&mut self) {
        clear();
    }
}

fn clear() {
    clear_applied_loras();
    clear_immediate_isq();
}

fn read(directory: &Path) -> Result<LoraAdapter> {
    let wrong = |path: &Path, reason: String| Error::Runtime {
        place: path.display().to_string(),
        reason,
    };
    let path = directory.join("adapter_config.json");
    let config: LoraConfig = serde_json::from_slice(&reptune_adapters::files::read(&path)?)
        .map_err(|e| wrong(&path, e.to_string()))?;
    let path = directory.join("adapter_model.safetensors");
    let tensors = candle_core::safetensors::load(&path, &Device::Cpu)
        .map_err(|e| wrong(&path, e.to_string()))?;
    let weights = ShardedSafeTensors::wrap(Box::new(tensors), DType::F32, Device::Cpu);
    Ok(LoraAdapter { config, weights })
}
