//! A file of JSON lines that grows as results are known, so that work that was cut off goes
//! on where it was.

use crate::error::{Error, Result};
use reptune_adapters::files;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

/// The lines of the file at `path`, none if it does not exist. A last line without its end
/// was cut off while it was written; it is removed. `expected` says what a line holds, and
/// `hint` what to do about another one.
pub(crate) fn read<T: DeserializeOwned>(path: &Path, expected: &str, hint: &str) -> Result<Vec<T>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let bytes = files::read(path)?;
    let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
    let mut lines = Vec::new();
    for (i, line) in bytes[..whole].split(|b| *b == b'\n').enumerate() {
        if line.is_empty() {
            continue;
        }
        let line = serde_json::from_slice(line).map_err(|e| {
            let place = format!("line {}", i + 1);
            Error::input(path, place, expected, e.to_string(), hint)
        })?;
        lines.push(line);
    }
    if whole < bytes.len() {
        let file = OpenOptions::new().write(true).open(path);
        let cut = file.and_then(|file| file.set_len(whole as u64));
        cut.map_err(|e| reptune_adapters::Error::write(path, e))?;
    }
    Ok(lines)
}

/// Appends one line, whole and on the disk before anything else is computed.
pub(crate) fn append<T: Serialize>(path: &Path, line: &T) -> Result<()> {
    let write = || -> std::io::Result<()> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let mut line = serde_json::to_vec(line)?;
        line.push(b'\n');
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        file.write_all(&line)?;
        file.sync_data()
    };
    Ok(write().map_err(|e| reptune_adapters::Error::write(path, e))?)
}
