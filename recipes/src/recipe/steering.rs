//! How the direction is added while the model runs.

use super::Wrong;
use reptune_adapters::RowRule;
use serde::{Deserialize, Serialize};

/// How the direction is added.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Steering {
    /// Layers (output of block i, 0-based).
    pub layers: Vec<usize>,
    /// Multiplier of the unit direction, divided by the number of layers.
    pub coeff: Option<f64>,
    /// Instead of `coeff`: fractions of the mean residual norm; the one that does
    /// most on the validation claims is taken, for each sign.
    #[serde(default)]
    pub fractions: Vec<f64>,
    /// Rows.
    #[serde(default)]
    pub rows: RowRule,
}

impl Steering {
    pub(super) fn check(&self) -> Result<(), Wrong> {
        if self.layers.is_empty() {
            return Wrong::key("steering.layers", "at least one layer", "none");
        }
        if self.coeff.is_some() != self.fractions.is_empty() {
            let found = if self.coeff.is_some() {
                "both"
            } else {
                "neither"
            };
            return Wrong::key("steering", "either `coeff` or `fractions`", found);
        }
        let mut numbers = self.coeff.iter().chain(&self.fractions);
        if numbers.any(|c| !c.is_finite()) {
            let found = format!("{:?}", self.coeff);
            return Wrong::key("steering.coeff", "a finite number", found);
        }
        Ok(())
    }
}
