//! `[search]` and `[selection]`: what is tried on the validation claims, and by what is chosen.

use super::default::ratio;
use reptune_adapters::Positions;
use serde::{Deserialize, Serialize};

/// Settings to try, every combination of them, by successive halving. An empty list
/// is the recipe's own value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Search {
    /// Blocks of layers, for `tuning.layers`.
    #[serde(default)]
    pub layers: Vec<Vec<usize>>,
    /// Values for `tuning.positions`, and for `extraction.positions` with it: a direction
    /// is tuned in where it was found.
    #[serde(default)]
    pub positions: Vec<Positions>,
    /// Values for `tuning.m`.
    #[serde(default)]
    pub m: Vec<f64>,
    /// Values for `tuning.token_weight`.
    #[serde(default)]
    pub token_weight: Vec<f64>,
    /// Values for `tuning.learning_rate`.
    #[serde(default)]
    pub learning_rate: Vec<f64>,
    /// At most this many trials; without it all that the rungs ask for. Where there are
    /// too many combinations, some are drawn.
    pub runs: Option<usize>,
    /// No trial begins after this many minutes.
    pub minutes: Option<f64>,
    /// Shares of `tuning.epochs` that the candidates are tuned for, rung by rung.
    #[serde(default = "default_rungs")]
    pub rungs: Vec<f64>,
    /// Share of the candidates that goes on to the next rung.
    #[serde(default = "ratio::<1, 3>")]
    pub keep: f64,
}

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
}

fn default_rungs() -> Vec<f64> {
    vec![1. / 3., 1.]
}
