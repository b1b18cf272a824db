//! Writing a UQFF directory: entries as they come, then the other weights, the
//! configuration and the tokenizer; whole or not at all.

use super::entry::Entry;
use super::provenance::{Digests, UqffProvenance};
use crate::error::{Error, Result};
use crate::model::checkpoint::{RESIDUAL, embeddings_and_norms};
use candle_core::Tensor;
use reptune_adapters::files::Staging;
use reptune_adapters::formats::safetensors::TensorFileWriter;
use reptune_adapters::{Error as Fault, ModelSpec};
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A UQFF directory that is being written.
pub struct UqffDirectory(Staging);

impl UqffDirectory {
    /// Starts a directory that is to become `out`, which must not hold files.
    pub fn create(out: &Path) -> Result<Self> {
        Ok(Self(Staging::new(out)?))
    }

    /// Starts the file `name` in it, with the entries of `indices`.
    pub fn file(
        &self,
        name: &str,
        indices: impl IntoIterator<Item = usize>,
        provenance: UqffProvenance,
    ) -> Result<UqffWriter> {
        let path = self.0.path().join(name);
        UqffWriter::new((&path, &self.0.shown(&path)), indices, provenance)
    }

    /// Writes the other weights with `tensor`, which gives them by name, copies the
    /// configuration and tokenizer of `model`, and puts all in place. After an error nothing is
    /// left.
    pub fn commit(
        self,
        spec: &ModelSpec,
        model: &Path,
        tensor: impl Fn(&str) -> Result<Tensor>,
    ) -> Result<()> {
        let names: Vec<String> = embeddings_and_norms(spec).map(|(name, _)| name).collect();
        let shown = names.iter().map(String::as_str);
        let path = self.0.path().join(RESIDUAL);
        let paths = (&*path, &*self.0.shown(&path));
        let mut file = TensorFileWriter::create(paths, shown, 0)?;
        for name in &names {
            let (tensor, mut bytes) = (tensor(name)?, Vec::new());
            tensor.write_bytes(&mut bytes)?;
            file.push(name, Dtype::F32, tensor.dims(), &bytes)?;
        }
        file.finish(BTreeMap::new())?;
        for file in companions(model)? {
            self.0.copy(&file)?;
        }
        Ok(self.0.commit()?)
    }
}

/// A `.uqff` that is being written, entry after entry.
pub struct UqffWriter {
    file: TensorFileWriter,
    provenance: UqffProvenance,
    digests: Digests,
}

impl UqffWriter {
    /// Creates the file `path`, with the entries of `indices`.
    pub fn create(
        path: &Path,
        indices: impl IntoIterator<Item = usize>,
        provenance: UqffProvenance,
    ) -> Result<Self> {
        Self::new((path, path), indices, provenance)
    }

    /// Creates the first of `paths`; errors name the second.
    fn new(
        paths: (&Path, &Path),
        indices: impl IntoIterator<Item = usize>,
        provenance: UqffProvenance,
    ) -> Result<Self> {
        let names: Vec<String> = indices.into_iter().map(|i| i.to_string()).collect();
        let shown = names.iter().map(String::as_str);
        let metadata = provenance.metadata_bytes(names.len());
        Ok(Self {
            file: TensorFileWriter::create(paths, shown, metadata)?,
            provenance,
            digests: Digests::default(),
        })
    }

    /// Writes the entry of `index`.
    pub fn push(&mut self, index: usize, entry: &Entry) -> Result<()> {
        let bytes = entry.bytes();
        self.digests.add(index, entry);
        let name = index.to_string();
        Ok(self.file.push(&name, Dtype::U8, &[bytes.len()], bytes)?)
    }

    /// Completes the file; returns its length.
    pub fn finish(self) -> Result<u64> {
        let metadata = self.digests.metadata(self.provenance.text());
        Ok(self.file.finish(metadata)?)
    }
}

/// The files next to the weights that mistral.rs reads, and the licence.
fn companions(model: &Path) -> Result<Vec<PathBuf>> {
    let io = |e| Fault::read(model, e);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(model).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let starts = ["tokenizer", "chat_template", "LICENSE", "NOTICE"];
        let is_named = matches!(
            &*name,
            "config.json" | "generation_config.json" | "special_tokens_map.json"
        );
        if path.is_file() && (is_named || starts.iter().any(|start| name.starts_with(start))) {
            files.push(path);
        }
    }
    if !files.iter().any(|f| f.ends_with("tokenizer.json")) {
        let hint = "fetch it: mistral.rs needs it next to the weights";
        let (place, expected) = ("tokenizer.json", "a file");
        return Err(Error::model(model, place, expected, "nothing", hint));
    }
    Ok(files)
}
