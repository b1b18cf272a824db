use super::*;

fn chosen(rule: &str) -> Vec<usize> {
    let rule: Positions = rule.parse().expect(rule);
    (0..7).filter(|&p| rule.chooses(p, 5)).collect()
}

#[test]
fn rules_choose_the_tokens_they_name() {
    assert_eq!(chosen("all"), [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(chosen("prompt"), [0, 1, 2, 3, 4]);
    assert_eq!(chosen("generated"), [5, 6]);
    assert_eq!(chosen("last:2"), [3, 4]);
    assert_eq!(chosen("last:9"), [0, 1, 2, 3, 4]);
    assert_eq!(chosen("at:0,-1,-7"), [0, 4]);
    assert_eq!(chosen("window:0..0"), [4]);
    assert_eq!(chosen("window:-2..1"), [2, 3, 4, 5]);
    assert_eq!(chosen("window:1..9"), [5, 6]);
    assert_eq!(chosen("window:-9..-4"), [0]);
    assert_eq!(chosen("answer"), [5]);
}

#[test]
fn a_rule_is_in_the_prompt_where_it_chooses_one_of_its_tokens() {
    for rule in [
        "all",
        "prompt",
        "generated",
        "last:2",
        "at:-1",
        "window:0..3",
        "window:1..3",
        "answer",
    ] {
        let chosen = chosen(rule).iter().any(|p| *p < 5);
        let rule: Positions = rule.parse().expect(rule);
        assert_eq!(rule.in_prompt(), chosen, "{rule}");
    }
}

#[test]
fn single_positions_are_those_of_the_rule() {
    let tokens = |rule: &str| -> Vec<Option<Vec<usize>>> {
        let rule: Positions = rule.parse().expect(rule);
        rule.each().iter().map(|one| one.tokens(5)).collect()
    };
    let some =
        |all: &[usize]| -> Vec<Option<Vec<usize>>> { all.iter().map(|t| Some(vec![*t])).collect() };
    assert_eq!(tokens("last:2"), some(&[4, 3]));
    assert_eq!(tokens("window:-2..1"), some(&[5, 4, 3, 2]));
    assert_eq!(tokens("at:0,-1"), some(&[0, 4]));
    assert_eq!(tokens("answer"), some(&[5]));
    assert_eq!(tokens("mean:-2..1"), [Some(vec![5, 4, 3, 2])]);
    for outside in ["at:5", "at:-6", "mean:-5..0", "mean:0..2", "<end>"] {
        assert_eq!(tokens(outside), [None], "{outside}");
    }
}

#[test]
fn a_rule_is_read_as_it_is_written() {
    for text in [
        "all",
        "prompt",
        "generated",
        "last:3",
        "at:0,-1",
        "window:-3..2",
        "answer",
        "mean:-7..1",
        "<claim-end>",
    ] {
        let rule: Positions = text.parse().expect(text);
        assert_eq!(rule.to_string(), text);
    }
}

#[test]
fn nonsense_is_refused_with_the_forms_that_are_taken() {
    for text in [
        "some",
        "",
        "last:0",
        "last:x",
        "at:",
        "first:2",
        "window:2",
        "window:2..1",
        "window:..3",
        "mean:1..0",
        "<>",
        "<<end>>",
    ] {
        let message = text.parse::<Positions>().expect_err(text).to_string();
        assert!(
            message.contains("last:K") && message.contains("window:A..B") && message.contains(text),
            "{message}"
        );
    }
    let message = "positions:0,-1"
        .parse::<Positions>()
        .expect_err("the old form");
    assert!(
        message.to_string().contains("written `at:0,-1`"),
        "{message}"
    );
}

#[test]
fn each_use_takes_the_forms_that_make_sense() {
    use PositionsUse::{Extraction, Steering, Tuning};
    for (text, uses) in [
        ("all", &[Steering][..]),
        ("prompt", &[Steering]),
        ("generated", &[Steering]),
        ("last:2", &[Extraction, Steering, Tuning]),
        ("at:-2", &[Extraction, Steering, Tuning]),
        ("at:0", &[Extraction, Steering]),
        ("at:-1,-1", &[]),
        ("window:-2..0", &[Extraction, Steering, Tuning]),
        ("window:-2..1", &[Extraction, Steering]),
        ("window:-2..2", &[Steering]),
        ("answer", &[Extraction, Steering]),
        ("mean:-2..1", &[Extraction]),
        ("mean:-2..2", &[]),
        ("<end>", &[Extraction]),
    ] {
        let rule: Positions = text.parse().expect(text);
        for purpose in [Extraction, Steering, Tuning] {
            let fits = rule.check(purpose).is_ok();
            assert_eq!(fits, uses.contains(&purpose), "{text} for {purpose:?}");
        }
    }
}
