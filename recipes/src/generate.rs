//! Generation over a forest: all prompts grow together, and keys and values are kept.

mod prefilled;

pub use prefilled::Prefilled;

use crate::decide::decide;
use crate::error::Result;
use crate::groups::groups;
use candle_core::{D, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reptune_adapters::forest::Marks;
use reptune_adapters::intervention::marks_decided;
use reptune_adapters::{Cache, Error, Forest, Host, Intervention, LowRankUpdate, Request, Start};
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

/// What is generated, and under which changes to the model.
#[derive(Clone, Copy, Default)]
pub struct Generation<'a> {
    /// Interventions on the residual stream.
    pub interventions: &'a [Intervention],
    /// Low-rank updates.
    pub low_rank: Option<&'a LowRankUpdate>,
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
    index: usize,
    prompt: usize,
    /// Gates that this prompt opened.
    open: Marks,
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
    host: &dyn Host,
    prompts: &[Vec<u32>],
    how: &Generation,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<u32>>> {
    let open = decide(host, prompts, how.interventions, how.low_rank)?;
    let mut generated = vec![Vec::new(); prompts.len()];
    for range in groups(prompts, ROWS) {
        let done = range.end;
        grow(host, prompts, &open, range, how, &mut generated)?;
        progress(done);
    }
    Ok(generated)
}

fn grow(
    host: &dyn Host,
    prompts: &[Vec<u32>],
    open: &[Marks],
    range: Range<usize>,
    how: &Generation,
    generated: &mut [Vec<u32>],
) -> Result<()> {
    let (seed, temperature) = match how.sampling {
        Sampling::Greedy => (0, None),
        Sampling::Temperature { temperature, seed }
            if temperature > 0. && temperature.is_finite() =>
        {
            (seed, Some(temperature))
        }
        Sampling::Temperature { temperature, .. } => {
            return Err(Error::value(
                "temperature",
                "a positive number",
                temperature.to_string(),
                "leave it out for greedy decoding",
            )
            .into());
        }
    };
    let mut forest = Forest::new();
    let mut active = Vec::new();
    let mut paths = Vec::new();
    for index in range.clone() {
        let ids = &prompts[index];
        let rows = forest.insert(None, ids, |i| {
            marks_decided(how.interventions, open[index], i, ids.len())
        });
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
            index,
            prompt: ids.len(),
            open: open[index],
            last,
            ids: Vec::new(),
            rng,
        });
    }
    let (layers, room) = (host.spec().layers, active.len() * how.max_new_tokens);
    let mut begun = match how.prefilled {
        Some(prefilled) => prefilled.begin(how, &forest, &prompts[range], &paths, layers, room)?,
        None => None,
    };
    let mut cache = match &mut begun {
        Some(begun) => std::mem::take(&mut begun.cache),
        None => Cache::keeping(layers, forest.len() + room),
    };
    for step in 0..how.max_new_tokens {
        // Rows of this forward that are read: on shared prompts, once.
        let mut rows: Vec<u32> = active.iter().map(|s| s.last).collect();
        rows.sort_unstable();
        rows.dedup();
        let request = Request {
            interventions: how.interventions,
            logits: &rows,
            low_rank: how.low_rank,
            start: begun.as_ref().map(|b| Start {
                layer: b.layer,
                rows: &b.rows,
            }),
            ..Request::default()
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
                generated[sequence.index] = sequence.ids;
                continue;
            }
            sequence.ids.push(token);
            if sequence.ids.len() == how.max_new_tokens {
                generated[sequence.index] = sequence.ids;
                continue;
            }
            let (open, prompt) = (sequence.open, sequence.prompt);
            let mark = marks_decided(how.interventions, open, prompt + step, prompt);
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
