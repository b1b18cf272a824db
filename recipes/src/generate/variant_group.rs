//! Variants that grow in one prefix tree.

use super::Generation;
use super::sampling::draw;
use crate::activation_cache::last_unchanged;
use crate::error::Result;
use crate::open_gates::{no_tokens, open_gates};
use candle_core::{D, Tensor};
use rand_chacha::ChaCha8Rng;
use reptune_adapters::model::prefix_tree::TokenMask;
use reptune_adapters::steering::intervention::token_mask_gated;
use reptune_adapters::{
    ForwardOptions, HookedModel, Intervention, KeyValueCache, PrefixTree, Resume,
};
use std::ops::Range;

/// Variants that grow in one tree, and what acts on them.
pub(super) struct VariantGroup<'a> {
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

/// Sequences that grow, in their tree.
struct Growing {
    tree: PrefixTree,
    active: Vec<Sequence>,
    /// Tokens of every sequence's prompt.
    paths: Vec<Vec<u32>>,
}

/// Where the first forward begins: a layer, and the rows (N, H) at its output.
type Start = Option<(usize, Tensor)>;

impl<'a> VariantGroup<'a> {
    pub fn new(
        model: &'a dyn HookedModel,
        prompts: &[Vec<u32>],
        variants: &[Vec<Intervention>],
        how: &Generation<'a>,
    ) -> Result<Self> {
        let bits = |range: Range<usize>| {
            let bits = range.take_while(|bit| *bit < TokenMask::BITS as usize);
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
    pub fn grow(
        &self,
        prompts: &[Vec<u32>],
        range: Range<usize>,
        generated: &mut [Vec<Vec<u32>>],
    ) -> Result<()> {
        let how = &self.how;
        let temperature = how.sampling.temperature()?;
        let mut growing = self.plant(prompts, range.clone())?;
        let (mut start, mut cache) = self.begin(&growing, &prompts[range])?;
        for step in 0..how.max_new_tokens {
            // Tokens whose logits are read: once where sequences share a prompt.
            let mut read: Vec<u32> = growing.active.iter().map(|s| s.last).collect();
            read.sort_unstable();
            read.dedup();
            let options = ForwardOptions {
                interventions: &self.interventions,
                logits: &read,
                adapter: how.adapter,
                start: start.as_ref().map(|(layer, rows)| Resume {
                    layer: *layer,
                    rows,
                }),
                ..ForwardOptions::default()
            };
            let output = self.model.forward(&growing.tree, &mut cache, &options)?;
            let Some(logits) = output.logits else {
                break;
            };
            start = None;
            let logits = logits.detach();
            let best: Vec<u32> = logits.argmax(D::Minus1)?.to_vec1()?;
            let mut kept = Vec::new();
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
                let last = Some(sequence.last);
                sequence.last = growing.tree.insert(last, &[token], |_| mask)[0];
                kept.push(sequence);
            }
            growing.active = kept;
            if growing.active.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// The prompts of `range` under every variant, in one tree.
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
        Ok(Growing {
            tree,
            active,
            paths,
        })
    }

    /// Where the first forward begins, and the keys and values that it begins with: at the
    /// activation cache, or at the embeddings where it holds nothing that is unchanged.
    fn begin(&self, growing: &Growing, prompts: &[Vec<u32>]) -> Result<(Start, KeyValueCache)> {
        let Growing {
            tree,
            active,
            paths,
        } = growing;
        let spec = self.model.spec();
        let room = tree.len() + active.len() * self.how.max_new_tokens;
        if let Some(cache) = self.how.cache {
            cache.check(self.model, self.how.adapter)?;
            let last = last_unchanged(spec, &self.interventions, None);
            let place = (tree, prompts, paths.as_slice());
            if let Some(layer) = last.and_then(|last| cache.resume_layer(last))
                && let Some(known) = cache.keys_values(layer, place, spec.layers, room)?
            {
                let rows = cache.rows(layer, tree, prompts, paths)?;
                return Ok((Some((layer, rows)), known));
            }
        }
        Ok((None, KeyValueCache::keeping(spec.layers, room)))
    }
}
