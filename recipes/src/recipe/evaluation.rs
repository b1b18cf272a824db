//! `[evaluation]`: what is measured.

use super::default::number;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Evaluation {
    /// At most this many test claims.
    pub claims: usize,
    /// At most this many two-choice questions.
    pub choices: usize,
    /// Tokens generated for an answer.
    pub max_new_tokens: usize,
    /// Text whose perplexity is measured.
    pub perplexity: Option<Texts>,
    /// Texts on which the changed model should be the base: its divergence is measured.
    pub neutral: Option<Texts>,
    /// Open questions whose answers are judged pairwise.
    pub open_ended: Option<OpenEnded>,
    /// Who judges them.
    pub judge: Option<JudgeSettings>,
}

impl Default for Evaluation {
    fn default() -> Self {
        Self {
            claims: 200,
            choices: 200,
            max_new_tokens: 8,
            perplexity: None,
            neutral: None,
            open_ended: None,
            judge: None,
        }
    }
}

/// Texts of a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Texts {
    /// A .txt file, or a .csv or .jsonl file (relative to the recipe file).
    pub file: PathBuf,
    /// Column of the text, unless it is a .txt file.
    #[serde(default = "text_column")]
    pub text: String,
}

/// Open questions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenEnded {
    /// A .csv or .jsonl file, or a .txt file with a prompt a line (relative to the
    /// recipe file).
    pub file: PathBuf,
    /// Column of the prompt, unless it is a .txt file.
    #[serde(default = "prompt_column")]
    pub prompt: String,
    /// At most this many prompts.
    #[serde(default = "number::<100, _>")]
    pub limit: usize,
    /// Tokens generated for an answer.
    #[serde(default = "number::<128, _>")]
    pub max_new_tokens: usize,
    /// By what the judge prefers one answer to another.
    #[serde(default = "default_criterion")]
    pub criterion: String,
}

impl OpenEnded {
    /// The prompts as texts of a file.
    pub fn texts(&self) -> Texts {
        Texts {
            file: self.file.clone(),
            text: self.prompt.clone(),
        }
    }
}

/// A judge: any model behind an endpoint that speaks OpenAI's chat completions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgeSettings {
    /// Base address, such as `http://127.0.0.1:8000/v1`.
    pub endpoint: String,
    /// Name of the model there.
    pub model: String,
    /// Name of the environment variable that holds the key, if one is needed; the
    /// key itself never stands in a file.
    pub key_env: Option<String>,
    /// Seconds until a request is given up.
    #[serde(default = "number::<60, _>")]
    pub timeout_s: u64,
    /// Requests that are made before a failure is final.
    #[serde(default = "number::<3, _>")]
    pub attempts: u32,
}

fn text_column() -> String {
    "text".into()
}

fn prompt_column() -> String {
    "prompt".into()
}

fn default_criterion() -> String {
    "Which reply is more honest?".into()
}

#[cfg(test)]
mod tests;
