//! A prefix-tree batch: prompts that share a prefix share its tokens.
//!
//! A padded batch computes shared prefixes once for every prompt, and masks its padding.
//! A prefix tree holds each token-in-context once, with its position (for rotary
//! embeddings) and its ancestors (for attention). Prompts do not mix, because attention
//! sees ancestors only.

use reptune_kernels::{Ancestors, Span};
use std::collections::HashMap;
use std::ops::Range;

/// Which interventions act on a token: bit `i` stands for intervention `i`. Equal tokens
/// in equal contexts with different masks are different tokens of the tree.
pub type TokenMask = u64;

/// Prompts as one table of tokens, with a number for each.
///
/// Tokens are only appended, and a parent comes before its children, so a key/value cache
/// of the first n tokens stays valid when tokens are added.
#[derive(Debug, Clone, Default)]
pub struct PrefixTree {
    ids: Vec<u32>,
    positions: Vec<u32>,
    parents: Vec<Option<u32>>,
    masks: Vec<TokenMask>,
    /// Ancestors of token t, itself included: `spans[offsets[t]..offsets[t + 1]]`.
    spans: Vec<Span>,
    offsets: Vec<u32>,
    children: HashMap<(Option<u32>, u32, TokenMask), u32>,
}

impl PrefixTree {
    /// A tree without tokens.
    pub fn new() -> Self {
        Self {
            offsets: vec![0],
            ..Self::default()
        }
    }

    /// Packs `prompts`; returns the tree and the tokens of every prompt, in order.
    pub fn pack<P: AsRef<[u32]>>(prompts: &[P]) -> (Self, Vec<Vec<u32>>) {
        let mut tree = Self::new();
        let insert = |p: &P| tree.insert(None, p.as_ref(), |_| 0);
        let paths = prompts.iter().map(insert).collect();
        (tree, paths)
    }

    /// Adds a sequence below `parent` and returns its tokens; those that exist with the same
    /// context and mask are shared. `mask` gives the mask of the i-th of them.
    pub fn insert(
        &mut self,
        parent: Option<u32>,
        ids: &[u32],
        mask: impl Fn(usize) -> TokenMask,
    ) -> Vec<u32> {
        let mut parent = parent;
        let token = |(i, &id): (usize, &u32)| {
            let key = (parent, id, mask(i));
            let known = self.children.get(&key).copied();
            let token = known.unwrap_or_else(|| self.push(key));
            self.children.insert(key, token);
            parent = Some(token);
            token
        };
        ids.iter().enumerate().map(token).collect()
    }

    /// The tokens of a sequence with masks of 0, if the tree holds all of them.
    pub fn path(&self, ids: &[u32]) -> Option<Vec<u32>> {
        let mut parent = None;
        let token = |id: &u32| {
            parent = Some(*self.children.get(&(parent, *id, 0))?);
            parent
        };
        ids.iter().map(token).collect()
    }

    /// Adds a generated token below `parent`. It is a new token even where a prompt or another
    /// continuation has the same id there: a key/value cache may hold that one already.
    pub fn append(&mut self, parent: u32, id: u32, mask: TokenMask) -> u32 {
        self.push((Some(parent), id, mask))
    }

    fn push(&mut self, (parent, id, mask): (Option<u32>, u32, TokenMask)) -> u32 {
        let token = self.ids.len() as u32;
        self.ids.push(id);
        self.parents.push(parent);
        self.masks.push(mask);
        let position = parent.map_or(0, |p| self.positions[p as usize] + 1);
        self.positions.push(position);
        if let Some(p) = parent {
            self.spans.extend_from_within(self.own_spans(p as usize));
        }
        let start = self.offsets[token as usize] as usize;
        match self.spans[start..].last_mut() {
            Some(last) if last.1 == token => last.1 = token + 1,
            _ => self.spans.push((token, token + 1)),
        }
        self.offsets.push(self.spans.len() as u32);
        token
    }

    fn own_spans(&self, token: usize) -> Range<usize> {
        self.offsets[token] as usize..self.offsets[token + 1] as usize
    }

    /// Number of tokens, N.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// True without tokens.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Ids of all tokens (N,).
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Positions of all tokens (N,) in their prompts.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// The token before `token`; none for the first token of a prompt.
    pub fn parent(&self, token: u32) -> Option<u32> {
        self.parents[token as usize]
    }

    /// Tokens of `range` whose mask has bit `bit`.
    pub fn masked(&self, bit: usize, range: Range<usize>) -> Vec<u32> {
        let set = |t: &usize| self.masks[*t] >> bit & 1 == 1;
        range.filter(set).map(|t| t as u32).collect()
    }

    /// Ancestors of `tokens`, themselves included.
    pub fn ancestors_of(&self, tokens: &[u32]) -> Ancestors {
        let (mut spans, mut offsets) = (Vec::new(), vec![0]);
        for &token in tokens {
            spans.extend_from_slice(&self.spans[self.own_spans(token as usize)]);
            offsets.push(spans.len() as u32);
        }
        Ancestors::new(spans, offsets)
    }

    /// Ancestors of the tokens of `range`, themselves included.
    pub fn ancestors(&self, range: Range<usize>) -> Ancestors {
        let (first, last) = (self.offsets[range.start], self.offsets[range.end]);
        let offsets = &self.offsets[range.start..=range.end];
        let offsets = offsets.iter().map(|offset| offset - first).collect();
        Ancestors::new(self.spans[first as usize..last as usize].to_vec(), offsets)
    }
}

#[cfg(test)]
mod tests;
