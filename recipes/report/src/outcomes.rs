//! How answers turned out: counts, shares, and how sure one can be of them.

use serde::{Deserialize, Serialize};

/// How one answer turned out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It shows the behaviour: the true answer, where the behaviour is honesty.
    #[serde(rename = "+")]
    Positive,
    /// It shows the opposite.
    #[serde(rename = "-")]
    Negative,
    /// Neither can be read from it.
    #[serde(rename = "?")]
    Unscored,
}

/// Verdicts over a set of questions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcomes {
    /// Answers that show the behaviour.
    pub positive: usize,
    /// Answers that show the opposite.
    pub negative: usize,
    /// Answers in which neither can be read.
    pub unscored: usize,
}

impl Outcomes {
    /// Counts verdicts.
    pub fn of(verdicts: &[Verdict]) -> Self {
        let count = |v: Verdict| verdicts.iter().filter(|x| **x == v).count();
        Self {
            positive: count(Verdict::Positive),
            negative: count(Verdict::Negative),
            unscored: count(Verdict::Unscored),
        }
    }

    /// Questions asked.
    pub fn n(&self) -> usize {
        self.positive + self.negative + self.unscored
    }

    /// Share of positive answers among all; 0 where nothing was asked.
    pub fn positive_share(&self) -> f64 {
        share(self.positive, self.n())
    }

    /// Share of negative answers among all; 0 where nothing was asked.
    pub fn negative_share(&self) -> f64 {
        share(self.negative, self.n())
    }

    /// Wilson 95 % interval of [`Self::positive_share`].
    pub fn positive_interval(&self) -> (f64, f64) {
        wilson(self.positive, self.n())
    }

    /// Wilson 95 % interval of [`Self::negative_share`].
    pub fn negative_interval(&self) -> (f64, f64) {
        wilson(self.negative, self.n())
    }
}

/// What the two sides of a behaviour are called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Poles {
    /// An answer that shows the behaviour.
    pub positive: String,
    /// An answer that shows the opposite.
    pub negative: String,
}

impl Default for Poles {
    fn default() -> Self {
        Self {
            positive: "honest".into(),
            negative: "lie".into(),
        }
    }
}

pub(crate) fn share(count: usize, n: usize) -> f64 {
    count as f64 / n.max(1) as f64
}

/// Wilson 95 % interval of a share of `successes` in `n`.
///
/// `(p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)`, z = 1.96
pub fn wilson(successes: usize, n: usize) -> (f64, f64) {
    if n == 0 {
        return (0., 1.);
    }
    let (n, z) = (n as f64, 1.959_963_984_540_054_f64);
    let p = successes as f64 / n;
    let middle = p + z * z / (2. * n);
    let half = z * (p * (1. - p) / n + z * z / (4. * n * n)).sqrt();
    let whole = 1. + z * z / n;
    // Exact at the ends, where rounding would miss them.
    let low = if successes == 0 {
        0.
    } else {
        (middle - half) / whole
    };
    let high = if p == 1. { 1. } else { (middle + half) / whole };
    (low, high)
}

#[cfg(test)]
mod tests;
