use super::*;

#[test]
fn the_smaller_share_of_the_effect_counts() {
    let base = ClaimScores::of(&[1., 1., 1., -1.]);
    assert_eq!((base.balance, base.log_odds), (0.5, 0.5));
    let tuned = ClaimScores::of(&[-2., -2., -2., -2.]);
    assert_eq!(tuned.effect_retained(&base, &tuned), Some(1.));
    assert_eq!(base.effect_retained(&base, &tuned), Some(0.));
    // all answers are those of the tuned model, but by a hair
    let pale = ClaimScores::of(&[-0.1, -0.1, -0.1, -0.1]);
    let kept = pale.effect_retained(&base, &tuned).expect("an effect");
    assert!((kept - 0.6 / 2.5).abs() < 1e-12, "{kept}");
    // log-odds are there, but half of the answers turned
    let torn = ClaimScores::of(&[-9., -9., 2., 2.]);
    let kept = torn.effect_retained(&base, &tuned).expect("an effect");
    assert!((kept - 0.5 / 1.5).abs() < 1e-12, "{kept}");
    assert_eq!(
        tuned.effect_retained(&base, &base),
        None,
        "nothing was changed"
    );
    let worse = ClaimScores::of(&[3., 3., 3., 3.]);
    assert!(worse.effect_retained(&base, &tuned).expect("an effect") < 0.);
}
