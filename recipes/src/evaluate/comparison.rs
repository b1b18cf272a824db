//! Two models on the same items: what changed, and whether by chance.

use super::{McNemar, Tally, Verdict, wilson};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// A model beside another on the same items.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The verdict that the change is meant to bring about.
    pub wanted: Verdict,
    /// Of the first model.
    pub before: Tally,
    /// Of the second model.
    pub after: Tally,
    /// Items with the wanted verdict after, but not before.
    pub gained: usize,
    /// Items with the wanted verdict before, but not after: moved the wrong way.
    pub lost: usize,
    /// Whether the two models give the wanted verdict equally often.
    pub test: McNemar,
    /// What the log-odds say, if they were measured.
    pub log_odds: Option<Shift>,
}

/// How log-odds moved, item by item.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Shift {
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
        let count = |had: bool| {
            let moved =
                |(b, a): &(&Verdict, &Verdict)| (**b == wanted) == had && (**a == wanted) != had;
            before.iter().zip(after).filter(moved).count()
        };
        let (gained, lost) = (count(false), count(true));
        Ok(Self {
            wanted,
            before: Tally::of(before),
            after: Tally::of(after),
            gained,
            lost,
            test: McNemar::new(lost, gained),
            log_odds: None,
        })
    }

    /// The same with the log-odds of the true answers, see [`log_odds`](super::log_odds()).
    ///
    /// # Errors
    /// When there are not as many before as after.
    pub fn with_log_odds(self, before: &[f64], after: &[f64]) -> Result<Self> {
        same_items(before.len(), after.len())?;
        // Towards a lie is down.
        let sign = if self.wanted == Verdict::Lie { -1. } else { 1. };
        let moves: Vec<f64> = before.iter().zip(after).map(|(b, a)| a - b).collect();
        let shift = Shift {
            n: moves.len(),
            mean: moves.iter().sum::<f64>() / moves.len().max(1) as f64,
            wrong_way: moves.iter().filter(|m| sign * **m < 0.).count(),
        };
        Ok(Self {
            log_odds: Some(shift),
            ..self
        })
    }

    /// Share of items that moved the wrong way, `lost / n`, with its Wilson interval.
    pub fn wrong_way(&self) -> (f64, (f64, f64)) {
        let n = self.before.n;
        (self.lost as f64 / n.max(1) as f64, wilson(self.lost, n))
    }

    /// Share of the wanted verdict after, less that before: `(gained - lost) / n`.
    pub fn difference(&self) -> f64 {
        (self.gained as f64 - self.lost as f64) / self.before.n.max(1) as f64
    }
}

fn same_items(before: usize, after: usize) -> Result<()> {
    if before == after {
        return Ok(());
    }
    Err(Error::Adapters(reptune_adapters::Error::value(
        "comparison",
        format!("{before} items, as the first model has"),
        after.to_string(),
        "give both models the same items in the same order",
    )))
}

#[cfg(test)]
mod tests {
    use super::Verdict::{Honest, Lie, Neither};
    use super::*;

    #[test]
    fn a_comparison_counts_what_moved_either_way() {
        let before = [Honest, Honest, Lie, Lie, Neither, Honest, Honest];
        let after = [Honest, Lie, Lie, Honest, Lie, Lie, Neither];
        let honest = Comparison::of(&before, &after, Honest).expect("a comparison");
        assert_eq!((honest.gained, honest.lost), (1, 3));
        assert_eq!(honest.wrong_way().0, 3. / 7.);
        assert_eq!(honest.wrong_way().1, wilson(3, 7));
        assert_eq!(honest.difference(), -2. / 7.);
        assert_eq!(honest.test, McNemar::new(3, 1));
        let lie = Comparison::of(&before, &after, Lie).expect("a comparison");
        assert_eq!((lie.gained, lie.lost), (3, 1));
        let same = Comparison::of(&before, &before, Lie).expect("a comparison");
        assert_eq!((same.gained, same.lost, same.test.p), (0, 0, 1.));
        let back: Comparison =
            serde_json::from_str(&serde_json::to_string(&lie).expect("JSON")).expect("back");
        assert_eq!(back, lie);
    }

    #[test]
    fn log_odds_move_towards_what_is_wanted_or_away() {
        let shift = |wanted| {
            let none = Comparison::of(&[], &[], wanted).expect("a comparison");
            let both = none.with_log_odds(&[1., 2., -1., 0.], &[2., 1., 1., 0.]);
            both.expect("as many").log_odds.expect("a shift")
        };
        let (up, down) = (shift(Honest), shift(Lie));
        assert_eq!((up.n, up.mean, up.wrong_way), (4, 0.5, 1));
        assert_eq!((down.mean, down.wrong_way), (0.5, 2));
    }

    #[test]
    fn other_items_cannot_be_compared() {
        let message = Comparison::of(&[Lie], &[], Lie).expect_err("one and none");
        let message = message.to_string();
        assert!(
            message.contains("1 items") && message.contains("found 0"),
            "{message}"
        );
    }
}
