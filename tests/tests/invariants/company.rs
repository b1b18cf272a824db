//! What a prompt says does not depend on the prompts that it shares a batch with.

use super::forward::{World, in_every_world};
use anyhow::Result;
use reptune_adapters::Positions;
use reptune_recipes::generate::{Generation, Sampling, generate, generate_variants};

/// Some prompts begin others, also those that the model's own continuations run into after one,
/// two and four tokens, and one stands there twice.
#[test]
fn a_prompt_alone_says_what_it_says_beside_any_other() -> Result<()> {
    in_every_world(alone_and_together)
}

fn alone_and_together(w: &World) -> Result<()> {
    let greedy = Generation {
        max_new_tokens: 8,
        ..Generation::default()
    };
    let first = w.prompts[0].clone();
    let said = generate(&w.llama, std::slice::from_ref(&first), &greedy, &mut |_| {})?;
    let longer = |n: usize| [&first, &said[0][..n]].concat();
    let shorter = first[..first.len() - 1].to_vec();
    let nested = [longer(1), longer(2), longer(4), shorter, first.clone()];
    let prompts: Vec<Vec<u32>> = w.prompts.iter().cloned().chain(nested).collect();
    let add = |coeff, rule| anyhow::Ok(vec![w.add(&[1], coeff)?.on(rule)]);
    let variants = [
        vec![],
        add(3., Positions::All)?,
        add(-3., Positions::All)?,
        add(5., Positions::Generated)?,
        add(5., Positions::Last(3))?,
    ];
    let stop = [said[0][3]];
    let sampling = Sampling::Temperature {
        temperature: 0.8,
        seed: 11,
    };
    for how in [
        greedy,
        Generation {
            stop: &stop,
            ..greedy
        },
        Generation { sampling, ..greedy },
    ] {
        let together = generate_variants(&w.llama, &prompts, &variants, &how, &mut |_| {})?;
        for (variant, together) in variants.iter().zip(&together) {
            for (i, prompt) in prompts.iter().enumerate() {
                // The same place, because each place draws from a stream of its own.
                let mut company = vec![vec![7]; i];
                company.push(prompt.clone());
                let alone = Generation {
                    interventions: variant,
                    ..how
                };
                let alone = generate(&w.llama, &company, &alone, &mut |_| {})?;
                assert_eq!(together[i], alone[i], "prompt {i} under {variant:?}");
            }
        }
        assert_ne!(together[1], together[2], "the doses do nothing");
    }
    Ok(())
}
