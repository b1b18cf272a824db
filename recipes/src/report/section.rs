//! A part of the page: a title, what to look for, and figures or a table.

use super::ink::Ink;
use super::sheet::Sheet;
use crate::error::{Error, Result};
use serde::Serialize;

/// One figure.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Plot {
    /// What it shows, above it; empty if the section's title says it.
    pub(super) title: String,
    /// The drawing, escaped and themed.
    pub(super) svg: String,
}

/// What a colour stands for.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Key {
    /// In words.
    pub(super) name: String,
    /// The colour.
    pub(super) ink: &'static str,
}

impl Key {
    /// `ink` stands for `name`.
    pub(super) fn new(name: &str, ink: Ink) -> Self {
        Self {
            name: name.into(),
            ink: ink.name(),
        }
    }
}

/// A text cell.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Field {
    text: String,
    kind: &'static str,
}

/// A table of text; its first column names the rows.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Grid {
    head: Vec<String>,
    rows: Vec<Vec<Field>>,
}

impl Grid {
    /// A table under `head`.
    pub(super) fn new(head: &[&str], rows: Vec<Vec<String>>) -> Self {
        let cell = |text: String| Field {
            kind: kind(&text),
            text,
        };
        let rows = rows.into_iter();
        Self {
            head: head.iter().map(|h| (*h).to_owned()).collect(),
            rows: rows
                .map(|row| row.into_iter().map(cell).collect())
                .collect(),
        }
    }

    /// All cells, header first.
    pub(super) fn lines(&self) -> Vec<Vec<String>> {
        let rows = self.rows.iter();
        let rows = rows.map(|row| row.iter().map(|cell| cell.text.clone()).collect());
        std::iter::once(self.head.clone()).chain(rows).collect()
    }
}

/// Short cells that begin with a digit are numbers and must not wrap.
fn kind(text: &str) -> &'static str {
    let digits = text.trim_start_matches(['-', '+', '.']);
    let number = digits.starts_with(|c: char| c.is_ascii_digit());
    match number && text.chars().count() < 24 {
        true => "number",
        false => "text",
    }
}

/// One part of the page.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Section {
    /// Anchor.
    pub(super) id: &'static str,
    /// Title.
    pub(super) title: &'static str,
    /// What to look for, in a line.
    pub(super) caption: String,
    /// A second line.
    pub(super) note: Option<String>,
    /// What the colours stand for.
    pub(super) legend: Vec<Key>,
    /// Figures, side by side where there is room.
    pub(super) plots: Vec<Plot>,
    /// Table.
    pub(super) table: Option<Grid>,
    /// Generations, side by side.
    pub(super) samples: Vec<super::Sample>,
    /// The data behind it.
    #[serde(skip)]
    pub(super) sheet: Option<Sheet>,
}

impl Section {
    /// A section without content.
    pub(super) fn new(id: &'static str, title: &'static str, caption: impl Into<String>) -> Self {
        Self {
            id,
            title,
            caption: caption.into(),
            ..Self::default()
        }
    }
}

/// A part that could not be written.
pub(super) fn failed(
    part: &str,
    reason: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    Error::Report {
        part: part.into(),
        reason: reason.into(),
    }
}

/// Refuses an input of `part` that does not fit together.
pub(super) fn expect(part: &str, expected: usize, found: usize, of: &str) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(reptune_adapters::Error::value(
        format!("report, {part}"),
        format!("{expected} {of}"),
        found.to_string(),
        "fill this part of the study from one measurement",
    )
    .into())
}
