use super::*;
use crate::score::toy_variants::{steering, text};
use crate::toy::tiny;
use reptune_adapters::steering::direction::{Direction, Provenance};
use std::collections::BTreeMap;

#[test]
fn it_is_the_mean_cosine_and_steering_along_the_direction_raises_it() {
    let (toy, steering) = (tiny(), steering());
    let d = steering[0].direction(1).expect("layer 1").to_vec1::<f32>();
    let d: Vec<f64> = d.expect("numbers").into_iter().map(f64::from).collect();
    let set = DirectionSet {
        layers: BTreeMap::from([(1, Direction::new(&d).expect("a direction"))]),
        provenance: Provenance::default(),
    };
    let prompts: Vec<Vec<u32>> = (0..60).map(|i| text(40 + i, i)).collect();
    let base = ModelVariant::base(&toy);
    let steered = ModelVariant {
        interventions: &steering,
        ..base
    };
    let of = |m: &ModelVariant, p: &[Vec<u32>]| alignment(m, p, &set, (&[1], &[0, 2]));
    let (before, after) = (of(&base, &prompts), of(&steered, &prompts));
    let (before, after) = (before.expect("a mean"), after.expect("a mean"));
    assert!(after > before + 0.1, "{before} {after}");
    let alone: f64 = prompts
        .chunks(1)
        .map(|p| of(&base, p).expect("a mean"))
        .sum();
    assert!((before - alone / 60.).abs() < 1e-5, "{before} {alone}");
    let short = alignment(&base, &[vec![1, 2]], &set, (&[1], &[2])).expect_err("too short");
    assert!(short.to_string().contains("more than 2 tokens"), "{short}");
}
