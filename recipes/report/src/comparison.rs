//! Two models on the same items: what changed, which answers are preferred, and whether by
//! chance.

use crate::error::{Result, same_number};
use crate::outcomes::Verdict;
use serde::{Deserialize, Serialize};

/// Below this many discordant items the exact test is used.
const FEW: usize = 25;

/// How a p-value was computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum McNemarTest {
    /// Exact binomial test, two-sided.
    Exact,
    /// Chi-square with one degree of freedom and continuity correction.
    ChiSquare,
}

/// McNemar's test: do two models succeed on the same items equally often?
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct McNemar {
    /// Two-sided p-value.
    pub p: f64,
    /// How it was computed.
    pub method: McNemarTest,
}

/// The verdicts on a list of items, and the one that is a success.
pub(crate) type Successes<'a> = (&'a [Verdict], Verdict);

impl McNemar {
    /// On how many of the same items the first of two models alone succeeds, and the second.
    pub(crate) fn discordant(first: Successes, second: Successes) -> (usize, usize) {
        let items = || first.0.iter().zip(second.0);
        let both = || items().map(|(a, b)| (*a == first.1, *b == second.1));
        let count = |wanted| both().filter(|found| *found == wanted).count();
        (count((true, false)), count((false, true)))
    }

    /// The test for `only_first` items on which the first model alone succeeds and
    /// `only_second` items on which the second alone does.
    ///
    /// With n discordant items: `min(1, 2 P(X <= min))`, X binomial (n, 1/2), where
    /// n is below 25; else `P(chi2_1 >= max(0, |only_first - only_second| - 1)^2 / n)`.
    pub fn new(only_first: usize, only_second: usize) -> Self {
        let n = only_first + only_second;
        let difference = only_first.abs_diff(only_second).saturating_sub(1) as f64;
        let chi_square = libm::erfc((difference * difference / n as f64 / 2.).sqrt());
        let (p, method) = match n < FEW {
            true => (exact(only_first.min(only_second), n), McNemarTest::Exact),
            false => (chi_square, McNemarTest::ChiSquare),
        };
        Self { p, method }
    }
}

/// `min(1, 2 P(X <= k))`, X binomial (n, 1/2); exact while 2^n is below 2^53.
fn exact(k: usize, n: usize) -> f64 {
    let (mut choose, mut sum) = (1., 1.);
    for i in 1..=k {
        choose = choose * (n + 1 - i) as f64 / i as f64;
        sum += choose;
    }
    (2. * sum / 2f64.powi(n as i32)).min(1.)
}

/// A model compared with another on the same items.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The verdict that the change is meant to bring about.
    pub wanted: Verdict,
    /// Items with the wanted verdict after, but not before.
    pub gained: usize,
    /// Items with the wanted verdict before, but not after.
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
        let (lost, gained) = McNemar::discordant((before, wanted), (after, wanted));
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
        let moves: Vec<f64> = before.iter().zip(after).map(|(b, a)| a - b).collect();
        let wrong = |m: &&f64| match self.wanted {
            Verdict::Negative => **m > 0.,
            _ => **m < 0.,
        };
        let log_odds = Some(LogOddsShift {
            n: moves.len(),
            mean: moves.iter().sum::<f64>() / moves.len().max(1) as f64,
            wrong_way: moves.iter().filter(wrong).count(),
        });
        Ok(Self { log_odds, ..self })
    }
}

fn same_items(before: usize, after: usize) -> Result<()> {
    let before = (before, "items, as the first model has");
    let hint = "give both models the same items in the same order";
    same_number("comparison", before, after, hint)
}

/// Which of two answers is preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preference {
    /// The first.
    First,
    /// The second.
    Second,
    /// Neither.
    Tie,
}

impl Preference {
    /// The same of the two answers in the other order.
    pub fn swapped(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
            Self::Tie => Self::Tie,
        }
    }
}

/// What a judge said of two answers, shown in both orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// With the first answer shown first; none where the reply could not be read.
    pub as_given: Option<Preference>,
    /// With the second answer shown first; said of the answers as they were given.
    pub swapped: Option<Preference>,
}

impl Judgement {
    /// What both orders agree on; else a tie.
    pub fn preference(&self) -> Preference {
        match (self.as_given, self.swapped) {
            (Some(one), Some(other)) if one == other => one,
            _ => Preference::Tie,
        }
    }
}

/// Preferences over a set of prompts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Preferences {
    /// Pairs judged.
    pub n: usize,
    /// The first answer preferred, in both orders.
    pub first: usize,
    /// The second answer preferred, in both orders.
    pub second: usize,
    /// Ties: the judge said so, the orders disagreed, or a reply could not be read.
    pub tie: usize,
    /// Pairs of which a reply could not be read.
    pub unread: usize,
    /// Sign test of first against second, as [`McNemar`] of the pairs that are no tie.
    pub test: McNemar,
}

impl Preferences {
    /// Counts judgements.
    pub fn of(judgements: &[Judgement]) -> Self {
        let count = |p: Preference| judgements.iter().filter(|j| j.preference() == p).count();
        let (first, second) = (count(Preference::First), count(Preference::Second));
        let unread = |j: &&Judgement| j.as_given.is_none() || j.swapped.is_none();
        Self {
            n: judgements.len(),
            first,
            second,
            tie: count(Preference::Tie),
            unread: judgements.iter().filter(unread).count(),
            test: McNemar::new(first, second),
        }
    }
}

#[cfg(test)]
mod tests;
