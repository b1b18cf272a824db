//! What models and directions say in words: generations of several models, side by side, and
//! the logit lens.

use crate::section::Section;
use crate::table::Column;
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

impl Sample {
    pub(crate) fn section(samples: &[Self]) -> Option<Section> {
        let rows = samples.iter().flat_map(|s| {
            let answers = s.answers.iter();
            answers.map(|a| (&s.prompt, &a.model, &a.text))
        });
        let section = Section::new("samples", "Sample answers");
        (!samples.is_empty()).then(|| Section {
            samples: minijinja::Value::from_serialize(samples),
            ..section.data(&["prompt", "model", "answer"], rows)
        })
    }
}

/// The direction of one layer through the final norm and the unembedding.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LensRow {
    /// Layer, 0-based.
    pub layer: usize,
    /// Tokens it raises most, the first first.
    pub top: Vec<String>,
    /// Tokens it lowers most, the lowest first.
    pub bottom: Vec<String>,
}

impl LensRow {
    pub(crate) fn section(layers: &[Self]) -> Option<Section> {
        let columns = [
            Column::plain("layer", "", |l: &Self| Some(l.layer)),
            Column::plain("raises", "", |l: &Self| Some(visible(&l.top))),
            Column::plain("lowers", "", |l: &Self| Some(visible(&l.bottom))),
        ];
        let rows = layers.iter().flat_map(|l| {
            let ends = [("top", &l.top), ("bottom", &l.bottom)];
            ends.into_iter().flat_map(move |(end, tokens)| {
                let tokens = tokens.iter().enumerate();
                tokens.map(move |(i, token)| (l.layer, end, i + 1, token))
            })
        });
        let section = Section::new("lens", "The direction in tokens");
        let section = section.table(&columns, layers)?;
        Some(section.data(&["layer", "end", "rank", "token"], rows))
    }
}

/// Tokens with their spaces and line ends made visible.
fn visible(tokens: &[String]) -> String {
    let shown = tokens.iter().map(|token| {
        let chars = token.chars().map(|c| match c {
            ' ' => "\u{2423}".to_owned(),
            c if c.is_control() => c.escape_default().to_string(),
            c => c.to_string(),
        });
        chars.collect::<String>()
    });
    shown.collect::<Vec<_>>().join("  ")
}
