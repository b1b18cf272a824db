//! `[evaluation]`: what is measured.

use super::Wrong;
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
    #[serde(default = "default_limit")]
    pub limit: usize,
    /// Tokens generated for an answer.
    #[serde(default = "default_length")]
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
    #[serde(default = "default_timeout")]
    pub timeout_s: u64,
    /// Requests that are made before a failure is final.
    #[serde(default = "default_attempts")]
    pub attempts: u32,
}

impl Evaluation {
    pub(super) fn check(&self) -> Result<(), Wrong> {
        if self.open_ended.is_some() && self.judge.is_none() {
            let expected = "a judge for evaluation.open_ended";
            return Wrong::key("evaluation.judge", expected, "none");
        }
        self.judge.as_ref().map_or(Ok(()), JudgeSettings::check)?;
        if self.open_ended.is_none() && self.judge.is_some() {
            let expected = "open questions for evaluation.judge";
            return Wrong::key("evaluation.open_ended", expected, "none");
        }
        Ok(())
    }

    /// The paths of its files.
    pub(super) fn paths(&mut self) -> Vec<&mut PathBuf> {
        let texts = [&mut self.perplexity, &mut self.neutral];
        let texts = texts.into_iter().flatten().map(|t| &mut t.file);
        let open_ended = self.open_ended.as_mut().map(|o| &mut o.file);
        texts.chain(open_ended).collect()
    }
}

impl JudgeSettings {
    /// What is found wrong is not repeated where it may be a key in the wrong place.
    fn check(&self) -> Result<(), Wrong> {
        let http = ["http://", "https://"]
            .iter()
            .any(|s| self.endpoint.starts_with(s));
        if !http || self.endpoint.contains(['@', '?', '#']) {
            return Wrong::key(
                "evaluation.judge.endpoint",
                "http:// or https:// and an address without user, query or fragment",
                "another form",
            );
        }
        let name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        let variable = |v: &String| !v.is_empty() && v.chars().all(name);
        if !self.key_env.as_ref().is_none_or(variable) {
            return Wrong::key(
                "evaluation.judge.key_env",
                "the name of an environment variable, in capitals, digits and `_`",
                "something else (is it the key itself?)",
            );
        }
        for (key, value) in [
            ("timeout_s", self.timeout_s),
            ("attempts", u64::from(self.attempts)),
        ] {
            if value == 0 {
                let place = format!("evaluation.judge.{key}");
                return Wrong::key(place, "at least 1", "0");
            }
        }
        Ok(())
    }
}

fn text_column() -> String {
    "text".into()
}

fn prompt_column() -> String {
    "prompt".into()
}

fn default_limit() -> usize {
    100
}

fn default_length() -> usize {
    128
}

fn default_criterion() -> String {
    "Which reply is more honest?".into()
}

fn default_timeout() -> u64 {
    60
}

fn default_attempts() -> u32 {
    3
}

#[cfg(test)]
mod tests;
