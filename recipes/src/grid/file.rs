//! The file of a grid: a line for every cell, added as cells are measured.

use super::MeasuredCell;
use crate::error::{Error, Result};
use reptune_adapters::files;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

/// The file, and the scores by key of the cells that stood in it.
pub(super) struct GridFile<'a, S> {
    path: &'a Path,
    known: HashMap<String, S>,
}

impl<'a, S: Serialize + DeserializeOwned> GridFile<'a, S> {
    /// Reads the file at `path`, if there is one. A last line without its end was cut off
    /// while it was written; it is removed.
    pub fn open(path: &'a Path) -> Result<Self> {
        let mut known = HashMap::new();
        let bytes = match path.exists() {
            true => files::read(path)?,
            false => Vec::new(),
        };
        let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        for (i, line) in bytes[..whole].split(|b| *b == b'\n').enumerate() {
            if line.is_empty() {
                continue;
            }
            let cell: MeasuredCell<S> = serde_json::from_slice(line).map_err(|e| {
                Error::input(
                    path,
                    format!("line {}", i + 1),
                    "a cell of a grid",
                    e.to_string(),
                    "remove the line, or name another file",
                )
            })?;
            known.insert(cell.key, cell.scores);
        }
        if whole < bytes.len() {
            let cut = || {
                OpenOptions::new()
                    .write(true)
                    .open(path)?
                    .set_len(whole as u64)
            };
            cut().map_err(|e| reptune_adapters::Error::write(path, e))?;
        }
        Ok(Self { path, known })
    }

    /// The scores of the cell with this key, if it stood in the file.
    pub fn scores(&self, key: &str) -> Option<&S> {
        self.known.get(key)
    }

    /// Writes one line, whole and on the disk before the next cell is measured.
    pub fn append(&self, cell: &MeasuredCell<S>) -> Result<()> {
        let write = || -> std::io::Result<()> {
            if let Some(directory) = self.path.parent() {
                std::fs::create_dir_all(directory)?;
            }
            let mut line = serde_json::to_vec(cell)?;
            line.push(b'\n');
            let mut file = OpenOptions::new()
                .create(true)
                .append(true)
                .open(self.path)?;
            file.write_all(&line)?;
            file.sync_data()
        };
        Ok(write().map_err(|e| reptune_adapters::Error::write(self.path, e))?)
    }
}
