//! Writing a UQFF directory: entries as they come, then the other weights, the
//! configuration and the tokenizer; whole or not at all.

use super::entry::Entry;
use super::provenance::{Digests, Provenance};
use crate::error::{Error, Result};
use crate::model::checkpoint::{Checkpoint, RESIDUAL};
use candle_core::{DType, Tensor};
use reptune_adapters::ModelSpec;
use reptune_adapters::files::Staging;
use reptune_adapters::formats::safetensors::{TensorFile, TensorFileWriter};
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Name of the embedding table.
pub const EMBEDDINGS: &str = "model.embed_tokens.weight";

/// A UQFF directory that is being written.
pub struct UqffDirectory {
    staging: Staging,
}

impl UqffDirectory {
    /// Starts a directory that is to become `out`.
    ///
    /// # Errors
    /// When `out` holds files.
    pub fn create(out: &Path) -> Result<Self> {
        let staging = Staging::new(out)?;
        Ok(Self { staging })
    }

    /// Starts the file `name` in it, with the entries of `indices`.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn file(
        &self,
        name: &str,
        indices: impl IntoIterator<Item = usize>,
        provenance: Provenance,
    ) -> Result<UqffWriter> {
        let names = entry_names(indices);
        let shown = names.iter().map(String::as_str);
        let metadata = provenance.metadata_bytes(names.len());
        let path = self.staging.path().join(name);
        let paths = (&*path, &*self.staging.shown(&path));
        Ok(UqffWriter {
            file: TensorFileWriter::create(paths, shown, metadata)?,
            provenance,
            digests: Digests::default(),
        })
    }

    /// Writes the other weights with `tensor`, which gives them by name, copies what
    /// lies beside the weights in `model`, and puts all in place.
    ///
    /// # Errors
    /// When a weight or the tokenizer is missing, or the disk is full; nothing is left then.
    pub fn commit(
        self,
        spec: &ModelSpec,
        model: &Path,
        tensor: impl Fn(&str) -> Result<Tensor>,
    ) -> Result<()> {
        let mut names = vec![EMBEDDINGS.to_owned(), "model.norm.weight".to_owned()];
        for layer in 0..spec.layers {
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                names.push(format!("model.layers.{layer}.{norm}.weight"));
            }
        }
        let shown = names.iter().map(String::as_str);
        let path = self.staging.path().join(RESIDUAL);
        let paths = (&*path, &*self.staging.shown(&path));
        let mut file = TensorFileWriter::create(paths, shown, 0)?;
        for name in &names {
            let (tensor, mut bytes) = (tensor(name)?, Vec::new());
            tensor.write_bytes(&mut bytes)?;
            file.push(name, Dtype::F32, tensor.dims(), &bytes)?;
        }
        file.finish(BTreeMap::new())?;
        for file in companions(model)? {
            self.staging.copy(&file)?;
        }
        Ok(self.staging.commit()?)
    }
}

/// A `.uqff` that is being written, entry after entry.
pub struct UqffWriter {
    file: TensorFileWriter,
    provenance: Provenance,
    digests: Digests,
}

impl UqffWriter {
    /// Creates the file `path`, with the entries of `indices`.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn create(
        path: &Path,
        indices: impl IntoIterator<Item = usize>,
        provenance: Provenance,
    ) -> Result<Self> {
        let names = entry_names(indices);
        let shown = names.iter().map(String::as_str);
        let metadata = provenance.metadata_bytes(names.len());
        Ok(Self {
            file: TensorFileWriter::create((path, path), shown, metadata)?,
            provenance,
            digests: Digests::default(),
        })
    }

    /// Writes the entry of `index`.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn push(&mut self, index: usize, entry: &Entry) -> Result<()> {
        let bytes = entry.bytes();
        self.digests.add(index, entry);
        Ok(self
            .file
            .push(&index.to_string(), Dtype::U8, &[bytes.len()], bytes)?)
    }

    /// Completes the file; returns its length.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn finish(self) -> Result<u64> {
        let metadata = self.provenance.metadata(&self.digests);
        Ok(self.file.finish(metadata)?)
    }
}

fn entry_names(indices: impl IntoIterator<Item = usize>) -> Vec<String> {
    indices.into_iter().map(|i| i.to_string()).collect()
}

/// The tensors of a full checkpoint, or of the `residual.safetensors` beside a UQFF,
/// one at a time.
pub struct CheckpointWeights(Vec<TensorFile>);

impl CheckpointWeights {
    /// Opens the files of a checkpoint that was checked.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn open(checkpoint: &Checkpoint) -> Result<Self> {
        let files = checkpoint.files.iter().map(|f| TensorFile::open(f));
        Ok(Self(files.collect::<reptune_adapters::Result<Vec<_>>>()?))
    }

    /// Opens what lies beside a UQFF in `directory`.
    ///
    /// # Errors
    /// When it is missing.
    pub fn residual(directory: &Path) -> Result<Self> {
        Ok(Self(vec![TensorFile::open(&directory.join(RESIDUAL))?]))
    }

    /// A tensor in f32.
    ///
    /// # Errors
    /// When it is missing, or no float.
    pub fn get(&self, name: &str) -> Result<Tensor> {
        let holds = |f: &&TensorFile| f.info(name).is_some();
        match self.0.iter().find(holds).or(self.0.first()) {
            Some(file) => Ok(file.tensor(name)?.to_dtype(DType::F32)?),
            None => {
                let hint = "fetch the model again";
                Err(Error::model(name, "weights", "a file", "none", hint))
            }
        }
    }
}

/// The files beside the weights that mistral.rs reads, and the licence.
fn companions(model: &Path) -> Result<Vec<PathBuf>> {
    let io = |e| reptune_adapters::Error::read(model, e);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(model).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let named = [
            "config.json",
            "generation_config.json",
            "special_tokens_map.json",
        ];
        let like = ["tokenizer", "chat_template", "LICENSE", "NOTICE"];
        if path.is_file()
            && (named.contains(&&*name) || like.iter().any(|start| name.starts_with(start)))
        {
            files.push(path);
        }
    }
    if !files.iter().any(|f| f.ends_with("tokenizer.json")) {
        return Err(Error::model(
            model,
            "tokenizer.json",
            "a file",
            "nothing",
            "fetch it: mistral.rs needs it beside the weights",
        ));
    }
    Ok(files)
}
