use super::*;
use crate::activation_cache::CacheStorage;
use crate::generate::{Generation, generate};
use crate::score::toy_variants::{adapter, next, steering, steering_on, text};
use crate::toy::tiny;
use reptune_adapters::steering::intervention::token_mask;
use reptune_adapters::{ForwardOptions, HookedModel, KeyValueCache, PrefixTree};

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
    let batch = base.pack(&texts, |_, _| 0).expect("a batch");
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

/// Log-probability of `response` as a generation after `prompt` has it: token by token, with a
/// key/value cache.
fn generated(variant: &ModelVariant, prompt: &[u32], response: &[u32]) -> f64 {
    let mut tree = PrefixTree::new();
    let path = tree.insert(None, prompt, |i| variant.mask(i, prompt.len()));
    let mut cache = KeyValueCache::keeping(variant.model.spec().layers, 64);
    let (mut last, mut sum) = (path[prompt.len() - 1], 0.);
    for (step, id) in response.iter().enumerate() {
        let options = ForwardOptions {
            interventions: variant.interventions,
            logits: &[last],
            ..ForwardOptions::default()
        };
        let output = variant.model.forward(&tree, &mut cache, &options);
        let logits = output.expect("a forward").logits.expect("logits");
        let logits: Vec<f32> = logits
            .flatten_all()
            .and_then(|x| x.to_vec1())
            .expect("numbers");
        sum += f64::from(logits[*id as usize]) - log_sum_exp(&logits);
        last = tree.append(last, *id, variant.mask(prompt.len() + step, prompt.len()));
    }
    sum
}

#[test]
fn answers_are_scored_as_a_generation_has_them_wherever_it_is_steered() {
    let (toy, prompt) = (tiny(), text(25, 8));
    let base = ModelVariant::base(&toy);
    let unsteered = |r: &[u32]| generated(&base, &prompt, r);
    for rule in ["all", "generated", "answer", "window:1..1", "last:2"] {
        let steering = steering_on(rule);
        let steered = ModelVariant {
            interventions: &steering,
            ..base
        };
        let how = Generation {
            interventions: &steering,
            max_new_tokens: 2,
            ..Generation::default()
        };
        let prompts = [prompt.clone()];
        let own = generate(&toy, &prompts, &how, &mut |_| {}).expect("two tokens");
        let choice = Choice {
            prompt: prompt.clone(),
            responses: vec![own[0].clone(), vec![65, 9, 4]],
            positive: 0,
        };
        let odds = log_odds(&steered, std::slice::from_ref(&choice), &mut |_| ());
        let odds = odds.expect("log-odds")[0];
        let [one, other] = [0, 1].map(|i| &choice.responses[i]);
        let expected = generated(&steered, &prompt, one) - generated(&steered, &prompt, other);
        assert!((odds - expected).abs() < 1e-5, "{rule}: {odds} {expected}");
        let shift = odds - (unsteered(one) - unsteered(other));
        assert!(shift.abs() > 1e-3, "{rule} changes nothing: {shift}");
    }
}

#[test]
fn answers_that_steering_cannot_reach_are_refused() {
    let toy = tiny();
    for (rule, tokens, reached) in [
        ("generated", 1, false),
        ("answer", 1, false),
        ("window:1..3", 1, false),
        ("window:2..3", 2, false),
        ("window:2..3", 3, true),
        ("generated", 2, true),
        ("at:24", 1, true),
        ("at:25", 1, false),
    ] {
        let steering = steering_on(rule);
        let variant = ModelVariant {
            interventions: &steering,
            ..ModelVariant::base(&toy)
        };
        let choice = Choice {
            prompt: text(25, 8),
            responses: vec![vec![65; tokens], vec![66; tokens]],
            positive: 0,
        };
        let odds = log_odds(&variant, &[choice], &mut |_| ());
        match odds {
            Ok(_) => assert!(reached, "{rule} of {tokens}"),
            Err(e) => {
                assert!(!reached, "{rule} of {tokens}: {e}");
                let message = e.to_string();
                assert!(
                    message.contains("no scored position is steered"),
                    "{message}"
                );
            }
        }
    }
}
