//! Replies of a judge, kept in a .jsonl file, so that no question is paid for twice.

use crate::error::Result;
use crate::json_lines;
use reptune_adapters::files;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
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
        let hint = "delete the line or the file; the judge is asked again";
        let lines: Vec<Line> =
            json_lines::read(path, "a reply of a judge: key, model, reply", hint)?;
        let replies = lines.into_iter().map(|line| (line.key, line.reply));
        Ok(Self {
            path: path.to_owned(),
            replies: replies.collect(),
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
        json_lines::append(&self.path, &line)?;
        self.replies.insert(line.key, line.reply);
        Ok(())
    }
}
