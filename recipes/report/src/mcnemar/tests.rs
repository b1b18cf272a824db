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
            assert_eq!(test.method == McNemarTest::Exact, b + c < 25);
        }
    }
}

#[test]
fn models_that_differ_on_no_side_are_equal() {
    assert_eq!(McNemar::new(0, 0).p, 1.);
    assert_eq!(McNemar::new(12, 12).p, 1.);
    assert_eq!(McNemar::new(20, 20).p, 1.);
}
