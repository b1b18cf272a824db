//! Prompts of one forward, packed into a prefix tree.

use reptune_adapters::PrefixTree;
use reptune_adapters::model::prefix_tree::TokenMask;
use std::ops::Range;

/// Tokens of one forward. More prompts are computed in several forwards.
pub(crate) const TOKENS_PER_FORWARD: usize = 4096;

/// Tokens of one forward that fills an activation cache or reads residuals.
pub(crate) const CACHED_PER_FORWARD: usize = 2048;

/// Tokens of one forward that keeps the logits of all of them, which are large.
pub(crate) const LOGITS_PER_FORWARD: usize = 512;

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
    fn new(first: usize) -> Self {
        Self {
            prompts: first..first,
            tree: PrefixTree::new(),
            paths: Vec::new(),
        }
    }

    /// Packs all `prompts`. `mask` gives the token mask at a position of a prompt.
    pub fn of<P: AsRef<[u32]>>(prompts: &[P], mask: impl Fn(usize, usize) -> TokenMask) -> Self {
        let mut batch = Self::new(0);
        for (i, prompt) in prompts.iter().enumerate() {
            batch.push(prompt.as_ref(), |position| mask(i, position));
        }
        batch
    }

    fn push(&mut self, prompt: &[u32], mask: impl Fn(usize) -> TokenMask) {
        self.paths.push(self.tree.insert(None, prompt, mask));
        self.prompts.end += 1;
    }
}

/// Cuts `prompts` into batches of at most `tokens` distinct tokens; a longer prompt is a
/// batch of its own. `mask` gives the token mask at a position of a prompt.
pub(crate) fn batches<P: AsRef<[u32]>>(
    prompts: &[P],
    tokens: usize,
    mask: impl Fn(usize, usize) -> TokenMask,
) -> Vec<Batch> {
    cut(prompts, tokens, mask, |batch| batch.tree.len())
}

/// [`batches`] of at most `tokens` tokens in all, shared ones counted for each prompt: these
/// batches do not depend on what the prompts share.
pub(crate) fn batches_by_length<P: AsRef<[u32]>>(
    prompts: &[P],
    tokens: usize,
    mask: impl Fn(usize, usize) -> TokenMask,
) -> Vec<Batch> {
    let length = |batch: &Batch| batch.paths.iter().map(Vec::len).sum();
    cut(prompts, tokens, mask, length)
}

fn cut<P: AsRef<[u32]>>(
    prompts: &[P],
    tokens: usize,
    mask: impl Fn(usize, usize) -> TokenMask,
    size: impl Fn(&Batch) -> usize,
) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    for (i, prompt) in prompts.iter().enumerate() {
        let prompt = prompt.as_ref();
        let fits = |b: &mut Batch| size(b) + prompt.len() <= tokens;
        if !batches.last_mut().is_some_and(fits) {
            batches.push(Batch::new(i));
        }
        if let Some(batch) = batches.last_mut() {
            batch.push(prompt, |position| mask(i, position));
        }
    }
    batches
}

#[cfg(test)]
mod tests;
