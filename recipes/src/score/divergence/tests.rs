use super::*;
use crate::activation_cache::CacheStorage;
use crate::score::toy_variants::{adapter, next, next_at, steering, steering_on, text};
use crate::toy::tiny;

/// `scipy.special.rel_entr(softmax([1, 2, 3]), softmax([3, 2, 0.5])).sum()`
#[test]
fn divergence_of_two_rows_is_that_of_scipy() {
    let got = kl_divergence(&[1., 2., 3.], &[3., 2., 0.5]);
    assert!((got - 1.446974310504596).abs() < 1e-12, "{got}");
    assert_eq!(
        kl_divergence(&[0., f32::NEG_INFINITY], &[0., 0.]),
        2f64.ln()
    );
}

#[test]
fn divergence_is_the_mean_over_all_rows_of_all_texts() {
    let toy = tiny();
    let (steering, update) = (steering(), adapter());
    let base = ModelVariant::base(&toy);
    let changed = ModelVariant {
        interventions: &steering,
        adapter: Some(&update),
        ..base
    };
    let mut texts: Vec<Vec<u32>> = (0..9).map(|seed| text(60 + seed, seed)).collect();
    texts.push(texts[0].clone());
    let got = divergence(&base, &changed, &texts, TextKind::Generated).expect("a divergence");
    let (mut sum, mut rows) = (0., 0);
    for ids in &texts {
        for t in 1..=ids.len() {
            let (p, q) = (next(&base, &ids[..t]), next(&changed, &ids[..t]));
            sum += p
                .iter()
                .zip(&q)
                .map(|(p, q)| p.exp() * (p - q))
                .sum::<f64>();
            rows += 1;
        }
    }
    let mean = sum / f64::from(rows);
    assert!((got - mean).abs() < 1e-5 && got > 1e-3, "{got} {mean}");
}

#[test]
fn the_base_does_not_diverge_from_itself() {
    let toy = tiny();
    let base = ModelVariant::base(&toy);
    let got = divergence(&base, &base, &[text(20, 1)], TextKind::Generated);
    assert_eq!(got.expect("a divergence"), 0.);
}

#[test]
fn reference_logits_give_the_same_divergence_with_and_without_a_cache() {
    let (toy, steering) = (tiny(), steering());
    let texts: Vec<Vec<u32>> = (0..12).map(|seed| text(50 + seed, seed)).collect();
    let base = ModelVariant::base(&toy);
    let steered = ModelVariant {
        interventions: &steering,
        ..base
    };
    let whole = divergence(&base, &steered, &texts, TextKind::Prompt).expect("a divergence");
    let cache = ActivationCache::at_layer(&toy, &texts, 1, None, CacheStorage::Memory);
    let cache = cache.expect("a cache");
    let reference = ReferenceLogits::new(&base, texts, TextKind::Prompt).expect("logits");
    assert_eq!(reference.divergence(&steered, None).ok(), Some(whole));
    let resumed = reference.divergence(&steered, Some(&cache));
    let resumed = resumed.expect("a divergence");
    assert!((resumed - whole).abs() < 1e-6);
}

#[test]
fn texts_are_steered_as_prompts_or_as_what_is_generated() {
    let toy = tiny();
    let base = ModelVariant::base(&toy);
    let texts: Vec<Vec<u32>> = (0..4).map(|seed| text(9 + seed, seed)).collect();
    for (rule, kind) in [
        ("generated", TextKind::Generated),
        ("window:2..4", TextKind::Generated),
        ("last:2", TextKind::Prompt),
        ("last:2", TextKind::Generated),
    ] {
        let steering = steering_on(rule);
        let steered = ModelVariant {
            interventions: &steering,
            ..base
        };
        let (mut sum, mut rows) = (0., 0);
        for ids in &texts {
            for t in 1..=ids.len() {
                let (p, q) = (
                    next(&base, &ids[..t]),
                    next_at(&steered, &ids[..t], |i| (i, kind.prompt(ids.len()))),
                );
                let kl = p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q));
                sum += kl.sum::<f64>();
                rows += 1;
            }
        }
        let mean = sum / f64::from(rows);
        let got = divergence(&base, &steered, &texts, kind).expect("a divergence");
        assert!(
            (got - mean).abs() < 1e-5 && got > 1e-4,
            "{rule}: {got} {mean}"
        );
    }
    let steering = steering_on("generated");
    let steered = ModelVariant {
        interventions: &steering,
        ..base
    };
    let refused = divergence(&base, &steered, &texts, TextKind::Prompt);
    let message = refused.expect_err("nothing is steered").to_string();
    assert!(
        message.contains("no scored position is steered"),
        "{message}"
    );
}
