//! What a runtime must offer: run a forest, hand out the residual stream, let it
//! be changed, and carry low-rank updates.

use crate::error::{Error, Result};
use crate::forest::Forest;
use crate::intervention::Intervention;
use crate::low_rank::LowRankUpdate;
use candle_core::{Device, Tensor};
use candle_nn::kv_cache::KvCache;
use std::collections::BTreeMap;

/// Sizes and identity of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSpec {
    /// How the user names it: a directory or a hub id.
    pub name: String,
    /// Hash of configuration and tokenizer: the same for a model and for its
    /// tuned, merged and quantized descendants.
    pub fingerprint: String,
    /// Number of blocks, L.
    pub layers: usize,
    /// Width of the residual stream, H.
    pub hidden: usize,
    /// Width inside the MLP.
    pub intermediate: usize,
    /// Attention heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Vocabulary size, V.
    pub vocab: usize,
    /// Longest sequence.
    pub context: usize,
}

impl ModelSpec {
    /// Checks that every layer exists.
    ///
    /// # Errors
    /// When one does not.
    pub fn check_layers(&self, layers: &[usize]) -> Result<()> {
        match layers.iter().find(|&&l| l >= self.layers) {
            None => Ok(()),
            Some(l) => Err(Error::value(
                "layers",
                format!("layers 0 to {}", self.layers - 1),
                format!("layer {l}"),
                format!("{} has {} blocks, counted from 0", self.name, self.layers),
            )),
        }
    }
}

/// Keys and values of the rows computed so far.
///
/// A cache that keeps cuts gradients through keys and values; train with
/// [`Cache::none`].
#[derive(Debug, Default)]
pub struct Cache {
    rows: usize,
    layers: Vec<KvCache>,
}

impl Cache {
    /// A cache that remembers nothing: every forward computes the whole forest.
    pub fn none() -> Self {
        Self::default()
    }

    /// A cache for the lowest `layers` blocks with room for `rows` rows (it grows). One of
    /// all blocks serves generation; one of fewer is there for [`Cache::below`].
    pub fn keeping(layers: usize, rows: usize) -> Self {
        Self {
            rows: 0,
            layers: vec![KvCache::new(0, rows.max(1)); layers],
        }
    }

    /// Whether it remembers.
    pub fn keeps(&self) -> bool {
        !self.layers.is_empty()
    }

    /// Number of blocks whose keys and values it takes; a forward runs at least these.
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Rows that the lowest `layers` blocks hold, if all of them hold as many.
    pub fn filled(&self, layers: usize) -> Option<usize> {
        let held = |cache: &KvCache| cache.k_cache().current_seq_len();
        let mut all = self.layers.get(..layers)?.iter().map(held);
        let first = all.next()?;
        all.all(|n| n == first).then_some(first)
    }

    /// A cache for `layers` blocks with room for `room` rows, of which the lowest `known`
    /// hold the rows `rows` of this one, in that order: what a forward needs that starts
    /// above them.
    ///
    /// # Errors
    /// When this cache lacks one of those blocks or rows.
    pub fn below(&self, known: usize, rows: &[u32], layers: usize, room: usize) -> Result<Self> {
        let mut cache = Self::keeping(layers, room);
        let lacking = || {
            let found = format!("{} blocks of {} rows", self.layers.len(), self.rows);
            Error::value(
                "cache",
                format!("{known} filled blocks"),
                found,
                "fill it first",
            )
        };
        for layer in 0..known {
            let from = self.layers.get(layer).ok_or_else(lacking)?;
            let (Some(k), Some(v)) = (from.k()?, from.v()?) else {
                return Err(lacking());
            };
            let index = Tensor::new(rows, k.device())?;
            cache.append(
                layer,
                k.index_select(&index, 0)?,
                v.index_select(&index, 0)?,
            )?;
        }
        Ok(cache)
    }

    /// Rows that need not be computed again.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Adds keys and values of the new rows of `layer`; returns those of all rows.
    ///
    /// # Errors
    /// When the shapes differ from earlier ones.
    pub fn append(&mut self, layer: usize, k: Tensor, v: Tensor) -> Result<(Tensor, Tensor)> {
        match self.layers.get_mut(layer) {
            Some(cache) => Ok(cache.append(&k.contiguous()?, &v.contiguous()?)?),
            None => Ok((k, v)),
        }
    }

    /// Says that the forward which appended to all layers is complete.
    pub fn advance(&mut self, rows: usize) {
        if !self.layers.is_empty() {
            self.rows = rows;
        }
    }
}

/// Residual rows that are known, so that a forward can begin above them.
#[derive(Clone, Copy)]
pub struct Start<'a> {
    /// The block whose output they are.
    pub layer: usize,
    /// The new rows (N, H) at that output, before any intervention there; on any device.
    pub rows: &'a Tensor,
}

/// What a forward keeps for its backward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activations {
    /// Everything.
    #[default]
    Keep,
    /// The input of every block; the backward runs each block again.
    Recompute,
}

/// What a forward should do besides running.
#[derive(Default, Clone, Copy)]
pub struct Request<'a> {
    /// Applied in order; bit i of a row's marks says where intervention i acts.
    pub interventions: &'a [Intervention],
    /// Layers whose outputs are handed back.
    pub capture: &'a [usize],
    /// Rows that are handed back of them; none: all new rows.
    pub captured: &'a [u32],
    /// Rows whose logits are computed; without any the forward stops at the last
    /// captured layer.
    pub logits: &'a [u32],
    /// Added to the frozen weights; gradients reach its factors.
    pub low_rank: Option<&'a LowRankUpdate>,
    /// Where it begins; none: at the embeddings. What lies below is not computed, so
    /// nothing can be captured or changed there, and a cache must hold it already.
    pub start: Option<Start<'a>>,
    /// What is kept for a backward.
    pub activations: Activations,
}

/// What a forward gave.
pub struct Pass {
    /// Residual rows (captured rows, H) at the output of each captured layer, in the order
    /// in which they were asked for, after interventions there; f32, on the host's device.
    pub residuals: BTreeMap<usize, Tensor>,
    /// Logits (requested rows, V), if any were requested; f32, on the host's device.
    pub logits: Option<Tensor>,
}

/// A runtime with a model in it.
pub trait Host {
    /// Sizes and identity.
    fn spec(&self) -> &ModelSpec;

    /// Where it computes.
    fn device(&self) -> &Device;

    /// Runs the rows of `forest` that `cache` does not hold yet.
    ///
    /// # Errors
    /// When a request does not fit the model, or a tensor operation fails.
    fn forward(&self, forest: &Forest, cache: &mut Cache, request: &Request) -> Result<Pass>;

    /// Logits of residual rows, as if they were the output of the last block: final
    /// norm, then unembedding.
    ///
    /// Shapes: `rows` (R, H), result (R, V).
    ///
    /// # Errors
    /// When the runtime does not offer it, or the width differs.
    fn unembed(&self, rows: &Tensor) -> Result<Tensor> {
        Err(Error::Unsupported {
            what: format!("unembedding {:?}", rows.dims()),
            reason: "this runtime gives logits of whole forwards only".into(),
        })
    }
}
