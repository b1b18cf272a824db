//! What is written down about each step.

use crate::error::{Error, Result};
use reptune_adapters::{Error as Refused, files};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Optimizer step, from 1.
    pub step: usize,
    /// Learning rate of the step, for modules that are in no group.
    pub lr: f64,
    /// Losses by key, not weighted: `{term}_loss` of the batch for every term of the
    /// objective, and `validation_{term}_loss` where the validation claims were measured.
    #[serde(flatten)]
    pub losses: BTreeMap<String, f64>,
}

impl Metrics {
    /// The loss of the batch by a term such as `token` or `representation`.
    pub fn loss(&self, term: &str) -> Option<f64> {
        self.losses.get(&format!("{term}_loss")).copied()
    }

    /// The loss of the validation claims by a term.
    pub fn validation_loss(&self, term: &str) -> Option<f64> {
        self.loss(&format!("validation_{term}"))
    }

    /// Adds to the loss of the batch by a term.
    pub(super) fn add(&mut self, term: &str, loss: f64) {
        *self.losses.entry(format!("{term}_loss")).or_insert(0.) += loss;
    }

    /// Sets the loss of the validation claims by a term.
    pub(super) fn set_validation(&mut self, term: &str, loss: f64) {
        self.losses.insert(format!("validation_{term}_loss"), loss);
    }

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
        let file = File::create(path).map_err(|e| Refused::write(path, e))?;
        let path = path.to_owned();
        Ok(Self { path, file })
    }

    /// Opens a file again whose lines after `mark` are removed.
    pub(super) fn reopen(path: &Path, mark: &Mark) -> Result<Self> {
        let mut bytes = files::read(path)?;
        bytes.truncate(mark.length);
        let found = Mark::of(&bytes);
        if found != *mark {
            let place = format!("first {} bytes", mark.length);
            let expected = format!("those the checkpoint was made with ({})", mark.hash);
            let found = format!("{} bytes ({})", found.length, found.hash);
            let hint = "the file was changed; tune from the start";
            return Err(Error::input(path, place, expected, found, hint));
        }
        let io = |e| Refused::write(path, e);
        let file = OpenOptions::new().append(true).open(path).map_err(io)?;
        file.set_len(mark.length as u64).map_err(io)?;
        let path = path.to_owned();
        Ok(Self { path, file })
    }

    pub(super) fn write(&mut self, line: &Metrics) -> Result<()> {
        let json = serde_json::to_string(line).unwrap_or_default();
        Ok(writeln!(self.file, "{json}").map_err(|e| Refused::write(&self.path, e))?)
    }

    /// What is in the file, which is on the disk then.
    pub(super) fn mark(&self) -> Result<Mark> {
        let synced = self.file.sync_all();
        synced.map_err(|e| Refused::write(&self.path, e))?;
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
