//! Generation that begins at cached activations.

use super::*;
use crate::steering_tests::{prompts, set};
use crate::toy::{Toy, tiny};
use reptune_adapters::{Dose, HookPoint, Operator, Positions};

#[test]
fn what_begins_at_the_steered_layer_says_the_same() -> Result<()> {
    let toy = tiny();
    let (prompts, set) = (prompts(), set(&toy, 1));
    let cache = ActivationCache::for_generation(&toy, &prompts, &[0, 2], None)?;
    let mut different = 0;
    for rows in [Positions::All, Positions::Last(2), Positions::Generated] {
        for (layers, point) in [
            (vec![2], HookPoint::ResidPost),
            (vec![1, 3], HookPoint::ResidPost),
            (vec![2], HookPoint::ResidPre),
            (vec![0], HookPoint::ResidPre),
        ] {
            let steering = Intervention::new(&set, &layers, Dose::Total(9.), Operator::Add)?;
            let steering = [steering.on(rows.clone()).at(point)];
            let how = Generation {
                interventions: &steering,
                max_new_tokens: 6,
                ..Generation::default()
            };
            let plain = generate(&toy, &prompts, &how, &mut |_| {})?;
            let begun = Generation {
                cache: Some(&cache),
                ..how
            };
            assert_eq!(generate(&toy, &prompts, &begun, &mut |_| {})?, plain);
            let unsteered = Generation {
                interventions: &[],
                ..begun
            };
            let unsteered = generate(&toy, &prompts, &unsteered, &mut |_| {})?;
            different += usize::from(unsteered != plain);
        }
    }
    assert!(different > 6, "the steering does something: {different}");
    Ok(())
}

/// Prompts of which some begin others, also those that the model's own continuations run into
/// after one, three and all tokens, and one that stands there twice.
fn nested(toy: &Toy) -> Result<Vec<Vec<u32>>> {
    let start = prompts();
    let how = Generation {
        max_new_tokens: 6,
        ..Generation::default()
    };
    let said = generate(toy, &start, &how, &mut |_| {})?;
    let longer = |n: usize| [&start[0], &said[0][..n]].concat();
    let more = [longer(1), longer(3), longer(6), start[0].clone()];
    Ok(start.iter().cloned().chain(more).collect())
}

#[test]
fn a_prompt_alone_says_what_it_says_in_any_batch() -> Result<()> {
    let toy = tiny();
    let (prompts, set) = (nested(&toy)?, set(&toy, 1));
    let dose = |coeff, rule| {
        let add = Intervention::new(&set, &[1], Dose::Coeff(coeff), Operator::Add)?;
        Result::Ok(vec![add.on(rule)])
    };
    let variants = [
        vec![],
        dose(4., Positions::All)?,
        dose(-4., Positions::All)?,
        dose(6., Positions::Generated)?,
        dose(6., Positions::Last(2))?,
    ];
    let cache = ActivationCache::for_generation(&toy, &prompts, &[1], None)?;
    let greedy = Generation {
        max_new_tokens: 6,
        ..Generation::default()
    };
    let first = generate(&toy, &prompts[..1], &greedy, &mut |_| {})?;
    // Ends some sequences early, and others never.
    let stop = [first[0][2]];
    let sampling = Sampling::Temperature {
        temperature: 0.9,
        seed: 3,
    };
    let cached = Some(&cache);
    for how in [
        greedy,
        Generation {
            stop: &stop,
            ..greedy
        },
        Generation { sampling, ..greedy },
        Generation {
            cache: cached,
            ..greedy
        },
    ] {
        let together = generate_variants(&toy, &prompts, &variants, &how, &mut |_| {})?;
        for (variant, together) in variants.iter().zip(&together) {
            for (i, prompt) in prompts.iter().enumerate() {
                let alone = Generation {
                    interventions: variant,
                    cache: None,
                    ..how
                };
                // In the same place, because a place has random numbers of its own.
                let mut company = vec![vec![7]; i];
                company.push(prompt.clone());
                let alone = generate(&toy, &company, &alone, &mut |_| {})?;
                assert_eq!(together[i], alone[i], "prompt {i}");
            }
        }
        assert!(together[0] != together[1] && together[1] != together[2]);
        assert!(how.sampling != Sampling::Greedy || together[0][0] == together[0][7]);
    }
    Ok(())
}

#[test]
fn a_temperature_of_0_is_greedy_and_none_below_it_is_taken() -> Result<()> {
    let (toy, prompts) = (tiny(), prompts());
    let said = |temperature, seed| {
        let how = Generation {
            max_new_tokens: 6,
            sampling: Sampling::Temperature { temperature, seed },
            ..Generation::default()
        };
        generate(&toy, &prompts, &how, &mut |_| {})
    };
    let greedy = Generation {
        max_new_tokens: 6,
        ..Generation::default()
    };
    assert_eq!(
        said(0., 7)?,
        generate(&toy, &prompts, &greedy, &mut |_| {})?
    );
    assert_ne!(said(2., 7)?, said(0., 7)?);
    for wrong in [-1., f64::NAN, f64::INFINITY] {
        assert!(said(wrong, 7).is_err(), "{wrong}");
    }
    Ok(())
}
