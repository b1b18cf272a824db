//! `[search]`: which settings of the tuning a search tries.

use super::{Recipe, Wrong};
use reptune_adapters::Positions;
use reptune_adapters::steering::positions::PositionsUse;
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
    #[serde(default = "default_keep")]
    pub keep: f64,
}

impl Search {
    pub(super) fn check(&self, recipe: &Recipe) -> Result<(), Wrong> {
        for (name, values) in [
            ("m", &self.m),
            ("token_weight", &self.token_weight),
            ("learning_rate", &self.learning_rate),
        ] {
            let zero = name == "token_weight";
            let fits = |x: &f64| super::positive(*x) || (zero && *x == 0.);
            if let Some(x) = values.iter().find(|x| !fits(x)) {
                let expected = if zero {
                    "0 or positive numbers"
                } else {
                    "positive numbers"
                };
                return Wrong::key(format!("search.{name}"), expected, x.to_string());
            }
        }
        if self.layers.iter().any(Vec::is_empty) {
            return Wrong::key("search.layers", "lists of layers", "an empty one");
        }
        if !self.layers.is_empty() && !recipe.tuning.representation_layers.is_empty() {
            let expected = "no `tuning.representation_layers` beside it";
            return Wrong::key("search.layers", expected, "both");
        }
        if !self.layers.is_empty() && recipe.tuning.groups.iter().any(|g| !g.layers.is_empty()) {
            let expected = "groups without `layers` beside it";
            return Wrong::key("search.layers", expected, "groups of certain layers");
        }
        for positions in &self.positions {
            let key = "search.positions";
            Wrong::from_value(key, positions.check(PositionsUse::Tuning))?;
            if positions.each().len() > 1 {
                let expected = "one position a value, such as `last:1` or `at:-8`";
                return Wrong::key(key, expected, format!("`{positions}`"));
            }
        }
        let rising = self.rungs.windows(2).all(|w| w[0] < w[1]);
        let shares = self.rungs.iter().all(|r| super::positive(*r) && *r <= 1.);
        if self.rungs.is_empty() || !rising || !shares {
            let expected = "rising shares above 0, at most 1";
            return Wrong::key("search.rungs", expected, format!("{:?}", self.rungs));
        }
        if !super::positive(self.keep) || self.keep >= 1. {
            return Wrong::key(
                "search.keep",
                "a share between 0 and 1",
                self.keep.to_string(),
            );
        }
        if self.runs == Some(0) {
            return Wrong::key("search.runs", "1 or more", "0");
        }
        if let Some(minutes) = self.minutes.filter(|m| !super::positive(*m)) {
            return Wrong::key("search.minutes", "a positive number", minutes.to_string());
        }
        Ok(())
    }
}

fn default_rungs() -> Vec<f64> {
    vec![1. / 3., 1.]
}

fn default_keep() -> f64 {
    1. / 3.
}
