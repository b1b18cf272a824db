//! What is looked for, and how items become prompts.

use super::Wrong;
use serde::{Deserialize, Serialize};

/// The behaviour, as two personas worded in several ways.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Behaviour {
    /// Its name, such as honesty.
    pub name: String,
    /// System prompts of the persona that shows it; pairs take them in turn.
    pub positive: Vec<String>,
    /// System prompts of the persona that shows its opposite.
    pub negative: Vec<String>,
}

/// Templates of user messages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prompt {
    /// System prompt without a persona: of the base, of tuning and of evaluation.
    /// Empty: none.
    #[serde(default)]
    pub system: String,
    /// Message of a claim; `{claim}` is replaced.
    pub claim: String,
    /// Message of a two-choice question; `{question}`, `{a}` and `{b}` are replaced.
    #[serde(default = "default_choice")]
    pub choice: String,
    /// The two answers: for a true claim, and for a false one.
    #[serde(default = "default_labels")]
    pub labels: [String; 2],
}

impl Behaviour {
    pub(super) fn check(&self) -> Result<(), Wrong> {
        if self.positive.is_empty() || self.negative.is_empty() {
            return Wrong::key(
                "behaviour",
                "at least one positive and one negative wording",
                "none",
            );
        }
        Ok(())
    }
}

impl Prompt {
    pub(super) fn check(&self) -> Result<(), Wrong> {
        if !self.claim.contains("{claim}") {
            let found = format!("`{}`", self.claim);
            return Wrong::key("prompt.claim", "a template with {claim}", found);
        }
        for field in ["{question}", "{a}", "{b}"] {
            if !self.choice.contains(field) {
                return Wrong::key(
                    "prompt.choice",
                    "a template with {question}, {a} and {b}",
                    format!("`{}`", self.choice),
                );
            }
        }
        if self.labels[0] == self.labels[1] {
            let found = format!("`{}` twice", self.labels[0]);
            return Wrong::key("prompt.labels", "two different labels", found);
        }
        Ok(())
    }
}

fn default_choice() -> String {
    "{question} A) {a} B) {b}".into()
}

fn default_labels() -> [String; 2] {
    ["A".into(), "B".into()]
}
