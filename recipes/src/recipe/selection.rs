//! `[selection]`: how layer, position and dose are chosen on the validation claims.

use super::Wrong;
use serde::{Deserialize, Serialize};

/// What is measured for a choice, and the bound it must keep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Selection {
    /// Layers that may be chosen; empty: all but the last fifth.
    pub layers: Vec<usize>,
    /// Doses that are tried with both signs, as fractions of the mean residual norm.
    pub fractions: Vec<f64>,
    /// Largest KL divergence (nats a token) of the steered from the base model on
    /// neutral text.
    pub kl: f64,
    /// At most this many validation claims are asked.
    pub claims: usize,
    /// Neutral texts; empty: prompts of validation claims without a persona, their
    /// last token aside.
    pub texts: Vec<String>,
    /// At most this many neutral texts are read.
    pub neutral: usize,
}

impl Default for Selection {
    fn default() -> Self {
        Self {
            layers: Vec::new(),
            fractions: vec![0.25, 0.5, 1.],
            kl: 0.5,
            claims: 64,
            texts: Vec::new(),
            neutral: 16,
        }
    }
}

impl Selection {
    /// The layers of a model of `layers` blocks that may be chosen; a fifth is rounded.
    pub fn eligible(&self, layers: usize) -> Vec<usize> {
        match self.layers.as_slice() {
            [] => (0..layers - (layers + 2) / 5).collect(),
            listed => listed.to_vec(),
        }
    }

    pub(super) fn check(&self) -> Result<(), Wrong> {
        if self.fractions.is_empty() || !self.fractions.iter().all(|f| super::positive(*f)) {
            let found = format!("{:?}", self.fractions);
            return Wrong::key("selection.fractions", "positive numbers", found);
        }
        if !super::positive(self.kl) {
            return Wrong::key("selection.kl", "a positive number", self.kl.to_string());
        }
        if self.claims == 0 || self.neutral == 0 {
            let found = format!("{} and {}", self.claims, self.neutral);
            return Wrong::key("selection", "`claims` and `neutral` above 0", found);
        }
        Ok(())
    }
}
