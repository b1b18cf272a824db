//! What is measured.

use serde::{Deserialize, Serialize};

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
}

impl Default for Evaluation {
    fn default() -> Self {
        Self {
            claims: 200,
            choices: 200,
            max_new_tokens: 8,
        }
    }
}
