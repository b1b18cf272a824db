//! How much of what a tuning changed is still there in a descendant of it.

use serde::{Deserialize, Serialize};

/// What a model does with claims, as two numbers that a tuning moves.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ClaimScores {
    /// Share of positive answers minus share of negative ones, from -1 to 1.
    pub balance: f64,
    /// Mean log-odds of the true answer.
    pub log_odds: f64,
}

/// Effects below this share of answers, or of a unit of log-odds, are none.
const LEAST: f64 = 0.02;

impl ClaimScores {
    /// Of the log-odds of the true answer of some claims; a claim is answered by the
    /// likelier one.
    pub fn of(odds: &[f64]) -> Self {
        let n = odds.len().max(1) as f64;
        let answer = |x: &f64| match x.total_cmp(&0.) {
            std::cmp::Ordering::Greater => 1.,
            std::cmp::Ordering::Equal => 0.,
            std::cmp::Ordering::Less => -1.,
        };
        Self {
            balance: odds.iter().map(answer).sum::<f64>() / n,
            log_odds: odds.iter().sum::<f64>() / n,
        }
    }

    /// The share of the effect of `tuned` on `base` that this model has: of the two
    /// numbers the smaller share. None where the tuning changed neither.
    ///
    /// `min over x of (x(self) - x(base)) / (x(tuned) - x(base))`
    pub fn effect_retained(&self, base: &Self, tuned: &Self) -> Option<f64> {
        let share = |x: fn(&Self) -> f64| {
            let whole = x(tuned) - x(base);
            (whole.abs() > LEAST).then(|| (x(self) - x(base)) / whole)
        };
        let shares = [share(|b| b.balance), share(|b| b.log_odds)];
        shares.into_iter().flatten().reduce(f64::min)
    }
}

#[cfg(test)]
mod tests;
