//! Whether two models differ on the same items.

use serde::{Deserialize, Serialize};

/// Below this many discordant items the exact test is used.
const FEW: usize = 25;

/// How a p-value was computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
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
    pub method: Method,
}

impl McNemar {
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
                method: Method::Exact,
            };
        }
        let apart = only_first.abs_diff(only_second).saturating_sub(1) as f64;
        Self {
            p: libm::erfc((apart * apart / n as f64 / 2.).sqrt()),
            method: Method::ChiSquare,
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
mod tests {
    use super::*;

    /// From statsmodels: `mcnemar([[0, b], [c, 0]], exact=b + c < 25, correction=True).pvalue`
    #[test]
    fn p_values_are_those_of_statsmodels() {
        let golden = [
            (0, 1, 1.0),
            (0, 6, 0.03125),
            (1, 3, 0.625),
            (2, 10, 0.03857421875),
            (7, 9, 0.803619384765625),
            (3, 21, 0.0002771615982055664),
            (5, 20, 0.005110260660855866),
            (12, 13, 1.0),
            (10, 31, 0.0017872890369872703),
            (40, 61, 0.04658274252301569),
            (2, 90, 1.1860590812365182e-19),
        ];
        for (b, c, p) in golden {
            for test in [McNemar::new(b, c), McNemar::new(c, b)] {
                assert!((test.p - p).abs() < 1e-12, "{b} {c}: {} for {p}", test.p);
                assert_eq!(test.method == Method::Exact, b + c < 25);
            }
        }
    }

    #[test]
    fn models_that_differ_on_no_side_are_equal() {
        assert_eq!(McNemar::new(0, 0).p, 1.);
        assert_eq!(McNemar::new(12, 12).p, 1.);
        assert_eq!(McNemar::new(20, 20).p, 1.);
    }
}
