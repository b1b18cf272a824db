use super::*;
use crate::score::toy_variants::{adapter, next, next_at, steering, steering_on, text};
use crate::toy::tiny;

const SHORT: Windows = Windows {
    length: 16,
    stride: 6,
};

#[test]
fn perplexity_is_that_of_a_loop_over_tokens_under_every_change() {
    let toy = tiny();
    let (steering, update) = (steering(), adapter());
    let base = ModelVariant::base(&toy);
    let both = ModelVariant {
        interventions: &steering,
        adapter: Some(&update),
        ..base
    };
    let ids = text(45, 3);
    let mut values = Vec::new();
    for model in [base, both] {
        let mut sum = 0.;
        for t in 1..ids.len() {
            let begin = (0..).step_by(SHORT.stride).find(|b| t < b + SHORT.length);
            let begin = begin.expect("a window");
            sum -= next(&model, &ids[begin..t])[ids[t] as usize];
        }
        let got = loss(&model, &ids, SHORT).expect("a loss");
        let expected = sum / 44.;
        assert!((got - expected).abs() < 1e-5, "{got} {expected}");
        values.push(got);
    }
    assert!((values[0] - values[1]).abs() > 1e-3, "{values:?}");
}

#[test]
fn a_window_longer_than_the_text_gives_the_plain_value() {
    let toy = tiny();
    let base = ModelVariant::base(&toy);
    let ids = text(30, 8);
    let plain: f64 = (1..30)
        .map(|t| -next(&base, &ids[..t])[ids[t] as usize])
        .sum();
    for (length, stride) in [(30, 1), (30, 29), (31, 7), (128, 64)] {
        let windows = Windows { length, stride };
        let got = loss(&base, &ids, windows).expect("a loss");
        assert!((got - plain / 29.).abs() < 1e-5);
    }
}

#[test]
fn windows_follow_the_context() {
    let mut spec = reptune_adapters::HookedModel::spec(&tiny()).clone();
    let mut windows = |context| {
        spec.context = context;
        let w = Windows::of(&spec);
        (w.length, w.stride)
    };
    assert_eq!(windows(128), (128, 64));
    assert_eq!(windows(1024), (1024, 512));
    assert_eq!(windows(4096), (1024, 512));
}

#[test]
fn windows_that_cannot_be_are_refused() {
    let toy = tiny();
    let refused = |length, stride, tokens| {
        let windows = Windows { length, stride };
        let got = loss(&ModelVariant::base(&toy), &text(tokens, 0), windows);
        got.expect_err("what cannot be").to_string()
    };
    assert!(refused(129, 64, 9).starts_with("length of windows: expected 2 to 128"));
    assert!(refused(16, 16, 9).starts_with("stride of windows: expected 1 to 15"));
    assert!(refused(16, 0, 9).contains("found 0"));
    assert!(refused(16, 8, 1).starts_with("text for perplexity: expected at least two"));
}

#[test]
fn a_text_is_steered_as_if_it_were_generated_after_its_first_token() {
    let toy = tiny();
    let (base, ids) = (ModelVariant::base(&toy), text(45, 3));
    let plain = loss(&base, &ids, SHORT).expect("a loss");
    for rule in ["generated", "window:9..20", "last:3", "all"] {
        let steering = steering_on(rule);
        let steered = ModelVariant {
            interventions: &steering,
            ..base
        };
        let mut sum = 0.;
        for t in 1..ids.len() {
            let begin = (0..).step_by(SHORT.stride).find(|b| t < b + SHORT.length);
            let begin = begin.expect("a window");
            let next = next_at(&steered, &ids[begin..t], |i| (begin + i, 1));
            sum -= next[ids[t] as usize];
        }
        let got = loss(&steered, &ids, SHORT).expect("a loss");
        let expected = sum / 44.;
        assert!((got - expected).abs() < 1e-5, "{rule}: {got} {expected}");
        assert!((got - plain).abs() > 1e-4, "{rule}: {got} {plain}");
    }
    let steering = steering_on("at:9");
    let nowhere = ModelVariant {
        interventions: &steering,
        ..base
    };
    let refused = perplexity(&nowhere, &[ids]).expect_err("nothing is steered");
    assert!(matches!(refused, Error::Unsteered(_)), "{refused}");
}
