//! Writing a UQFF directory: entries as they come, then the other weights, the
//! configuration and the tokenizer; whole or not at all.

use super::entry::Entry;
use super::file::UqffFile;
use super::provenance::{Digests, UqffProvenance};
use crate::error::{Error, Result};
use crate::model::checkpoint::{Checkpoint, RESIDUAL, embeddings_and_norms};
use crate::model::companions::{Companions, engine_reads};
use crate::model::config::ModelConfig;
use candle_core::Tensor;
use reptune_adapters::files::Staging;
use reptune_adapters::formats::safetensors::TensorFileWriter;
use reptune_adapters::{Error as Fault, ModelSpec};
use safetensors::Dtype;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

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

    /// Writes the other weights with `tensor`, which gives them by name and shape, copies the
    /// configuration and tokenizer of `model`, and puts all in place. After an error nothing is
    /// left.
    pub fn commit(
        self,
        spec: &ModelSpec,
        model: &Path,
        tensor: impl Fn(&str, &[usize]) -> Result<Tensor>,
    ) -> Result<()> {
        let others: Vec<(String, Vec<usize>)> = embeddings_and_norms(spec).collect();
        let shown = others.iter().map(|(name, _)| name.as_str());
        let path = self.0.path().join(RESIDUAL);
        let paths = (&*path, &*self.0.shown(&path));
        let mut file = TensorFileWriter::create(paths, shown, 0)?;
        for (name, shape) in &others {
            let (tensor, mut bytes) = (tensor(name, shape)?, Vec::new());
            tensor.write_bytes(&mut bytes)?;
            file.push(name, Dtype::F32, tensor.dims(), &bytes)?;
        }
        file.finish(BTreeMap::new())?;
        Companions::of(model, &ModelConfig::read(model)?)?.write(&self.0)?;
        self.check(spec)?;
        Ok(self.0.commit()?)
    }

    /// Opens what was written as its readers will.
    fn check(&self, spec: &ModelSpec) -> Result<()> {
        let directory = self.0.path();
        let config = ModelConfig::read(directory)?;
        engine_reads(&config)?;
        Companions::of(directory, &config)?;
        Checkpoint::next_to_uqff(directory, spec)?;
        let mut indices = BTreeSet::new();
        let io = |e| Fault::read(directory, e);
        for entry in std::fs::read_dir(directory).map_err(io)? {
            let path = entry.map_err(io)?.path();
            if path.extension().is_some_and(|e| e == "uqff")
                && let Some(file) = UqffFile::find(&path)?
            {
                indices.extend(file.indices());
            }
        }
        let (expected, found) = (1 + 7 * spec.layers, indices.len());
        match expected == found {
            true => Ok(()),
            false => {
                let expected = format!("{expected} entries");
                let hint = "this is a fault of the program; report it";
                Err(Error::model(
                    directory,
                    "*.uqff",
                    expected,
                    found.to_string(),
                    hint,
                ))
            }
        }
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
