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
