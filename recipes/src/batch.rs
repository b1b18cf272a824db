//! Prompts of one forward, packed into a prefix tree.

use crate::error::Result;
use reptune_adapters::model::prefix_tree::TokenMask;
use reptune_adapters::{ForwardOptions, ForwardOutput, HookedModel, KeyValueCache, PrefixTree};
use std::ops::Range;

/// Tokens of one forward. More prompts are computed in several forwards.
pub(crate) const TOKENS_PER_FORWARD: usize = 4096;

/// Tokens of one forward that fills an activation cache or reads residuals.
pub(crate) const CACHED_PER_FORWARD: usize = 2048;

/// Tokens of one forward that keeps the logits of all of them, which are large.
pub(crate) const LOGITS_PER_FORWARD: usize = 512;

/// Most tokens of a batch.
#[derive(Clone, Copy)]
pub(crate) enum Most {
    /// Distinct ones: tokens of a shared prefix count once.
    Distinct(usize),
    /// Of all prompts: these batches do not depend on what the prompts share.
    Total(usize),
}

/// Some of the prompts, in one prefix tree.
pub(crate) struct Batch {
    /// Which of the prompts.
    pub prompts: Range<usize>,
    /// Their tokens.
    pub tree: PrefixTree,
    /// The tokens of each prompt, by their number in the tree.
    pub paths: Vec<Vec<u32>>,
}

impl Batch {
    /// Runs the batch on its own.
    pub fn forward(
        &self,
        model: &dyn HookedModel,
        options: &ForwardOptions,
    ) -> Result<ForwardOutput> {
        Ok(model.forward(&self.tree, &mut KeyValueCache::none(), options)?)
    }
}

/// Cuts `prompts` into batches; a prompt of more than `most` tokens is a batch of its own.
/// `mask` gives the token mask at a position of a prompt.
pub(crate) fn batches<P: AsRef<[u32]>>(
    prompts: &[P],
    most: Most,
    mask: impl Fn(usize, usize) -> TokenMask,
) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    for (i, prompt) in prompts.iter().enumerate() {
        let prompt = prompt.as_ref();
        let fits = |batch: &&mut Batch| match most {
            Most::Distinct(most) => batch.tree.len() + prompt.len() <= most,
            Most::Total(most) => {
                let tokens: usize = batch.paths.iter().map(Vec::len).sum();
                tokens + prompt.len() <= most
            }
        };
        let mut new = Batch {
            prompts: i..i,
            tree: PrefixTree::new(),
            paths: Vec::new(),
        };
        let known = batches.last_mut().filter(fits);
        let found = known.is_some();
        let batch = known.unwrap_or(&mut new);
        batch.paths.push(
            batch
                .tree
                .insert(None, prompt, |position| mask(i, position)),
        );
        batch.prompts.end += 1;
        if !found {
            batches.push(new);
        }
    }
    batches
}

#[cfg(test)]
mod tests;
