//! One model under test, as a row of the result table.

use crate::comparison::Comparison;
use crate::outcomes::{Outcomes, Verdict};
use crate::preference::Preferences;
use serde::{Deserialize, Serialize};

/// One model under test.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelRow {
    /// What it is: base, prompted, steered, tuned, merged, baked.
    pub model: String,
    /// Test claims.
    pub claims: Outcomes,
    /// Two-choice questions, if the recipe has some.
    pub choices: Option<Outcomes>,
    /// The same, claim by claim; empty where only counts are known.
    pub claim_verdicts: Vec<Verdict>,
    /// The same, question by question.
    pub choice_verdicts: Vec<Verdict>,
    /// Its answer to the sample question.
    pub sample: String,
    /// Positive answers to the same claims, compared with those of the base.
    pub versus_base: Option<Comparison>,
    /// Mean log p(true answer) - log p(other answer) on the claims, where logits can be read.
    pub log_odds: Option<f64>,
    /// Perplexity of the recipe's text, where logits can be read.
    pub perplexity: Option<f64>,
    /// Mean KL(base || model) in nats on the recipe's neutral texts.
    pub divergence: Option<f64>,
    /// Open answers judged: those of the base are the first, the model's the second.
    pub judged: Option<Preferences>,
}
