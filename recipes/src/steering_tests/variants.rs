//! Variants that grow in one tree say what each of them says alone.

use super::{prompts, set};
use crate::activation_cache::ActivationCache;
use crate::error::Result;
use crate::generate::{Generation, Sampling, generate, generate_variants};
use crate::toy::tiny;
use reptune_adapters::model::prefix_tree::TokenMask;
use reptune_adapters::{Decide, Dose, Gate, HookPoint, Intervention, Operator, Positions, Side};
use std::collections::BTreeSet;

const SAMPLED: Sampling = Sampling::Temperature {
    temperature: 0.8,
    seed: 5,
};

#[test]
fn variants_say_together_what_they_say_alone() -> Result<()> {
    let toy = tiny();
    let (prompts, set) = (prompts(), set(&toy, 1));
    let act =
        |layer, coeff, operator| Intervention::new(&set, &[layer], Dose::Total(coeff), operator);
    let gate = |decide| Gate::new(&set, decide, Side::Above, 0.);
    let once = gate(Decide::OncePerPrompt { layer: 1 })?;
    let every = gate(Decide::EveryToken)?;
    let variants = vec![
        vec![],
        vec![act(1, 9., Operator::Add)?],
        vec![act(1, -9., Operator::Add)?],
        vec![act(1, 0., Operator::Ablate)?],
        vec![act(1, 9., Operator::Add)?.on(Positions::Generated)],
        vec![act(1, 9., Operator::Add)?.on(Positions::Last(2))],
        vec![act(1, 9., Operator::Add)?.when(once)?],
        vec![act(1, 9., Operator::Add)?.when(every)?],
        vec![
            act(1, 9., Operator::Add)?,
            act(3, 6., Operator::AddNormPreserving)?.at(HookPoint::ResidPre),
        ],
        vec![act(2, 9., Operator::Add)?],
    ];
    let everywhere = [act(3, 4., Operator::Add)?];
    let cache = ActivationCache::for_generation(&toy, &prompts, &[1], None)?;
    for (interventions, cache, sampling) in [
        (&[] as &[_], None, Sampling::Greedy),
        (&[], Some(&cache), Sampling::Greedy),
        (&[], None, SAMPLED),
        (&everywhere, Some(&cache), Sampling::Greedy),
    ] {
        let how = Generation {
            interventions,
            max_new_tokens: 6,
            cache,
            sampling,
            ..Generation::default()
        };
        let mut done = Vec::new();
        let together = generate_variants(&toy, &prompts, &variants, &how, &mut |n| done.push(n))?;
        assert_eq!(done.last(), Some(&(variants.len() * prompts.len())));
        for (variant, together) in variants.iter().zip(&together) {
            let acting = [interventions, variant].concat();
            let alone = Generation {
                interventions: &acting,
                cache: None,
                ..how
            };
            let alone = generate(&toy, &prompts, &alone, &mut |_| {})?;
            assert_eq!(together, &alone, "{variant:?}");
        }
        let said: BTreeSet<_> = together.iter().collect();
        assert!(said.len() > 6, "variants differ: {}", said.len());
    }
    Ok(())
}

#[test]
fn more_variants_than_marks_and_room_grow_in_several_forests() -> Result<()> {
    let toy = tiny();
    let (set, n) = (set(&toy, 1), TokenMask::BITS as usize + 10);
    let dose = |i: usize| Intervention::new(&set, &[1], Dose::Total(1. + i as f64), Operator::Add);
    let variants: Vec<_> = (0..n).map(|i| Ok(vec![dose(i)?])).collect::<Result<_>>()?;
    let how = Generation {
        max_new_tokens: 3,
        ..Generation::default()
    };
    let mut done = Vec::new();
    let few = prompts();
    let together = generate_variants(&toy, &few, &variants, &how, &mut |n| done.push(n))?;
    assert_eq!(done, [64 * few.len(), n * few.len()]);
    for i in [0, 63, 64, n - 1] {
        let acting = [dose(i)?];
        let alone = Generation {
            interventions: &acting,
            ..how
        };
        assert_eq!(together[i], generate(&toy, &few, &alone, &mut |_| {})?);
    }
    // two of 1,500 rows have room beside each other, three have not
    let long: Vec<Vec<u32>> = (0..50)
        .map(|p| (0..30).map(|i| 1 + (7 * p + i) % 100).collect())
        .collect();
    let mut done = Vec::new();
    generate_variants(&toy, &long, &variants[..3], &how, &mut |n| done.push(n))?;
    assert_eq!(done, [100, 150]);
    Ok(())
}
