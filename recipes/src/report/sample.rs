//! Generations of several models, side by side.

use super::section::Section;
use super::sheet::{Cell, Sheet};
use serde::{Deserialize, Serialize};

/// What one model said.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The model, named as in the result table.
    pub model: String,
    /// Its words.
    pub text: String,
}

/// One prompt and what the models said to it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The prompt as a person reads it.
    pub prompt: String,
    /// Answers.
    pub answers: Vec<Answer>,
}

/// The part of the page about `samples`.
pub(super) fn section(samples: &[Sample]) -> Option<Section> {
    let rows = samples.iter().flat_map(|s| {
        let row = |a: &Answer| [&s.prompt, &a.model, &a.text].map(Cell::text).to_vec();
        s.answers.iter().map(row).collect::<Vec<_>>()
    });
    (!samples.is_empty()).then(|| Section {
        samples: samples.to_vec(),
        sheet: Some(Sheet::new("samples", ["prompt", "model", "answer"], rows)),
        ..Section::new(
            "samples",
            "In their own words",
            "Look for answers that change side while the language stays whole.",
        )
    })
}
