//! `[extraction]`: how the direction is found.

use reptune_adapters::Positions;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Which prompts make a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pairing {
    /// Both personas give the same answer token, to opposite claims: the answer token
    /// cancels in the difference.
    #[default]
    SameAnswer,
    /// Both personas judge the same claim and give different answer tokens.
    SameClaim,
}

/// Which pairs are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PairFilter {
    /// Those where the model itself, greedily, answers as both personas ask.
    #[default]
    Correct,
    /// All.
    All,
}

/// How the captured rows of pairs become a direction; `crate::extract::method` implements
/// each variant.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExtractionMethod {
    /// The mean over pairs of (positive - negative).
    #[default]
    MeanDifference,
    /// A principal component.
    Pca(Pca),
    /// The weights of a linear probe (logistic regression).
    Probe(Probe),
}

/// The rows that principal components are taken of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PcaRows {
    /// Positive and negative rows, about their common mean.
    Raw,
    /// Differences of pairs, about zero.
    #[default]
    Differences,
}

/// Settings of a principal component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pca {
    /// Of which rows.
    pub on: PcaRows,
    /// Which component: 0 is the one of the largest variance.
    pub component: usize,
}

/// Settings of a linear probe.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Probe {
    /// Weight of the squared weights, for rows scaled to a mean square length of one.
    pub l2: f64,
}

impl Default for Probe {
    fn default() -> Self {
        Self { l2: 1. }
    }
}

/// What is projected out of the direction: `answer-token`, or a direction file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Without {
    /// Rows before the first answer token minus rows before the second, within a persona.
    AnswerToken,
    /// The directions of a file, layer by layer.
    File(PathBuf),
}

impl From<String> for Without {
    fn from(text: String) -> Self {
        match text.as_str() {
            "answer-token" => Self::AnswerToken,
            _ => Self::File(text.into()),
        }
    }
}

impl From<Without> for String {
    fn from(without: Without) -> Self {
        match without {
            Without::AnswerToken => "answer-token".into(),
            Without::File(path) => path.display().to_string(),
        }
    }
}

/// How the direction is found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Extraction {
    /// Which prompts make a pair.
    pub pairing: Pairing,
    /// Which pairs are kept.
    pub keep: PairFilter,
    /// Captured tokens; each, and each mean, gives a direction set of its own.
    pub positions: Positions,
    /// At most this many pairs.
    pub pairs: usize,
    /// What is projected out.
    pub without: Option<Without>,
    /// How captured rows become a direction.
    pub method: ExtractionMethod,
}

impl Default for Extraction {
    fn default() -> Self {
        Self {
            pairing: Pairing::default(),
            keep: PairFilter::default(),
            positions: Positions::Last(1),
            pairs: 400,
            without: None,
            method: ExtractionMethod::default(),
        }
    }
}

#[cfg(test)]
mod tests;
