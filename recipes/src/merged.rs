//! What a merged checkpoint says of itself: which updates are in it, and the hashes of the
//! tensors that they changed.
//!
//! Its weights have no room for such a text, as their files stay what they were, so it lies
//! beside them as [`FILE`], which nobody else reads.

use crate::error::Result;
use reptune_adapters::formats::safetensors::{TensorFile, shards};
use reptune_adapters::{Error, files};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Name of the file.
pub const FILE: &str = "reptune.json";

const FORMAT: &str = "reptune.merged.1";

/// The updates in a merged checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merged {
    format: String,
    /// Name and version of the program.
    pub made_by: String,
    /// Hashes of the updates, in the order in which they were merged.
    pub updates: Vec<String>,
    /// SHA-256 of every tensor that is not the base's.
    pub tensors: BTreeMap<String, String>,
}

impl Merged {
    /// Of a checkpoint in which nothing was changed yet.
    pub fn nothing() -> Self {
        Self {
            format: FORMAT.into(),
            made_by: concat!("reptune ", env!("CARGO_PKG_VERSION")).into(),
            updates: Vec::new(),
            tensors: BTreeMap::new(),
        }
    }

    /// What the checkpoint in `directory` says; none if nothing was merged into it by us.
    ///
    /// # Errors
    /// When the file is broken.
    pub fn read(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join(FILE);
        if !path.is_file() {
            return Ok(None);
        }
        let wrong = |found: String| {
            let hint = "merge anew, or remove it";
            Error::content(&path, "content", FORMAT, found, hint)
        };
        let read: Self =
            serde_json::from_slice(&files::read(&path)?).map_err(|e| wrong(e.to_string()))?;
        match read.format == FORMAT {
            true => Ok(Some(read)),
            false => Err(wrong(read.format).into()),
        }
    }

    /// The text of the file.
    pub fn text(&self) -> String {
        let json = serde_json::to_string_pretty(self).unwrap_or_default();
        json + "\n"
    }

    /// Checks the changed tensors of the checkpoint in `directory` against their hashes.
    ///
    /// # Errors
    /// When one is missing or another.
    pub fn verify(&self, directory: &Path) -> Result<()> {
        let files = shards(directory)?
            .iter()
            .map(|s| TensorFile::open(s))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        for (name, expected) in &self.tensors {
            let file = files.iter().find(|f| f.info(name).is_some());
            let found = match file {
                Some(file) => files::sha256([file.bytes(name)?.as_slice()]),
                None => "no such tensor".into(),
            };
            if found != *expected {
                return Err(Error::content(
                    directory,
                    format!("tensor `{name}`"),
                    format!("SHA-256 {expected}, as {FILE} says"),
                    found,
                    "the checkpoint was changed or damaged after the merge; merge anew",
                )
                .into());
            }
        }
        Ok(())
    }
}
