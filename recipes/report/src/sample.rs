//! Generations of several models, side by side.

use crate::section::Section;
use crate::sheet::{Cell, Sheet};
use serde::{Deserialize, Serialize};

/// What one model said.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SampleAnswer {
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
    pub answers: Vec<SampleAnswer>,
}

/// The part of the page about `samples`.
pub(crate) fn section(samples: &[Sample]) -> Option<Section> {
    let lines = samples.iter().flat_map(|s| {
        let answers = s.answers.iter();
        answers.map(|a| {
            [&s.prompt, &a.model, &a.text]
                .map(|t| Cell::from(t.as_str()))
                .to_vec()
        })
    });
    (!samples.is_empty()).then(|| Section {
        samples: minijinja::Value::from_serialize(samples),
        sheet: Some(Sheet::new("samples", ["prompt", "model", "answer"], lines)),
        ..Section::new(
            "samples",
            "Sample answers",
            "Look for answers that change while the language stays fluent.",
        )
    })
}
