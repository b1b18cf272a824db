//! Generation in a prefix tree: all prompts grow together, and keys and values are kept.

#[cfg(test)]
mod tests;

use crate::activation_cache::{ActivationCache, last_unchanged, resume};
use crate::batch::{Most, TOKENS_PER_FORWARD, batches};
use crate::error::{Error, Result};
use crate::open_gates::{no_tokens, open_gates};
use candle_core::{D, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reptune_adapters::model::prefix_tree::TokenMask;
use reptune_adapters::steering::intervention::token_mask_gated;
use reptune_adapters::{
    Adapter, ForwardOptions, HookedModel, Intervention, KeyValueCache, PrefixTree,
};
use std::ops::Range;

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Sampling {
    /// The likeliest; of equals the first.
    #[default]
    Greedy,
    /// At random from `softmax(logits / temperature)`.
    Temperature {
        /// 0 is greedy.
        temperature: f64,
        /// Prompt i draws from a stream of its own, seeded by this and i.
        seed: u64,
    },
}

impl Sampling {
    /// The temperature, if there is one.
    fn temperature(self) -> Result<Option<f64>> {
        match self {
            Self::Greedy
            | Self::Temperature {
                temperature: 0., ..
            } => Ok(None),
            Self::Temperature { temperature: t, .. } if t > 0. && t.is_finite() => Ok(Some(t)),
            Self::Temperature { temperature: t, .. } => {
                let (expected, hint) = ("0 or a positive number", "0 is greedy decoding");
                Err(Error::value("temperature", expected, t.to_string(), hint))
            }
        }
    }

    /// The random numbers of the prompt with this index.
    fn stream(self, index: usize) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(match self {
            Self::Greedy => 0,
            Self::Temperature { seed, .. } => seed,
        });
        rng.set_stream(index as u64);
        rng
    }
}

/// What is generated, and under which changes to the model.
#[derive(Clone, Copy, Default)]
pub struct Generation<'a> {
    /// Interventions on the residual stream.
    pub interventions: &'a [Intervention],
    /// LoRA updates.
    pub adapter: Option<&'a Adapter>,
    /// Most tokens that a prompt gets.
    pub max_new_tokens: usize,
    /// Tokens that end a sequence; they are not part of what is returned.
    pub stop: &'a [u32],
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Activations of the prompts, see [`ActivationCache::for_generation`]: where the
    /// interventions allow it, generation begins there.
    pub cache: Option<&'a ActivationCache>,
}

/// Generates a continuation of every prompt. `progress` is called after each group of
/// prompts with the number done. Gates that decide once per prompt are read first, see
/// [`open_gates`].
///
/// # Errors
/// When a prompt is empty or does not fit the context, or the cache is of other weights.
pub fn generate(
    model: &dyn HookedModel,
    prompts: &[Vec<u32>],
    how: &Generation,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<u32>>> {
    let mut generated = generate_variants(model, prompts, &[Vec::new()], how, progress)?;
    Ok(generated.remove(0))
}

/// Generates a continuation of every prompt under each of `variants`: interventions that
/// act besides those of `how`. Returns them by variant and prompt.
///
/// Neighbouring variants that resume at the same layer grow in one prefix tree, as many as
/// fit, so that a weight is read once for all of them. `progress` is called after each of
/// these groups with the number of continuations done.
pub fn generate_variants(
    model: &dyn HookedModel,
    prompts: &[Vec<u32>],
    variants: &[Vec<Intervention>],
    how: &Generation,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<Vec<u32>>>> {
    let batches = batches(prompts, Most::Total(TOKENS_PER_FORWARD), |_, _| 0);
    let tokens = how.max_new_tokens;
    let grown = batches
        .iter()
        .map(|b| b.tree.len() + b.prompts.len() * tokens);
    let most = TOKENS_PER_FORWARD / grown.max().unwrap_or(1).max(1);
    let batches: Vec<Range<usize>> = batches.into_iter().map(|b| b.prompts).collect();
    let mut generated = vec![vec![Vec::new(); prompts.len()]; variants.len()];
    let mut done = 0;
    for some in groups(model, variants, how.interventions.len(), most) {
        let group = VariantGroup::new(model, prompts, &variants[some.clone()], how)?;
        for batch in &batches {
            group.grow(prompts, batch.clone(), &mut generated[some.clone()])?;
            done += some.len() * batch.len();
            progress(done);
        }
    }
    Ok(generated)
}

/// Cuts `variants` into groups that grow in one tree: at most `most`, which resume at the
/// same layer, and whose interventions, with those `in_all`, have a bit of the mask each.
fn groups(
    model: &dyn HookedModel,
    variants: &[Vec<Intervention>],
    in_all: usize,
    most: usize,
) -> Vec<Range<usize>> {
    let resume = |variant: &[Intervention]| last_unchanged(model.spec(), variant, None);
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut bits = 0;
    for (i, variant) in variants.iter().enumerate() {
        bits += variant.len();
        match groups.last_mut() {
            Some(group)
                if group.len() < most
                    && bits <= TokenMask::BITS as usize
                    && resume(variant) == resume(&variants[group.start]) =>
            {
                group.end = i + 1;
            }
            _ => {
                groups.push(i..i + 1);
                bits = in_all + variant.len();
            }
        }
    }
    groups
}

/// Variants that grow in one tree, and what acts on them.
struct VariantGroup<'a> {
    model: &'a dyn HookedModel,
    how: Generation<'a>,
    /// What acts on all variants, then what acts on each.
    interventions: Vec<Intervention>,
    /// Bits of the interventions that act on each variant.
    acts: Vec<TokenMask>,
    /// Gates that each prompt opened.
    open: Vec<TokenMask>,
}

/// One growing sequence.
struct Sequence {
    variant: usize,
    index: usize,
    last: u32,
    ids: Vec<u32>,
    rng: ChaCha8Rng,
}

/// Sequences that grow, in their tree, and where their first forward begins: at the embeddings,
/// or at a layer with the rows (N, H) at its output.
struct Growing {
    tree: PrefixTree,
    active: Vec<Sequence>,
    start: Option<(usize, Tensor)>,
    cache: KeyValueCache,
}

impl<'a> VariantGroup<'a> {
    fn new(
        model: &'a dyn HookedModel,
        prompts: &[Vec<u32>],
        variants: &[Vec<Intervention>],
        how: &Generation<'a>,
    ) -> Result<Self> {
        let bits = |range: Range<usize>| {
            let bits = range.filter(|bit| *bit < TokenMask::BITS as usize);
            bits.fold(0, |mask: TokenMask, bit| mask | 1 << bit)
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
            model,
            how: *how,
            open: open_gates(model, prompts, &interventions, how.adapter)?,
            interventions,
            acts,
        })
    }

    /// What acts on the token at `position` of a prompt of `length` tokens and what
    /// follows it.
    fn mask(&self, variant: usize, index: usize, position: usize, length: usize) -> TokenMask {
        let open = self.open[index];
        self.acts[variant] & token_mask_gated(&self.interventions, open, position, length)
    }

    /// Grows the prompts of `range` under every variant.
    fn grow(
        &self,
        prompts: &[Vec<u32>],
        range: Range<usize>,
        generated: &mut [Vec<Vec<u32>>],
    ) -> Result<()> {
        let how = &self.how;
        let temperature = how.sampling.temperature()?;
        let mut growing = self.plant(prompts, range)?;
        for step in 0..how.max_new_tokens {
            // Tokens whose logits are read: once where sequences share a prompt.
            let mut read: Vec<u32> = growing.active.iter().map(|s| s.last).collect();
            read.sort_unstable();
            read.dedup();
            let options = ForwardOptions {
                interventions: &self.interventions,
                logits: &read,
                adapter: how.adapter,
                start: growing.start.as_ref().map(resume),
                ..ForwardOptions::default()
            };
            let (tree, cache) = (&growing.tree, &mut growing.cache);
            let output = self.model.forward(tree, cache, &options)?;
            let logits = output.into_logits()?.detach();
            growing.start = None;
            let best: Vec<u32> = logits.argmax(D::Minus1)?.to_vec1()?;
            let mut active = Vec::new();
            for mut sequence in growing.active {
                let at = read.partition_point(|r| *r < sequence.last);
                let token = match temperature {
                    None => best[at],
                    Some(t) => draw(&logits.get(at)?, t, &mut sequence.rng)?,
                };
                let ended = how.stop.contains(&token);
                if !ended {
                    sequence.ids.push(token);
                }
                if ended || sequence.ids.len() == how.max_new_tokens {
                    generated[sequence.variant][sequence.index] = sequence.ids;
                    continue;
                }
                let prompt = prompts[sequence.index].len();
                let mask = self.mask(sequence.variant, sequence.index, prompt + step, prompt);
                sequence.last = growing.tree.append(sequence.last, token, mask);
                active.push(sequence);
            }
            growing.active = active;
            if growing.active.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// The prompts of `range` under every variant, in one tree. The first forward begins at the
    /// activation cache where it holds something that is unchanged.
    fn plant(&self, prompts: &[Vec<u32>], range: Range<usize>) -> Result<Growing> {
        let mut tree = PrefixTree::new();
        let (mut active, mut paths) = (Vec::new(), Vec::new());
        for variant in 0..self.acts.len() {
            for index in range.clone() {
                let ids = &prompts[index];
                let mask = |i| self.mask(variant, index, i, ids.len());
                let path = tree.insert(None, ids, mask);
                active.push(Sequence {
                    variant,
                    index,
                    last: *path.last().ok_or_else(|| no_tokens(index))?,
                    ids: Vec::new(),
                    rng: self.how.sampling.stream(index),
                });
                paths.push(path);
            }
        }
        let layers = self.model.spec().layers;
        let most = tree.len() + active.len() * self.how.max_new_tokens;
        let (mut start, mut keys_values) = (None, None);
        if let Some(cache) = self.how.cache {
            cache.check(self.model, self.how.adapter)?;
            let last = last_unchanged(self.model.spec(), &self.interventions, None);
            let prompts = &prompts[range];
            if let Some(layer) = last.and_then(|last| cache.resume_layer(last)) {
                let place = (&tree, prompts, paths.as_slice());
                keys_values = cache.keys_values(layer, place, layers, most)?;
                if keys_values.is_some() {
                    start = Some((layer, cache.rows(layer, &tree, prompts, &paths)?));
                }
            }
        }
        Ok(Growing {
            cache: keys_values.unwrap_or_else(|| KeyValueCache::keeping(layers, most)),
            tree,
            active,
            start,
        })
    }
}

/// A token drawn from `softmax(logits / temperature)`. Shapes: `logits` (V,).
fn draw(logits: &Tensor, temperature: f64, rng: &mut ChaCha8Rng) -> Result<u32> {
    let logits: Vec<f32> = logits.to_vec1()?;
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights = logits
        .iter()
        .map(|l| (f64::from(l - max) / temperature).exp());
    let weights: Vec<f64> = weights.collect();
    let mut left = rng.random::<f64>() * weights.iter().sum::<f64>();
    for (token, weight) in weights.iter().enumerate() {
        left -= weight;
        if left < 0. {
            return Ok(token as u32);
        }
    }
    Ok(weights.len() as u32 - 1)
}
