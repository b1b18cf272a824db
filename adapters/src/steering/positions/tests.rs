use super::*;

fn chosen(rule: &str) -> Vec<usize> {
    let rule: Positions = rule.parse().expect(rule);
    (0..7).filter(|&p| rule.chooses(p, 5)).collect()
}

#[test]
fn rules_choose_the_rows_they_name() {
    assert_eq!(chosen("all"), [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(chosen("prompt"), [0, 1, 2, 3, 4]);
    assert_eq!(chosen("generated"), [5, 6]);
    assert_eq!(chosen("last:2"), [3, 4]);
    assert_eq!(chosen("last:9"), [0, 1, 2, 3, 4]);
    assert_eq!(chosen("positions:0,-1,-7"), [0, 4]);
    assert_eq!(chosen("window:0..0"), [4]);
    assert_eq!(chosen("window:-2..1"), [2, 3, 4, 5]);
    assert_eq!(chosen("window:1..9"), [5, 6]);
    assert_eq!(chosen("window:-9..-4"), [0]);
}

#[test]
fn a_rule_is_read_as_it_is_written() {
    for text in [
        "all",
        "prompt",
        "generated",
        "last:3",
        "positions:0,-1",
        "window:-3..2",
    ] {
        let rule: Positions = text.parse().expect(text);
        assert_eq!(rule.to_string(), text);
    }
}

#[test]
fn nonsense_is_refused_with_the_forms_that_are_taken() {
    for text in [
        "some",
        "last:0",
        "last:x",
        "positions:",
        "first:2",
        "window:2",
        "window:2..1",
        "window:..3",
    ] {
        let message = text.parse::<Positions>().expect_err(text).to_string();
        assert!(
            message.contains("last:K") && message.contains("window:A..B") && message.contains(text),
            "{message}"
        );
    }
}
