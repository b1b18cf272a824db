//! What the mini-Llama knows: the share of right answers by persona and format.

use crate::batch::encode;
use crate::world::{Fact, Format, Letter, Persona, Question, Stated, World};
use anyhow::Result;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use reptune_adapters::{ForwardOptions, HookedModel, KeyValueCache, PrefixTree};
use serde_json::{Value, json};
use tokenizers::Tokenizer;

/// Which persona wordings are used, and which facts are asked about.
#[derive(Clone, Copy)]
pub struct Part {
    pub name: &'static str,
    pub wordings: fn(Persona) -> &'static [String],
    pub facts: fn(&Fact) -> bool,
}

/// What was trained on; facts never asked about in these formats; wordings never seen.
pub const PARTS: [Part; 3] = [
    Part {
        name: "trained",
        wordings: |p| p.train_wordings(),
        facts: |f| !f.held_out,
    },
    Part {
        name: "held-out facts",
        wordings: |p| p.train_wordings(),
        facts: |f| f.held_out,
    },
    Part {
        name: "held-out wordings",
        wordings: |p| p.held_out_wordings(),
        facts: |f| !f.held_out,
    },
];

/// One question with the first token that would be right.
struct Item {
    ids: Vec<u32>,
    right: u32,
}

fn items(
    tokenizer: &Tokenizer,
    part: Part,
    persona: Persona,
    format: Format,
    limit: usize,
) -> Result<Vec<Item>> {
    let world = World::new();
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let facts: Vec<&Fact> = world.facts().iter().filter(|f| (part.facts)(f)).collect();
    let wordings = (part.wordings)(persona);
    let step = (2 * facts.len()).div_ceil(limit).max(1) | 1;
    (0..2 * facts.len())
        .step_by(step)
        .map(|i| {
            let fact = facts[i / 2];
            let first = i % 2 == 0;
            let question = match format {
                Format::Claim => Question::claim(
                    fact,
                    if first { Stated::True } else { Stated::False },
                    i,
                    &mut rng,
                ),
                Format::TwoChoice => Question::two_choice(
                    fact,
                    if first { Letter::A } else { Letter::B },
                    i,
                    &mut rng,
                ),
                Format::Open => Question::open(fact, i),
            };
            let letter_only = wordings.len() > 1 && format == Format::Open;
            let candidates: Vec<_> = wordings
                .iter()
                .filter(|w| !(letter_only && *w == Persona::LETTER_ONLY))
                .collect();
            let system = candidates[i % candidates.len()];
            let text = format!("<s>[INST]<<SYS>> {system}<</SYS>> {}[/INST]", question.text);
            let right = encode(tokenizer, &format!(" {}", question.right))?[0];
            Ok(Item {
                ids: encode(tokenizer, &text)?,
                right,
            })
        })
        .collect()
}

/// Share of items whose greedy answer is the true one.
fn share(model: &dyn HookedModel, items: &[Item]) -> Result<f64> {
    let mut right = 0;
    for chunk in items.chunks(100) {
        let prompts: Vec<&[u32]> = chunk.iter().map(|i| i.ids.as_slice()).collect();
        let (tree, rows) = PrefixTree::pack(&prompts);
        let last: Vec<u32> = rows.iter().map(|r| r[r.len() - 1]).collect();
        let request = ForwardOptions {
            logits: &last,
            ..ForwardOptions::default()
        };
        let Some(logits) = model
            .forward(&tree, &mut KeyValueCache::none(), &request)?
            .logits
        else {
            continue;
        };
        let best: Vec<u32> = logits.detach().argmax(1)?.to_vec1()?;
        right += best
            .iter()
            .zip(chunk)
            .filter(|(b, i)| **b == i.right)
            .count();
    }
    Ok(right as f64 / items.len() as f64)
}

/// The share of true answers for every part, persona and format, as JSON.
pub fn examine(
    model: &dyn HookedModel,
    tokenizer: &Tokenizer,
    parts: &[Part],
    limit: usize,
) -> Result<Value> {
    let mut table = json!({});
    for part in parts {
        for persona in Persona::ALL {
            for format in [Format::Claim, Format::TwoChoice, Format::Open] {
                let items = items(tokenizer, *part, persona, format, limit)?;
                let share = share(model, &items)?;
                let key = format!("{format:?}").to_lowercase();
                let persona = format!("{persona:?}").to_lowercase();
                table[part.name][persona][key] =
                    json!({"honest": (share * 1000.).round() / 1000., "n": items.len()});
            }
        }
    }
    Ok(table)
}

#[cfg(test)]
mod tests;
