//! The key/value cache of a forward.

use crate::error::{Error, Result};
use candle_core::Tensor;
use candle_nn::kv_cache::KvCache;

/// Keys and values of the tokens computed so far.
///
/// Gradients do not flow through a cache that keeps them; train with
/// [`KeyValueCache::none`].
#[derive(Debug, Default)]
pub struct KeyValueCache {
    rows: usize,
    layers: Vec<KvCache>,
}

impl KeyValueCache {
    /// A cache that keeps nothing: every forward computes the whole tree.
    pub fn none() -> Self {
        Self::default()
    }

    /// A cache for the lowest `layers` blocks with capacity for `rows` tokens (it grows).
    /// Generation needs all blocks; fewer are a source for [`KeyValueCache::below`].
    pub fn keeping(layers: usize, rows: usize) -> Self {
        Self {
            rows: 0,
            layers: vec![KvCache::new(0, rows.max(1)); layers],
        }
    }

    /// Whether it keeps anything.
    pub fn keeps(&self) -> bool {
        !self.layers.is_empty()
    }

    /// Number of blocks whose keys and values it keeps; a forward runs at least these.
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Number of tokens that the lowest `layers` blocks hold, if all hold as many.
    pub fn filled(&self, layers: usize) -> Option<usize> {
        let held = |cache: &KvCache| cache.k_cache().current_seq_len();
        let mut all = self.layers.get(..layers)?.iter().map(held);
        let first = all.next()?;
        all.all(|n| n == first).then_some(first)
    }

    /// A cache for `layers` blocks with capacity for `capacity` tokens. Its lowest `known` blocks
    /// hold the tokens `rows` of this one, in that order: a forward that starts above these
    /// blocks needs them.
    ///
    /// # Errors
    /// When this cache lacks one of those blocks or tokens.
    pub fn below(
        &self,
        known: usize,
        rows: &[u32],
        layers: usize,
        capacity: usize,
    ) -> Result<Self> {
        let mut cache = Self::keeping(layers, capacity);
        for layer in 0..known {
            let from = self.layers.get(layer);
            let filled = from.and_then(|from| Some((from.k().transpose()?, from.v().transpose()?)));
            let Some((k, v)) = filled else {
                let found = format!("{} blocks of {} tokens", self.layers.len(), self.rows);
                let expected = format!("{known} filled blocks");
                return Err(Error::value("cache", expected, found, "fill it first"));
            };
            let (k, v) = (k?, v?);
            let index = Tensor::new(rows, k.device())?;
            let (k, v) = (k.index_select(&index, 0)?, v.index_select(&index, 0)?);
            cache.append(layer, k, v)?;
        }
        Ok(cache)
    }

    /// Number of tokens that need not be computed again.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Adds keys and values of the new tokens at `layer`; returns those of all tokens.
    ///
    /// # Errors
    /// When the shapes differ from earlier ones.
    pub fn append(&mut self, layer: usize, k: Tensor, v: Tensor) -> Result<(Tensor, Tensor)> {
        match self.layers.get_mut(layer) {
            Some(cache) => Ok(cache.append(&k.contiguous()?, &v.contiguous()?)?),
            None => Ok((k, v)),
        }
    }

    /// Records that a forward has appended `rows` tokens in all to every layer.
    pub fn advance(&mut self, rows: usize) {
        if !self.layers.is_empty() {
            self.rows = rows;
        }
    }
}
