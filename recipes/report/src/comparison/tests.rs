use super::Verdict::{Negative, Positive, Unscored};
use super::*;

#[test]
fn a_comparison_counts_what_moved_either_way() {
    let before = [
        Positive, Positive, Negative, Negative, Unscored, Positive, Positive,
    ];
    let after = [
        Positive, Negative, Negative, Positive, Negative, Negative, Unscored,
    ];
    let honest = Comparison::of(&before, &after, Positive).expect("a comparison");
    assert_eq!((honest.gained, honest.lost), (1, 3));
    assert_eq!(honest.test, McNemar::new(3, 1));
    let lie = Comparison::of(&before, &after, Negative).expect("a comparison");
    assert_eq!((lie.gained, lie.lost), (3, 1));
    let same = Comparison::of(&before, &before, Negative).expect("a comparison");
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
    let (up, down) = (shift(Positive), shift(Negative));
    assert_eq!((up.n, up.mean, up.wrong_way), (4, 0.5, 1));
    assert_eq!((down.mean, down.wrong_way), (0.5, 2));
}

#[test]
fn other_items_cannot_be_compared() {
    let message = Comparison::of(&[Negative], &[], Negative).expect_err("one and none");
    let message = message.to_string();
    assert!(
        message.contains("1 items") && message.contains("found 0"),
        "{message}"
    );
}

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
