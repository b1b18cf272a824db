//! A PEFT adapter, rewritten as mistral.rs reads one.

use crate::error::Result;
use reptune_adapters::{ModelSpec, files, lora::peft};
use std::path::Path;

/// An adapter as mistral.rs reads it: one rank, one alpha, whole module paths.
pub(super) struct Adapter {
    directory: tempfile::TempDir,
    /// Of both files.
    pub(super) hash: String,
}

impl Adapter {
    /// Reads what PEFT may have written, and writes it as mistral.rs takes it: it would
    /// not see, or misread, what it does not know.
    pub(super) fn read(directory: &Path, spec: &ModelSpec) -> Result<Self> {
        let update = peft::load(directory, spec)?;
        let written =
            tempfile::tempdir().map_err(|e| reptune_adapters::Error::write("adapter", e))?;
        peft::save(written.path(), &update, &spec.name)?;
        let mut parts = Vec::new();
        for name in ["adapter_config.json", "adapter_model.safetensors"] {
            parts.push(files::read(&written.path().join(name))?);
        }
        Ok(Self {
            hash: files::sha256(parts.iter().map(Vec::as_slice)),
            directory: written,
        })
    }

    /// Where it is written.
    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }
}
