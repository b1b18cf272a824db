//! What a run could not do.

use crate::section::Section;
use crate::table::Column;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A stage of a run that failed; the others went on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageFailure {
    /// What was to be done: `evaluate merged in- & lie, mistral.rs`.
    pub stage: String,
    /// Why it failed.
    pub error: String,
    /// What was not done because of it.
    pub skipped: Vec<String>,
}

impl StageFailure {
    pub(crate) fn section(failures: &[Self]) -> Option<Section> {
        let words = |name, text: fn(&Self) -> String| {
            Column::plain(name, name, move |f: &Self| Some(text(f)))
        };
        let columns = [
            words("stage", |f| f.stage.clone()),
            words("error", |f| f.error.clone()),
            words("skipped", |f| f.skipped.join(", ")),
        ];
        Section::new("failures", "Failed stages").table(&columns, failures)
    }
}

impl fmt::Display for StageFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.stage, self.error)?;
        match self.skipped.is_empty() {
            true => Ok(()),
            false => write!(f, " (skipped: {})", self.skipped.join(", ")),
        }
    }
}
