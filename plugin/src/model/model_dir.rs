//! From what a user calls a model to its files: the only place where that is decided.

use super::checkpoint::RESIDUAL;
use super::config::{ModelConfig, model_spec};
use super::uqff::UqffFile;
use super::{gguf, hub};
use crate::error::{Error, Result};
use crate::progress;
use crate::store::{LIST, Store};
use reptune_adapters::formats::safetensors::shards;
use reptune_adapters::{ModelSpec, files};
use std::path::{Path, PathBuf};

/// A model on disk.
///
/// | the user writes | the model |
/// |---|---|
/// | a directory with safetensors | full weights |
/// | a directory with the `.uqff` files of one model | quantized weights |
/// | a `.uqff` file, one of several in its directory | quantized weights |
/// | a `.gguf` file | what was [imported](gguf::imported) from it into the user's [`Store`] |
/// | a hub id `owner/name` | its directory in the hub's cache, downloaded if necessary |
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelDir {
    path: PathBuf,
    /// The directory of configuration and tokenizer.
    pub directory: PathBuf,
    /// The `.uqff` files of the linear layers; none of a model with full weights.
    pub uqff: Vec<PathBuf>,
}

impl ModelDir {
    /// The model that a user names: a path or a hub id.
    ///
    /// # Errors
    /// When it is neither, the hub cannot deliver it, or a GGUF is of another architecture.
    pub fn resolve(model: &str) -> Result<Self> {
        let path = Path::new(model);
        match path.exists() {
            true => Self::at(path),
            false => Self::at(&hub::download(model)?),
        }
    }

    /// The model at `path`: a directory, a `.uqff` file or a `.gguf` file.
    ///
    /// # Errors
    /// When there is none, several UQFF models lie in the directory, or a GGUF is of another architecture.
    pub fn at(path: &Path) -> Result<Self> {
        let extension = path.extension().filter(|_| path.is_file());
        if extension.is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
            let mut shown = progress::of(format!("import {}", path.display()));
            return Self::at(&gguf::imported(path, &Store::open()?, &mut shown)?);
        }
        let is_uqff = extension.is_some_and(|e| e == "uqff");
        let bare = is_uqff && path.parent().is_some_and(|p| p.as_os_str().is_empty());
        let path = match bare {
            true => &Path::new(".").join(path),
            false => path,
        };
        let directory = match path.parent() {
            Some(parent) if is_uqff => parent,
            _ => path,
        };
        if !directory.is_dir() {
            let (expected, found) = match path.exists() {
                true => ("a directory, a .uqff or a .gguf file", "another file"),
                false => ("a directory", "no such directory"),
            };
            let hint = "give a model directory or a hub id";
            return Err(Error::model(path, "model", expected, found, hint));
        }
        Ok(Self {
            uqff: UqffFile::files(path)?,
            directory: directory.to_owned(),
            path: path.to_owned(),
        })
    }

    /// What names the model on disk: its directory, or a `.uqff` file of several there.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the weights are quantized.
    pub fn is_quantized(&self) -> bool {
        !self.uqff.is_empty()
    }

    /// The files of its weights.
    ///
    /// # Errors
    /// When they are not complete.
    pub fn weights(&self) -> Result<Vec<PathBuf>> {
        if !self.is_quantized() {
            return Ok(shards(&self.directory)?);
        }
        let mut files = self.uqff.clone();
        files.push(self.directory.join(RESIDUAL));
        Ok(files)
    }

    /// The open `.uqff` files; none of a model with full weights.
    ///
    /// # Errors
    /// When one is broken.
    pub fn open_uqff(&self) -> Result<Option<UqffFile>> {
        UqffFile::find(&self.path)
    }

    /// Its configuration, and the sizes and identity that follow from it.
    ///
    /// # Errors
    /// When configuration or tokenizer are missing, or it is of another architecture.
    pub fn config(&self) -> Result<(ModelConfig, ModelSpec)> {
        let config = ModelConfig::read(&self.directory)?;
        let spec = model_spec(&config, &self.directory)?;
        Ok((config, spec))
    }

    /// Identifies the content of the model, wherever it lies: a hash of the names and the
    /// contents of its weights, of its configuration and tokenizer, and of the other files that
    /// go with them. `memory` knows hashes from earlier, if there is one.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn key(&self, memory: Option<&Store>) -> Result<String> {
        let io = |e| reptune_adapters::Error::read(&self.directory, e);
        let mut files: Vec<PathBuf> = Vec::new();
        for entry in std::fs::read_dir(&self.directory).map_err(io)? {
            let path = entry.map_err(io)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let extension = path.extension().unwrap_or_default().to_string_lossy();
            let read = match &*extension {
                "uqff" => self
                    .uqff
                    .iter()
                    .any(|file| file.file_name() == path.file_name()),
                // weights that nothing here reads
                "bin" | "pth" | "pt" | "gguf" | "h5" | "msgpack" | "onnx" => false,
                // the list changes when the store hands out the directory
                _ => name != LIST && !name.starts_with('.'),
            };
            if read && path.is_file() {
                files.push(path);
            }
        }
        files.sort();
        let place = format!("hash {}", self.directory.display());
        let (mut shown, all) = (progress::of(place), files.len());
        let mut parts = Vec::new();
        for (done, path) in files.iter().enumerate() {
            shown(done, all);
            let hash = match memory {
                Some(memory) => memory.content_hash(path)?,
                None => Store::hash(path)?,
            };
            let name = path.file_name();
            parts.push(format!("{name:?} {hash} "));
        }
        Ok(files::sha256(parts.iter().map(String::as_bytes)))
    }
}

#[cfg(test)]
mod tests;
