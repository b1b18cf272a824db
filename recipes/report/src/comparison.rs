//! Two models on the same items: what changed, and whether by chance.

use crate::error::{Result, same_number};
use crate::mcnemar::McNemar;
use crate::outcomes::Verdict;
use serde::{Deserialize, Serialize};

/// A model compared with another on the same items.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The verdict that the change is meant to bring about.
    pub wanted: Verdict,
    /// Items with the wanted verdict after, but not before.
    pub gained: usize,
    /// Items with the wanted verdict before, but not after: moved the wrong way.
    pub lost: usize,
    /// Whether the two models give the wanted verdict equally often.
    pub test: McNemar,
    /// What the log-odds say, if they were measured.
    pub log_odds: Option<LogOddsShift>,
}

/// How log-odds moved, item by item.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LogOddsShift {
    /// Items.
    pub n: usize,
    /// Mean of (after - before).
    pub mean: f64,
    /// Items whose log-odds moved away from what is wanted.
    pub wrong_way: usize,
}

impl Comparison {
    /// Compares verdicts on the same items, in the same order.
    ///
    /// # Errors
    /// When there are not as many verdicts before as after.
    pub fn of(before: &[Verdict], after: &[Verdict], wanted: Verdict) -> Result<Self> {
        same_items(before.len(), after.len())?;
        let hits = |verdicts: &[Verdict]| verdicts.iter().map(|v| *v == wanted).collect();
        let (before, after): (Vec<bool>, Vec<bool>) = (hits(before), hits(after));
        let (lost, gained) = McNemar::discordant(&before, &after);
        Ok(Self {
            wanted,
            gained,
            lost,
            test: McNemar::new(lost, gained),
            log_odds: None,
        })
    }

    /// The same with the log-odds of the true answers.
    ///
    /// # Errors
    /// When there are not as many before as after.
    pub fn with_log_odds(self, before: &[f64], after: &[f64]) -> Result<Self> {
        same_items(before.len(), after.len())?;
        // Towards a negative answer is down.
        let sign = if self.wanted == Verdict::Negative {
            -1.
        } else {
            1.
        };
        let moves: Vec<f64> = before.iter().zip(after).map(|(b, a)| a - b).collect();
        let shift = LogOddsShift {
            n: moves.len(),
            mean: moves.iter().sum::<f64>() / moves.len().max(1) as f64,
            wrong_way: moves.iter().filter(|m| sign * **m < 0.).count(),
        };
        Ok(Self {
            log_odds: Some(shift),
            ..self
        })
    }
}

fn same_items(before: usize, after: usize) -> Result<()> {
    let hint = "give both models the same items in the same order";
    same_number(
        "comparison",
        (before, "items, as the first model has"),
        after,
        hint,
    )
}

#[cfg(test)]
mod tests;
