//! Shares of answers, and how sure one can be of them.

use super::Verdict;
use serde::{Deserialize, Serialize};

/// Verdicts over a set of questions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Questions asked.
    pub n: usize,
    /// True answers.
    pub honest: usize,
    /// False answers.
    pub lie: usize,
}

impl Tally {
    /// Counts verdicts.
    pub fn of(verdicts: &[Verdict]) -> Self {
        let count = |v: Verdict| verdicts.iter().filter(|x| **x == v).count();
        Self {
            n: verdicts.len(),
            honest: count(Verdict::Honest),
            lie: count(Verdict::Lie),
        }
    }

    /// Share of true answers.
    pub fn honest_share(&self) -> f64 {
        self.honest as f64 / self.n.max(1) as f64
    }

    /// Share of false answers.
    pub fn lie_share(&self) -> f64 {
        self.lie as f64 / self.n.max(1) as f64
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
    let low = if successes == 0 {
        0.
    } else {
        (middle - half) / whole
    };
    let high = if p == 1. { 1. } else { (middle + half) / whole };
    (low, high)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `statsmodels.stats.proportion.proportion_confint(81, 263, method="wilson")`
    #[test]
    fn wilson_intervals_are_those_of_the_textbook() {
        let (low, high) = wilson(81, 263);
        assert!(
            (low - 0.2553).abs() < 1e-4 && (high - 0.3662).abs() < 1e-4,
            "{low} {high}"
        );
        assert_eq!(wilson(0, 0), (0., 1.));
        assert!(wilson(0, 10).0 == 0. && wilson(10, 10).1 == 1.);
    }
}
