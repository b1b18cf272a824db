//! The file of a sweep: a line for every cell, added to as cells are known.

use super::{Cell, Scores};
use crate::error::{Error, Result};
use reptune_adapters::files;
use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

/// Scores by key of the whole lines of `file`, which is cut after the last of them.
pub(super) fn resume(file: &Path) -> Result<HashMap<String, Scores>> {
    if !file.exists() {
        return Ok(HashMap::new());
    }
    let bytes = files::read(file)?;
    let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
    let mut known = HashMap::new();
    for (i, line) in bytes[..whole].split(|b| *b == b'\n').enumerate() {
        if line.is_empty() {
            continue;
        }
        let cell: Cell = serde_json::from_slice(line).map_err(|e| {
            Error::input(
                file,
                format!("line {}", i + 1),
                "a cell of a sweep",
                e.to_string(),
                "remove the line, or name another file",
            )
        })?;
        known.insert(cell.key, cell.log_odds);
    }
    if whole < bytes.len() {
        let cut = || {
            OpenOptions::new()
                .write(true)
                .open(file)?
                .set_len(whole as u64)
        };
        cut().map_err(|e| reptune_adapters::Error::write(file, e))?;
    }
    Ok(known)
}

/// One line, whole and on the disk before the next cell is begun.
pub(super) fn append(file: &Path, cell: &Cell) -> Result<()> {
    let write = || -> std::io::Result<()> {
        if let Some(directory) = file.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let mut line = serde_json::to_vec(cell)?;
        line.push(b'\n');
        let mut file = OpenOptions::new().create(true).append(true).open(file)?;
        file.write_all(&line)?;
        file.sync_data()
    };
    Ok(write().map_err(|e| reptune_adapters::Error::write(file, e))?)
}
