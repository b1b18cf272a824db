use super::*;
use crate::outcomes::{Outcomes, Verdict};

fn row(model: &str, negative: usize) -> ModelRow {
    let verdicts: Vec<Verdict> = (0..100)
        .map(|i| match i < negative {
            true => Verdict::Negative,
            false => Verdict::Positive,
        })
        .collect();
    ModelRow {
        model: model.into(),
        claims: Outcomes::of(&verdicts),
        choices: Some(Outcomes::of(&verdicts)),
        claim_verdicts: verdicts.clone(),
        choice_verdicts: verdicts,
        perplexity: Some(3. + negative as f64 / 1000.),
        ..ModelRow::default()
    }
}

fn repeats(model: &str, negatives: [usize; 2]) -> SeedRepeats {
    SeedRepeats {
        model: model.into(),
        rows: negatives.map(|n| row(model, n)).into(),
    }
}

fn judged(left: &str, relation: &str, right: &str, margin: &str) -> Finding {
    let quantity = |text: &str| {
        let (model, measure) = text.split_once(", ").expect("a model and a measure");
        format!(r#"{{"model": "{model}", "measure": "{measure}"}}"#)
    };
    let claim = format!(
        r#"{{"name": "a claim", "left": {}, "relation": "{relation}", "right": {}, "margin": {margin}}}"#,
        quantity(left),
        quantity(right)
    );
    let claim: StudyClaim = serde_json::from_str(&claim).expect("a claim");
    let table = ResultTable {
        rows: vec![
            row("base", 10),
            row("steered -3.0", 95),
            row("tuned lie", 0),
        ],
        ..ResultTable::default()
    };
    let seeds = [
        repeats("tuned lie", [80, 80]),
        repeats("tuned in- & lie", [79, 90]),
    ];
    claim.judge(&table, &seeds)
}

#[test]
fn a_claim_holds_with_every_seed_or_with_none_or_is_undecided() {
    let (both, lie) = (
        "tuned in- & lie, claims.negative",
        "tuned lie, claims.negative",
    );
    for (left, relation, right, margin, expected) in [
        // .79 and .90 compared with .80 and .80.
        (both, ">", lie, "0.02", ClaimOutcome::Holds),
        (both, ">", lie, "0", ClaimOutcome::Undecided),
        (both, "=", lie, "0.2", ClaimOutcome::Holds),
        (
            both,
            ">",
            "steered -, claims.negative",
            "0",
            ClaimOutcome::DoesNotHold,
        ),
        (
            both,
            "<",
            "steered -, claims.negative",
            "0",
            ClaimOutcome::Holds,
        ),
        (lie, ">", lie, "0", ClaimOutcome::Undecided),
        (lie, "=", lie, "0", ClaimOutcome::Holds),
        (both, ">", "base, log_odds", "0", ClaimOutcome::NotMeasured),
        (
            both,
            ">",
            "no such model, claims.negative",
            "0",
            ClaimOutcome::NotMeasured,
        ),
    ] {
        let found = judged(left, relation, right, margin);
        assert_eq!(found.outcome, expected, "{left} {relation} {right}");
    }
}

#[test]
fn a_margin_may_be_a_share_of_the_right_number() {
    let (left, right) = ("tuned lie, perplexity", "base, perplexity");
    let within = |share: &str| judged(left, "<", right, &format!(r#"{{"relative": {share}}}"#));
    // 3.08 compared with 3.01.
    assert_eq!(within("0.03").outcome, ClaimOutcome::Holds);
    assert_eq!(within("0.02").outcome, ClaimOutcome::DoesNotHold);
}

#[test]
fn shares_of_the_same_items_have_a_p_value() {
    let one = judged(
        "base, claims.negative",
        "<",
        "steered -, claims.negative",
        "0",
    );
    assert_eq!(
        (one.left, one.right, one.seeds),
        (Some(0.1), Some(0.95), None)
    );
    assert_eq!(one.p, Some(McNemar::new(0, 85).p));
    // The seeds differ on one item and on ten.
    let seeds = "tuned in- & lie, claims.negative";
    let several = judged(seeds, ">", "tuned lie, claims.negative", "0");
    assert_eq!((several.seeds, several.p), (Some(0.5), Some(1.)));
    let other = judged(
        "base, claims.negative",
        "<",
        "base, choices.negative",
        "0.1",
    );
    assert_eq!(other.p, None);
}
