//! Whether two models differ on the same items.

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

impl McNemar {
    /// On how many of the same items the first of two models alone succeeds, and the second.
    pub(crate) fn discordant(first: &[bool], second: &[bool]) -> (usize, usize) {
        let only = |a: &[bool], b: &[bool]| a.iter().zip(b).filter(|(a, b)| **a && !**b).count();
        (only(first, second), only(second, first))
    }

    /// The test for `only_first` items on which the first model alone succeeds and
    /// `only_second` items on which the second alone does.
    ///
    /// With n discordant items: `min(1, 2 P(X <= min))`, X binomial (n, 1/2), where
    /// n is below 25; else `P(chi2_1 >= max(0, |only_first - only_second| - 1)^2 / n)`.
    pub fn new(only_first: usize, only_second: usize) -> Self {
        let n = only_first + only_second;
        if n < FEW {
            return Self {
                p: exact(only_first.min(only_second), n),
                method: McNemarTest::Exact,
            };
        }
        let apart = only_first.abs_diff(only_second).saturating_sub(1) as f64;
        Self {
            p: libm::erfc((apart * apart / n as f64 / 2.).sqrt()),
            method: McNemarTest::ChiSquare,
        }
    }
}

/// `min(1, 2 P(X <= k))`, X binomial (n, 1/2); exact while 2^n is below 2^53.
fn exact(k: usize, n: usize) -> f64 {
    let mut ways = 1.;
    let mut sum = 1.;
    for i in 1..=k {
        ways = ways * (n + 1 - i) as f64 / i as f64;
        sum += ways;
    }
    (2. * sum / 2f64.powi(n as i32)).min(1.)
}

#[cfg(test)]
mod tests;
