use super::*;
use rand::SeedableRng;

/// Probabilities .5, .25, .125, .125.
const LOGITS: [f32; 4] = [2., 1.306_852_8, 0.613_705_64, 0.613_705_64];

fn shares(sampling: &RequestSampling, context: &[u32]) -> [f64; 4] {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut counts = [0.; 4];
    for _ in 0..20_000 {
        let token = sampling.pick(&LOGITS, context, &mut rng);
        counts[token.expect("a token") as usize] += 1. / 20_000.;
    }
    counts
}

#[test]
fn tokens_are_drawn_from_what_each_setting_leaves() {
    let off = RequestSampling::default();
    let half = 0.5f64.sqrt();
    let warm = [half, 0.5, 0.5 * half, 0.5 * half].map(|w| w / (half + 0.5 + half));
    let third = 2. / 3.;
    for (what, sampling, expected) in [
        ("nothing", off.clone(), [0.5, 0.25, 0.125, 0.125]),
        (
            "temperature",
            RequestSampling {
                temperature: 2.,
                ..off.clone()
            },
            warm,
        ),
        (
            "top_k",
            RequestSampling {
                top_k: 2,
                ..off.clone()
            },
            [third, 1. - third, 0., 0.],
        ),
        (
            "top_p",
            RequestSampling {
                top_p: 0.6,
                ..off.clone()
            },
            [third, 1. - third, 0., 0.],
        ),
        (
            "top_p 0",
            RequestSampling {
                top_p: 0.,
                ..off.clone()
            },
            [1., 0., 0., 0.],
        ),
        // Alone, which mistral.rs 0.8.1 ignores.
        (
            "min_p",
            RequestSampling {
                min_p: 0.4,
                ..off.clone()
            },
            [third, 1. - third, 0., 0.],
        ),
        (
            "temperature 0",
            RequestSampling {
                temperature: 0.,
                ..off.clone()
            },
            [1., 0., 0., 0.],
        ),
        (
            "bias",
            RequestSampling {
                logit_bias: vec![(1, 100.), (9, 1.)],
                ..off.clone()
            },
            [0., 1., 0., 0.],
        ),
        (
            "both ks",
            RequestSampling {
                top_k: 3,
                top_p: 0.6,
                ..off.clone()
            },
            [third, 1. - third, 0., 0.],
        ),
    ] {
        for (got, expected) in shares(&sampling, &[]).into_iter().zip(expected) {
            assert!((got - expected).abs() < 0.015, "{what}: {got} {expected}");
        }
    }
    // Of the text so far, each time that a token stands there counts.
    let log2 = std::f32::consts::LN_2;
    let frequency = RequestSampling {
        frequency_penalty: log2,
        ..off.clone()
    };
    let quarters = shares(&frequency, &[0, 2, 3]);
    for (got, expected) in quarters.into_iter().zip([0.4, 0.4, 0.1, 0.1]) {
        assert!((got - expected).abs() < 0.015, "{quarters:?}");
    }
    let presence = RequestSampling {
        presence_penalty: log2,
        ..off
    };
    assert_eq!(shares(&presence, &[0, 0, 0])[0], shares(&presence, &[0])[0]);
}

#[test]
fn infinite_logits_are_drawn_and_what_is_no_number_is_not() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let warm = RequestSampling::default();
    let mut pick = |logits: &[f32]| warm.pick(logits, &[], &mut rng);
    assert_eq!(pick(&[0., f32::INFINITY, f32::NEG_INFINITY]), Some(1));
    assert_eq!(pick(&[f32::NEG_INFINITY, 1.]), Some(1));
    assert_eq!(pick(&[f32::NAN, 1.]), None);
    assert_eq!(pick(&[f32::NEG_INFINITY; 2]), None);
}

#[test]
fn log_probabilities_are_natural_and_those_of_the_model() {
    let picked = Picked::of(&LOGITS, 3, 2, 2);
    let near = |a: f32, b: f64| (f64::from(a) - b).abs() < 1e-6;
    assert!(near(picked.logprob, 0.125f64.ln()), "{picked:?}");
    assert_eq!(
        picked.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(),
        [0, 1]
    );
    assert!(near(picked.top[0].1, 0.5f64.ln()) && near(picked.top[1].1, 0.25f64.ln()));
    assert!(Picked::of(&LOGITS, 0, 0, 0).top.is_empty());
    assert_eq!(Picked::of(&LOGITS, 0, 0, 20).top.len(), 4);
}
