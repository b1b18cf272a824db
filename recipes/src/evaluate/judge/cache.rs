//! Replies of a judge, kept in a .jsonl file, so that no question is paid for twice.

use crate::error::{Error, Result};
use reptune_adapters::files;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// One line of the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    /// SHA-256 of model and prompt.
    key: String,
    model: String,
    reply: String,
}

/// Replies by key.
pub(super) struct Cache {
    path: PathBuf,
    replies: HashMap<String, String>,
}

impl Cache {
    /// Reads the file, if there is one. A last line without its end was cut off while
    /// it was written; it is dropped.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let mut replies = HashMap::new();
        let bytes = match path.exists() {
            true => files::read(path)?,
            false => Vec::new(),
        };
        let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        if whole < bytes.len() {
            files::write_atomically(path, |w| w.write_all(&bytes[..whole]))?;
        }
        for (i, line) in bytes[..whole].split(|b| *b == b'\n').enumerate() {
            if line.is_empty() {
                continue;
            }
            let line: Line = serde_json::from_slice(line).map_err(|e| {
                Error::input(
                    path,
                    format!("line {}", i + 1),
                    "a reply of a judge: key, model, reply",
                    e.to_string(),
                    "delete the line or the file; the judge is asked again",
                )
            })?;
            replies.insert(line.key, line.reply);
        }
        Ok(Self {
            path: path.to_owned(),
            replies,
        })
    }

    /// SHA-256 of `parts`, each with its length, so that none runs into the next.
    pub(super) fn key(parts: &[&str]) -> String {
        let lengths: Vec<[u8; 8]> = parts
            .iter()
            .map(|p| (p.len() as u64).to_le_bytes())
            .collect();
        let both = lengths.iter().zip(parts);
        files::sha256(both.flat_map(|(length, part)| [length.as_slice(), part.as_bytes()]))
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.replies.get(key).map(String::as_str)
    }

    /// Keeps a reply, in memory and as a line of the file.
    pub(super) fn put(&mut self, key: String, model: &str, reply: String) -> Result<()> {
        let line = Line {
            key,
            model: model.into(),
            reply,
        };
        let mut json = serde_json::to_string(&line).unwrap_or_default();
        json.push('\n');
        let append = || -> std::io::Result<()> {
            if let Some(directory) = self.path.parent() {
                std::fs::create_dir_all(directory)?;
            }
            let mut file = std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(&self.path)?;
            file.write_all(json.as_bytes())?;
            file.sync_data()
        };
        append().map_err(|e| Error::Adapters(reptune_adapters::Error::write(&self.path, e)))?;
        self.replies.insert(line.key, line.reply);
        Ok(())
    }
}
