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
