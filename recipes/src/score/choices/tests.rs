use super::*;
use crate::activation_cache::CacheStorage;
use crate::score::toy_variants::{adapter, next, steering, text};
use crate::toy::tiny;
use reptune_adapters::HookedModel;

fn choice(prompt: Vec<u32>, positive: u32, negative: u32) -> Choice {
    Choice {
        prompt,
        responses: vec![vec![negative], vec![positive]],
        positive: 1,
    }
}

#[test]
fn log_odds_are_those_of_each_prompt_alone_under_every_change() {
    let toy = tiny();
    let (steering, update) = (steering(), adapter());
    let base = ModelVariant::base(&toy);
    let steered = ModelVariant {
        interventions: &steering,
        ..base
    };
    let tuned = ModelVariant {
        adapter: Some(&update),
        ..base
    };
    let one = |seed| choice(text(40 + seed % 30, seed), 65 + seed % 2, 66 - seed % 2);
    let mut choices: Vec<Choice> = (0..100).map(one).collect();
    choices.push(choices[0].clone());
    let mut all = Vec::new();
    for variant in [base, steered, tuned] {
        let mut done = Vec::new();
        let odds = log_odds(&variant, &choices, &mut |n| done.push(n)).expect("log-odds");
        assert!(done.len() > 1 && done.last() == Some(&101), "{done:?}");
        for (choice, odds) in choices.iter().zip(&odds) {
            let p = next(&variant, &choice.prompt);
            let p = |i: usize| p[choice.responses[i][0] as usize];
            let alone = p(1) - p(0);
            assert!((alone - odds).abs() < 1e-4, "{alone} {odds}");
        }
        all.push(odds);
    }
    assert!((all[0][0] - all[1][0]).abs() > 1e-3 && (all[0][0] - all[2][0]).abs() > 1e-3);
}

#[test]
fn one_token_responses_are_the_difference_of_two_logits_to_the_bit() {
    let toy = tiny();
    let choices = [choice(text(20, 3), 65, 66), choice(text(31, 4), 7, 200)];
    let base = ModelVariant::base(&toy);
    let odds = log_odds(&base, &choices, &mut |_| ()).expect("log-odds");
    let texts = choices.each_ref().map(|c| c.prompt.as_slice());
    let batch = base.pack(&texts).expect("a batch");
    let last = |i: usize| batch.paths[i][texts[i].len() - 1];
    let logits = base.logits((&batch, &texts), vec![last(0), last(1)], None);
    let logits = logits.expect("logits");
    for (i, c) in choices.iter().enumerate() {
        let of = |r: usize| logits.of(last(i))[c.responses[r][0] as usize];
        assert_eq!(odds[i], f64::from(of(1)) - f64::from(of(0)));
        assert_eq!(odds[i] as f32, of(1) - of(0));
    }
}

#[test]
fn responses_of_several_tokens_are_scored_by_the_sum_of_their_log_probabilities() {
    let (toy, steering) = (tiny(), steering());
    let steered = ModelVariant {
        interventions: &steering,
        ..ModelVariant::base(&toy)
    };
    let responses = vec![vec![65, 66, 67], vec![65, 9], vec![4]];
    let one = |positive| Choice {
        prompt: text(25, 8),
        responses: responses.clone(),
        positive,
    };
    let choices = [one(0), one(2), choice(text(25, 8), 65, 66)];
    let probability = |response: &[u32]| -> f64 {
        let log = |t: usize| {
            let ids = [&text(25, 8), &response[..t]].concat();
            next(&steered, &ids)[response[t] as usize]
        };
        (0..response.len()).map(log).sum::<f64>().exp()
    };
    let p: Vec<f64> = responses.iter().map(|r| probability(r)).collect();
    let expected = [(p[0] / (p[1] + p[2])).ln(), (p[2] / (p[0] + p[1])).ln()];
    let odds = log_odds(&steered, &choices, &mut |_| ()).expect("log-odds");
    for (odds, expected) in odds.iter().zip(expected) {
        assert!((odds - expected).abs() < 1e-4, "{odds} {expected}");
    }
    // A forward that resumes at cached rows gives the same.
    let mask = |position, prompt| token_mask(&steering, position, prompt);
    let packed = PackedChoices::new(toy.spec(), &choices, mask).expect("choices");
    let (prompts, storage) = (packed.prompts(), CacheStorage::Memory);
    let cache = ActivationCache::at_layer(&toy, &prompts, 1, None, storage).expect("a cache");
    let resumed = packed.log_odds(&steered, Some(&cache), &mut |_| ());
    for (resumed, odds) in resumed.expect("log-odds").iter().zip(&odds) {
        assert!((resumed - odds).abs() < 1e-4, "{resumed} {odds}");
    }
}

#[test]
fn what_cannot_be_scored_is_refused() {
    let toy = tiny();
    let message = |choice: Choice| {
        let odds = log_odds(&ModelVariant::base(&toy), &[choice], &mut |_| ());
        odds.expect_err("what cannot be scored").to_string()
    };
    let unknown = message(choice(text(9, 0), 65, 272));
    let start = "answer token: expected 0 to 271";
    assert!(unknown.starts_with(start), "{unknown}");
    for (length, found) in [(129, "found 129"), (0, "found 0")] {
        let message = message(choice(text(length, 0), 65, 66));
        assert!(
            message.contains(found) && message.contains("128"),
            "{message}"
        );
    }
    let one = Choice {
        responses: vec![vec![65]],
        positive: 0,
        ..choice(text(9, 0), 65, 66)
    };
    let none = Choice {
        responses: vec![vec![65], vec![]],
        ..choice(text(9, 0), 65, 66)
    };
    for choice in [one, none] {
        assert!(message(choice).starts_with("choice 0: expected two or more"));
    }
}
