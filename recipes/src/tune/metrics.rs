//! What is written down about each step.

use crate::error::{Error, Result};
use reptune_adapters::files;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Optimizer step, from 1.
    pub step: usize,
    /// Token loss of the batch, not weighted.
    pub token_loss: f64,
    /// Representation loss of the batch; none in a mode without one.
    pub representation_loss: Option<f64>,
    /// Token loss of the validation claims, where they were measured.
    pub validation_token_loss: Option<f64>,
    /// Representation loss of the validation claims, where it was measured.
    pub validation_representation_loss: Option<f64>,
    /// Learning rate of the step, for modules that are in no group.
    pub lr: f64,
}

impl Metrics {
    /// Reads the lines of a `metrics.jsonl`; numbers may be off in their last bit.
    ///
    /// # Errors
    /// When the file cannot be read, or a line is not of this form.
    pub fn read(path: &Path) -> Result<Vec<Self>> {
        let bytes = files::read(path)?;
        let text = String::from_utf8_lossy(&bytes);
        let line = |(i, line): (usize, &str)| {
            serde_json::from_str(line).map_err(|e| {
                let place = format!("line {}", i + 1);
                let hint = "the run may have been cut off; tune again";
                Error::input(path, place, "metrics of a step", e.to_string(), hint)
            })
        };
        text.lines().enumerate().map(line).collect()
    }
}

/// `metrics.jsonl` while it is written.
pub(super) struct Log {
    pub path: PathBuf,
    file: File,
}

impl Log {
    pub(super) fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).map_err(|e| io(path, e))?;
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }

    /// Takes a file up again where it was `mark`ed; lines after that are cut off.
    pub(super) fn reopen(path: &Path, mark: &Mark) -> Result<Self> {
        let mut bytes = files::read(path)?;
        bytes.truncate(mark.length);
        let found = Mark::of(&bytes);
        if found != *mark {
            return Err(Error::input(
                path,
                format!("first {} bytes", mark.length),
                format!("those the checkpoint was made with ({})", mark.hash),
                format!("{} bytes ({})", found.length, found.hash),
                "the file was changed; tune from the start",
            ));
        }
        let file = OpenOptions::new().append(true).open(path);
        let file = file.map_err(|e| io(path, e))?;
        file.set_len(mark.length as u64).map_err(|e| io(path, e))?;
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }

    pub(super) fn write(&mut self, line: &Metrics) -> Result<()> {
        let json = serde_json::to_string(line).unwrap_or_default();
        writeln!(self.file, "{json}").map_err(|e| io(&self.path, e))
    }

    /// What is in the file, which is on the disk then.
    pub(super) fn mark(&self) -> Result<Mark> {
        self.file.sync_all().map_err(|e| io(&self.path, e))?;
        Ok(Mark::of(&files::read(&self.path)?))
    }
}

/// How far a file was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    length: usize,
    hash: String,
}

impl Mark {
    fn of(bytes: &[u8]) -> Self {
        Self {
            length: bytes.len(),
            hash: files::sha256([bytes]),
        }
    }
}

fn io(path: &Path, e: std::io::Error) -> Error {
    Error::Adapters(reptune_adapters::Error::write(path, e))
}
