//! `[data]`: where items come from, and how they are split.

use super::Wrong;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Files of items, and their split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Claims that are true or false.
    pub claims: ClaimFile,
    /// Two-choice questions, for evaluation only.
    pub choices: Option<ChoiceFile>,
    /// Shares of the claims, by group, for training and for validation; the rest is for testing.
    #[serde(default = "default_split")]
    pub split: [f64; 2],
}

/// A file of claims, and its columns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimFile {
    /// A .csv or .jsonl file (relative to the recipe file).
    pub file: PathBuf,
    /// Column of the claim.
    #[serde(default = "claim_column")]
    pub claim: String,
    /// Column of its truth: true or false, 1 or 0, yes or no.
    #[serde(default = "label_column")]
    pub label: String,
    /// Column that names what a claim is about: claims of one group stay on one
    /// side of the split. Without it every claim is a group.
    pub group: Option<String>,
}

/// A file of two-choice questions, and its columns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChoiceFile {
    /// A .csv or .jsonl file (relative to the recipe file).
    pub file: PathBuf,
    /// Column of the question.
    #[serde(default = "question_column")]
    pub question: String,
    /// Column of option A.
    #[serde(default = "a_column")]
    pub a: String,
    /// Column of option B.
    #[serde(default = "b_column")]
    pub b: String,
    /// Column of the right option: A or B.
    #[serde(default = "right_column")]
    pub right: String,
    /// Column that names what a question is about; questions about groups that
    /// claims were trained or validated on are left out.
    pub group: Option<String>,
}

impl Data {
    pub(super) fn check(&self) -> Result<(), Wrong> {
        let split = self.split;
        if split.iter().any(|s| !super::positive(*s)) || split[0] + split[1] >= 1. {
            return Wrong::key(
                "data.split",
                "two positive shares with a sum below 1",
                format!("{split:?}"),
            );
        }
        Ok(())
    }

    /// The paths of its files.
    pub(super) fn paths(&mut self) -> Vec<&mut PathBuf> {
        let choices = self.choices.as_mut().map(|c| &mut c.file);
        std::iter::once(&mut self.claims.file)
            .chain(choices)
            .collect()
    }
}

fn default_split() -> [f64; 2] {
    [0.6, 0.2]
}

fn claim_column() -> String {
    "claim".into()
}

fn label_column() -> String {
    "label".into()
}

fn question_column() -> String {
    "question".into()
}

fn a_column() -> String {
    "a".into()
}

fn b_column() -> String {
    "b".into()
}

fn right_column() -> String {
    "right".into()
}
