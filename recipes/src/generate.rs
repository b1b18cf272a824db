//! Generation over a forest: all prompts grow together, and keys and values are kept.

mod prefilled;

pub use prefilled::Prefilled;

use crate::decide::decide;
use crate::error::Result;
use crate::groups::groups;
use candle_core::{D, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reptune_adapters::model::prefix_tree::TokenMask;
use reptune_adapters::steering::intervention::token_mask_gated;
use reptune_adapters::{
    Adapter, Error, ForwardOptions, HookedModel, Intervention, KeyValueCache, PrefixTree, Resume,
};
use std::ops::Range;

/// Prompt rows computed in one forward; more are done in turns.
const ROWS: usize = 4096;

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Sampling {
    /// The likeliest; of equals the first.
    #[default]
    Greedy,
    /// At random from `softmax(logits / temperature)`.
    Temperature {
        /// Above 0.
        temperature: f64,
        /// Prompt i draws from a stream of its own, seeded by this and i.
        seed: u64,
    },
}

impl Sampling {
    /// The seed, and the temperature if there is one.
    fn checked(self) -> Result<(u64, Option<f64>)> {
        match self {
            Self::Greedy => Ok((0, None)),
            Self::Temperature { temperature, seed }
                if temperature > 0. && temperature.is_finite() =>
            {
                Ok((seed, Some(temperature)))
            }
            Self::Temperature { temperature, .. } => Err(Error::value(
                "temperature",
                "a positive number",
                temperature.to_string(),
                "leave it out for greedy decoding",
            )
            .into()),
        }
    }
}

/// What is generated, and under which changes to the model.
#[derive(Clone, Copy, Default)]
pub struct Generation<'a> {
    /// Interventions on the residual stream.
    pub interventions: &'a [Intervention],
    /// Low-rank updates.
    pub adapter: Option<&'a Adapter>,
    /// Most tokens a prompt gets.
    pub max_new_tokens: usize,
    /// Tokens that end a sequence; they are not part of what is returned.
    pub stop: &'a [u32],
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// The prompts as they are computed without interventions, to begin with where these
    /// allow it.
    pub prefilled: Option<&'a Prefilled<'a>>,
}

/// One growing sequence.
struct Sequence {
    variant: usize,
    index: usize,
    last: u32,
    ids: Vec<u32>,
    rng: ChaCha8Rng,
}

/// Generates a continuation of every prompt. `progress` is called after each
/// group of prompts with the number done. Gates that decide once per prompt are
/// read first, see [`decide`].
///
/// # Errors
/// When a prompt is empty or does not fit the context.
pub fn generate(
    host: &dyn HookedModel,
    prompts: &[Vec<u32>],
    how: &Generation,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<u32>>> {
    let mut generated = generate_variants(host, prompts, &[Vec::new()], how, progress)?;
    Ok(generated.remove(0))
}

/// Generates a continuation of every prompt under each of `variants`: interventions that act on
/// it beside those of `how`. Returns them by variant and prompt.
///
/// Neighbouring variants that begin at the same layer grow in one forest, as many as it has room
/// for, so that a weight is read once for all of them. `progress` is called after each of these
/// with the number of continuations done.
///
/// # Errors
/// As [`generate`].
pub fn generate_variants(
    host: &dyn HookedModel,
    prompts: &[Vec<u32>],
    variants: &[Vec<Intervention>],
    how: &Generation,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<Vec<u32>>>> {
    let groups = groups(prompts, ROWS);
    let rows = |group: &Range<usize>| {
        PrefixTree::pack(&prompts[group.clone()]).0.len() + group.len() * how.max_new_tokens
    };
    let most = ROWS / groups.iter().map(rows).max().unwrap_or(1).max(1);
    let mut generated = vec![vec![Vec::new(); prompts.len()]; variants.len()];
    let mut done = 0;
    for some in rides(variants, how.interventions.len(), most) {
        let ride = Ride::of(host, prompts, &variants[some.clone()], how)?;
        for group in &groups {
            ride.grow(host, prompts, group.clone(), &mut generated[some.clone()])?;
            done += some.len() * group.len();
            progress(done);
        }
    }
    Ok(generated)
}

/// Cuts `variants` into runs that grow in one forest: of at most `most`, that begin at the same
/// layer, and whose interventions, with those `in_all`, have a mark each.
fn rides(variants: &[Vec<Intervention>], in_all: usize, most: usize) -> Vec<Range<usize>> {
    let lowest = |v: &Vec<Intervention>| v.iter().map(Intervention::lowest).min();
    let mut rides: Vec<Range<usize>> = Vec::new();
    let mut marks = 0;
    for (i, variant) in variants.iter().enumerate() {
        marks += variant.len();
        match rides.last_mut() {
            Some(ride)
                if ride.len() < most
                    && marks <= TokenMask::BITS as usize
                    && lowest(variant) == lowest(&variants[ride.start]) =>
            {
                ride.end = i + 1;
            }
            _ => {
                rides.push(i..i + 1);
                marks = in_all + variant.len();
            }
        }
    }
    rides
}

/// Variants that grow in one forest.
struct Ride<'a> {
    how: Generation<'a>,
    /// What acts on all of them, then what acts on each.
    interventions: Vec<Intervention>,
    /// TokenMask of what acts on each.
    acts: Vec<TokenMask>,
    /// Gates that each prompt opened.
    open: Vec<TokenMask>,
}

impl<'a> Ride<'a> {
    fn of(
        host: &dyn HookedModel,
        prompts: &[Vec<u32>],
        variants: &[Vec<Intervention>],
        how: &Generation<'a>,
    ) -> Result<Self> {
        let bits = |range: Range<usize>| {
            let bits = range.take_while(|bit| *bit < TokenMask::BITS as usize);
            bits.fold(0, |marks: TokenMask, bit| marks | 1 << bit)
        };
        let mut interventions = how.interventions.to_vec();
        let in_all = bits(0..interventions.len());
        let mut acts = Vec::new();
        for variant in variants {
            let from = interventions.len();
            interventions.extend_from_slice(variant);
            acts.push(in_all | bits(from..interventions.len()));
        }
        Ok(Self {
            how: *how,
            open: decide(host, prompts, &interventions, how.adapter)?,
            interventions,
            acts,
        })
    }

    /// What acts on the token at `position` of a prompt of `length` tokens and what follows it.
    fn marks(&self, variant: usize, index: usize, position: usize, length: usize) -> TokenMask {
        let open = self.open[index];
        self.acts[variant] & token_mask_gated(&self.interventions, open, position, length)
    }

    /// Grows the prompts of `range` under every variant.
    fn grow(
        &self,
        host: &dyn HookedModel,
        prompts: &[Vec<u32>],
        range: Range<usize>,
        generated: &mut [Vec<Vec<u32>>],
    ) -> Result<()> {
        let how = Generation {
            interventions: &self.interventions,
            ..self.how
        };
        let (seed, temperature) = how.sampling.checked()?;
        let mut forest = PrefixTree::new();
        let mut active = Vec::new();
        let mut paths = Vec::new();
        for variant in 0..self.acts.len() {
            for index in range.clone() {
                let ids = &prompts[index];
                let mark = |i| self.marks(variant, index, i, ids.len());
                let rows = forest.insert(None, ids, mark);
                let Some(&last) = rows.last() else {
                    return Err(Error::value(
                        format!("prompt {index}"),
                        "at least one token",
                        "none",
                        "give a prompt",
                    )
                    .into());
                };
                paths.push(rows);
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                rng.set_stream(index as u64);
                active.push(Sequence {
                    variant,
                    index,
                    last,
                    ids: Vec::new(),
                    rng,
                });
            }
        }
        let (layers, room) = (host.spec().layers, active.len() * how.max_new_tokens);
        let mut begun = match how.prefilled {
            Some(prefilled) => {
                prefilled.begin(&how, &forest, &prompts[range], &paths, layers, room)?
            }
            None => None,
        };
        let mut cache = match &mut begun {
            Some(begun) => std::mem::take(&mut begun.cache),
            None => KeyValueCache::keeping(layers, forest.len() + room),
        };
        for step in 0..how.max_new_tokens {
            // Rows of this forward that are read: on shared prompts, once.
            let mut rows: Vec<u32> = active.iter().map(|s| s.last).collect();
            rows.sort_unstable();
            rows.dedup();
            let request = ForwardOptions {
                interventions: how.interventions,
                logits: &rows,
                adapter: how.adapter,
                start: begun.as_ref().map(|b| Resume {
                    layer: b.layer,
                    rows: &b.rows,
                }),
                ..ForwardOptions::default()
            };
            let Some(logits) = host.forward(&forest, &mut cache, &request)?.logits else {
                break;
            };
            begun = None;
            let logits = logits.detach();
            let best: Vec<u32> = logits.argmax(D::Minus1)?.to_vec1()?;
            let mut kept = Vec::new();
            for mut sequence in active {
                let at = rows.partition_point(|r| *r < sequence.last);
                let token = match temperature {
                    None => best[at],
                    Some(t) => draw(&logits.get(at)?, t, &mut sequence.rng)?,
                };
                if how.stop.contains(&token) {
                    generated[sequence.variant][sequence.index] = sequence.ids;
                    continue;
                }
                sequence.ids.push(token);
                if sequence.ids.len() == how.max_new_tokens {
                    generated[sequence.variant][sequence.index] = sequence.ids;
                    continue;
                }
                let prompt = prompts[sequence.index].len();
                let mark = self.marks(sequence.variant, sequence.index, prompt + step, prompt);
                sequence.last = forest.insert(Some(sequence.last), &[token], |_| mark)[0];
                kept.push(sequence);
            }
            active = kept;
            if active.is_empty() {
                break;
            }
        }
        Ok(())
    }
}

/// A token drawn from `softmax(logits / temperature)`. Shapes: `logits` (V,).
fn draw(logits: &Tensor, temperature: f64, rng: &mut ChaCha8Rng) -> Result<u32> {
    let logits: Vec<f32> = logits.to_vec1()?;
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> = logits
        .iter()
        .map(|l| (f64::from(l - max) / temperature).exp())
        .collect();
    let mut left = rng.random::<f64>() * weights.iter().sum::<f64>();
    for (token, weight) in weights.iter().enumerate() {
        left -= weight;
        if left < 0. {
            return Ok(token as u32);
        }
    }
    Ok(weights.len() as u32 - 1)
}
