//! Which of two answers is preferred, and how often.

use crate::mcnemar::McNemar;
use serde::{Deserialize, Serialize};

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
