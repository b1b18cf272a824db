//! The batch: prompts packed as a prefix forest, one row per token-in-context.
//!
//! A padded rectangle computes shared prefixes again and again and needs masks
//! for its padding. A forest has one row for every distinct token-in-context;
//! a row knows its position (for rotary embeddings) and its ancestors (for
//! attention). Rows of different prompts do not mix, because attention sees
//! ancestors only.

use reptune_kernels::{Ancestors, Span};
use std::collections::HashMap;
use std::ops::Range;

/// What is done to a token: tokens with equal contexts but different marks are
/// different rows. Bit `i` stands for intervention `i`.
pub type TokenMask = u64;

/// Prompts packed into one table of rows.
///
/// Rows are appended only, and a parent always comes before its children, so a
/// key/value cache of the first n rows stays valid when rows are added.
#[derive(Debug, Clone, Default)]
pub struct PrefixTree {
    ids: Vec<u32>,
    positions: Vec<u32>,
    parents: Vec<Option<u32>>,
    marks: Vec<TokenMask>,
    /// Ancestors of row r, itself included: `spans[offsets[r]..offsets[r + 1]]`.
    spans: Vec<Span>,
    offsets: Vec<u32>,
    children: HashMap<(Option<u32>, u32, TokenMask), u32>,
}

impl PrefixTree {
    /// A forest without rows.
    pub fn new() -> Self {
        Self {
            offsets: vec![0],
            ..Self::default()
        }
    }

    /// Packs `prompts`; returns the forest and, for every prompt, its rows in order.
    pub fn pack<P: AsRef<[u32]>>(prompts: &[P]) -> (Self, Vec<Vec<u32>>) {
        let mut forest = Self::new();
        let rows = prompts
            .iter()
            .map(|p| forest.insert(None, p.as_ref(), |_| 0))
            .collect();
        (forest, rows)
    }

    /// Adds a sequence of tokens below `parent` and returns its rows, sharing
    /// those that exist with the same context and marks. `marks` gives the
    /// marks of the i-th of these tokens.
    pub fn insert(
        &mut self,
        parent: Option<u32>,
        ids: &[u32],
        marks: impl Fn(usize) -> TokenMask,
    ) -> Vec<u32> {
        let mut parent = parent;
        ids.iter()
            .enumerate()
            .map(|(i, &id)| {
                let mark = marks(i);
                let row = match self.children.get(&(parent, id, mark)) {
                    Some(&row) => row,
                    None => self.push(parent, id, mark),
                };
                parent = Some(row);
                row
            })
            .collect()
    }

    /// The rows of a sequence without marks, if all of them are here.
    pub fn path(&self, ids: &[u32]) -> Option<Vec<u32>> {
        let mut parent = None;
        let row = |id: &u32| {
            parent = Some(*self.children.get(&(parent, *id, 0))?);
            parent
        };
        ids.iter().map(row).collect()
    }

    fn push(&mut self, parent: Option<u32>, id: u32, mark: TokenMask) -> u32 {
        let row = self.ids.len() as u32;
        self.ids.push(id);
        self.parents.push(parent);
        self.marks.push(mark);
        self.positions
            .push(parent.map_or(0, |p| self.positions[p as usize] + 1));
        if let Some(p) = parent {
            let inherited =
                self.offsets[p as usize] as usize..self.offsets[p as usize + 1] as usize;
            self.spans.extend_from_within(inherited);
        }
        let start = self.offsets[row as usize] as usize;
        match self.spans[start..].last_mut() {
            Some(last) if last.1 == row => last.1 = row + 1,
            _ => self.spans.push((row, row + 1)),
        }
        self.offsets.push(self.spans.len() as u32);
        self.children.insert((parent, id, mark), row);
        row
    }

    /// Number of rows, N.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// True without rows.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Token ids of all rows (N,).
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Positions of all rows (N,): the number of strict ancestors.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// The row a row follows; none for the first token of a prompt.
    pub fn parent(&self, row: u32) -> Option<u32> {
        self.parents[row as usize]
    }

    /// Rows among `range` that carry mark bit `bit`.
    pub fn masked(&self, bit: usize, range: Range<usize>) -> Vec<u32> {
        range
            .filter(|&r| self.marks[r] >> bit & 1 == 1)
            .map(|r| r as u32)
            .collect()
    }

    /// Ancestors of `rows`, themselves included.
    pub fn ancestry_of(&self, rows: &[u32]) -> Ancestors {
        let (mut spans, mut offsets) = (Vec::new(), vec![0]);
        for &row in rows {
            let row = row as usize;
            let own = self.offsets[row] as usize..self.offsets[row + 1] as usize;
            spans.extend_from_slice(&self.spans[own]);
            offsets.push(spans.len() as u32);
        }
        Ancestors::new(spans, offsets)
    }

    /// Ancestors of the rows of `range`, themselves included.
    pub fn ancestry(&self, range: Range<usize>) -> Ancestors {
        let base = self.offsets[range.start];
        let (from, to) = (base as usize, self.offsets[range.end] as usize);
        let offsets = &self.offsets[range.start..=range.end];
        Ancestors::new(
            self.spans[from..to].to_vec(),
            offsets.iter().map(|o| o - base).collect(),
        )
    }
}

#[cfg(test)]
mod tests;
