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

    /// Answers with this verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        match verdict {
            Verdict::Positive => self.positive,
            Verdict::Negative => self.negative,
            Verdict::Unscored => self.unscored,
        }
    }

    /// Share of answers with this verdict among all; 0 where nothing was asked.
    pub fn share(&self, verdict: Verdict) -> f64 {
        self.count(verdict) as f64 / self.n().max(1) as f64
    }

    /// Wilson 95 % interval of [`Self::share`].
    pub fn interval(&self, verdict: Verdict) -> (f64, f64) {
        wilson(self.count(verdict), self.n())
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
    match p {
        0. => (0., (middle + half) / whole),
        1. => ((middle - half) / whole, 1.),
        _ => ((middle - half) / whole, (middle + half) / whole),
    }
}

#[cfg(test)]
mod tests;
