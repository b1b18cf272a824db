//! Activations of prompts, computed once for all that is done above them.
//!
//! Nothing that is trained or steered above a layer changes its output. So its rows serve every
//! batch, epoch, seed, coefficient and sign: a forward begins at them. A cache for generation
//! keeps the keys and values of the layers below as well.

mod storage;

pub use storage::CacheStorage;

use crate::batch::{CACHED_PER_FORWARD, Most, batches};
use crate::error::{Error, Result};
use candle_core::{Tensor, TensorId};
use reptune_adapters::{
    Adapter, CaptureTokens, ForwardOptions, HookedModel, Intervention, KeyValueCache, ModelSpec,
    PrefixTree, Resume, TargetModule,
};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use storage::CachedRows;

/// The last cache of several tunings. The next tuning, of another mode, seed or rate, uses
/// it if it trains the same layers on the same prompts.
pub type SharedActivations = Mutex<Option<Arc<ActivationCache>>>;

/// Residual rows (N, H) at the output of some layers, one for every distinct token of some
/// prompts, without interventions.
pub struct ActivationCache {
    weights: Weights,
    /// All prompts; each token has a row.
    tree: PrefixTree,
    rows: BTreeMap<usize, CachedRows>,
    hidden: usize,
    /// Prompts that were computed together, with keys and values of the cached layers and
    /// those below; empty unless the cache is for generation.
    keys_values: Vec<(PrefixTree, KeyValueCache)>,
}

/// The last layer whose output neither `interventions` nor an update of the modules of
/// `update` changes, so that a forward can resume after it. `None` if the output of
/// layer 0 changes, or the embeddings do.
pub fn last_unchanged(
    spec: &ModelSpec,
    interventions: &[Intervention],
    update: Option<&Adapter>,
) -> Option<usize> {
    let steered = interventions.iter().map(Intervention::lowest);
    let modules = update.into_iter().flat_map(|u| u.modules.keys());
    let updated = modules.map(|module| module.layer.checked_sub(1));
    let lowest = steered.chain(updated).min();
    lowest.unwrap_or(spec.layers.checked_sub(1))
}

/// A forward that resumes at the rows (N, H) of a layer.
pub(crate) fn resume((layer, rows): &(usize, Tensor)) -> Resume<'_> {
    let layer = *layer;
    Resume { layer, rows }
}

impl ActivationCache {
    /// Computes the rows of `prompts` at the output of `layer`, under `adapter`.
    ///
    /// # Errors
    /// When the layer does not exist, the model fails, or the file cannot be written.
    pub fn at_layer(
        model: &dyn HookedModel,
        prompts: &[Vec<u32>],
        layer: usize,
        adapter: Option<&Adapter>,
        storage: CacheStorage,
    ) -> Result<Self> {
        Self::compute(model, prompts, &[layer], (adapter, storage), None, None)
    }

    /// Computes the rows of `prompts` at the outputs of `layers`, under `adapter`, and the
    /// keys and values up to the highest of them, so that a generation under interventions
    /// at one of them can begin there.
    ///
    /// # Errors
    /// When a layer does not exist, or the model fails.
    pub fn for_generation(
        model: &dyn HookedModel,
        prompts: &[Vec<u32>],
        layers: &[usize],
        adapter: Option<&Adapter>,
    ) -> Result<Self> {
        let blocks = layers.iter().max().map_or(0, |l| l + 1);
        let memory = CacheStorage::Memory;
        Self::compute(
            model,
            prompts,
            layers,
            (adapter, memory),
            None,
            Some(blocks),
        )
    }

    /// The rows of `prompts` at the output of `layer`, in memory: those of `known` if it has
    /// them, computed from its rows if these are lower, or else from the embeddings.
    /// `known` must be a cache of the same prompts.
    ///
    /// # Errors
    /// When `known` is of other weights, and as [`ActivationCache::at_layer`].
    pub fn moved(
        known: Option<Self>,
        model: &dyn HookedModel,
        layer: usize,
        adapter: Option<&Adapter>,
        prompts: impl FnOnce() -> Vec<Vec<u32>>,
    ) -> Result<Self> {
        let known = known.filter(|known| known.resume_layer(layer).is_some());
        if let Some(known) = &known {
            known.check(model, adapter)?;
        }
        match known {
            Some(known) if known.rows.contains_key(&layer) => Ok(known),
            known => {
                let how = (adapter, CacheStorage::Memory);
                Self::compute(model, &prompts(), &[layer], how, known.as_ref(), None)
            }
        }
    }

    /// Computes each row once, in the first batch that has its token. Forwards resume at the
    /// rows of `known`. With `blocks`, the keys and values of so many blocks are kept.
    fn compute(
        model: &dyn HookedModel,
        prompts: &[Vec<u32>],
        layers: &[usize],
        (adapter, storage): (Option<&Adapter>, CacheStorage),
        known: Option<&Self>,
        blocks: Option<usize>,
    ) -> Result<Self> {
        let writer = |layer: &usize| Ok((*layer, CachedRows::new(storage)?));
        let writers = layers.iter().map(writer);
        let mut writers = writers.collect::<Result<BTreeMap<_, _>>>()?;
        let mut tree = PrefixTree::new();
        let mut kept = Vec::new();
        for batch in batches(prompts, Most::Total(CACHED_PER_FORWARD), |_, _| 0) {
            let prompts = &prompts[batch.prompts];
            // Tokens of the batch that have no row yet, in the order of the rows.
            let (before, mut new) = (tree.len(), Vec::new());
            for (prompt, path) in prompts.iter().zip(&batch.paths) {
                for (row, token) in tree.insert(None, prompt, |_| 0).iter().zip(path) {
                    if *row as usize == before + new.len() {
                        new.push(*token);
                    }
                }
            }
            if new.is_empty() && blocks.is_none() {
                continue;
            }
            let from = known.and_then(|k| k.rows.keys().next_back());
            let start = match (known, from) {
                (Some(known), Some(from)) => {
                    let rows = known.rows(*from, &batch.tree, prompts, &batch.paths)?;
                    Some((*from, rows))
                }
                _ => None,
            };
            let options = ForwardOptions {
                capture: layers,
                captured: CaptureTokens::Only(&new),
                adapter,
                start: start.as_ref().map(resume),
                ..ForwardOptions::default()
            };
            let mut keys_values = match blocks {
                Some(blocks) => KeyValueCache::keeping(blocks, batch.tree.len()),
                None => KeyValueCache::none(),
            };
            let output = model.forward(&batch.tree, &mut keys_values, &options)?;
            for (layer, writer) in &mut writers {
                writer.write(&output.residuals[layer].detach())?;
            }
            if blocks.is_some() {
                kept.push((batch.tree, keys_values));
            }
        }
        let hidden = model.spec().hidden;
        let rows = writers.into_iter();
        let rows = rows.map(|(layer, writer)| Ok((layer, writer.finish(hidden)?)));
        Ok(Self {
            weights: Weights::of(model, adapter),
            tree,
            rows: rows.collect::<Result<_>>()?,
            hidden,
            keys_values: kept,
        })
    }

    /// Whether all tokens of `prompt` have rows here.
    pub fn holds(&self, prompt: &[u32]) -> bool {
        self.tree.path(prompt).is_some()
    }

    /// Refuses other weights than those of the cache.
    ///
    /// # Errors
    /// When `model` or `adapter` is another one.
    pub fn check(&self, model: &dyn HookedModel, adapter: Option<&Adapter>) -> Result<()> {
        if self.weights == Weights::of(model, adapter) {
            return Ok(());
        }
        let expected = "the model and the adapter that it was computed with";
        let hint = "compute the cache again";
        Err(Error::value("activation cache", expected, "others", hint))
    }

    /// The highest cached layer that is not above `last_unchanged`: where a forward can
    /// resume.
    pub fn resume_layer(&self, last_unchanged: usize) -> Option<usize> {
        let (layer, _) = self.rows.range(..=last_unchanged).next_back()?;
        Some(*layer)
    }

    /// The rows (N, H) at `layer` of the tokens of `tree`, where the tokens of each of
    /// `prompts` have the numbers of `paths`. If there are more paths, the prompts repeat.
    ///
    /// # Errors
    /// When the layer or a prompt is not cached, or the file cannot be read.
    pub fn rows<P: AsRef<[u32]>, R: AsRef<[u32]>>(
        &self,
        layer: usize,
        tree: &PrefixTree,
        prompts: &[P],
        paths: &[R],
    ) -> Result<Tensor> {
        let Some(rows) = self.rows.get(&layer) else {
            let expected = format!("one of the cached layers {:?}", self.rows.keys());
            let hint = "cache this layer as well";
            return Err(Error::value("layer", expected, layer.to_string(), hint));
        };
        let Some(index) = index(&self.tree, tree, prompts, paths) else {
            let expected = "one of the cached prompts";
            let hint = "compute the cache for all prompts";
            return Err(Error::value("prompt", expected, "another", hint));
        };
        rows.select(index, self.hidden)
    }

    /// Keys and values up to `layer` of the tokens of `tree`, see [`ActivationCache::rows`],
    /// for a model of `layers` layers and with space for `most` tokens; `None` where the
    /// prompts are not cached, or not in one batch.
    pub(crate) fn keys_values(
        &self,
        layer: usize,
        (tree, prompts, paths): (&PrefixTree, &[Vec<u32>], &[Vec<u32>]),
        layers: usize,
        most: usize,
    ) -> Result<Option<KeyValueCache>> {
        let known = |(batch, keys_values): &(PrefixTree, KeyValueCache)| {
            let index = index(batch, tree, prompts, paths)?;
            Some(keys_values.below(layer + 1, &index, layers, most))
        };
        Ok(self.keys_values.iter().find_map(known).transpose()?)
    }
}

/// For every token of `tree`, its number in `known`, if that has all `prompts`.
fn index<P: AsRef<[u32]>, R: AsRef<[u32]>>(
    known: &PrefixTree,
    tree: &PrefixTree,
    prompts: &[P],
    paths: &[R],
) -> Option<Vec<u32>> {
    let known = prompts.iter().map(|prompt| known.path(prompt.as_ref()));
    let known = known.collect::<Option<Vec<_>>>()?;
    let mut index = vec![0; tree.len()];
    for (path, known) in paths.iter().zip(known.iter().cycle()) {
        for (token, known) in path.as_ref().iter().zip(known) {
            index[*token as usize] = *known;
        }
    }
    Some(index)
}

/// Which weights activations were computed with: the model by its fingerprint, and the
/// adapter by its tensors. The factors of an adapter that is being trained keep their
/// identity while their values change, so no cache may be computed under such an adapter.
#[derive(PartialEq, Eq)]
struct Weights {
    fingerprint: String,
    adapter: Option<Vec<(TargetModule, Vec<TensorId>, u64)>>,
}

impl Weights {
    fn of(model: &dyn HookedModel, adapter: Option<&Adapter>) -> Self {
        let identity = |adapter: &Adapter| {
            let modules = adapter.modules.iter().map(|(module, delta)| {
                let tensors = [&delta.a, &delta.b].into_iter().chain(&delta.full);
                let tensors = tensors.map(Tensor::id).collect();
                (*module, tensors, delta.scale.to_bits())
            });
            modules.collect()
        };
        Self {
            fingerprint: model.spec().fingerprint.clone(),
            adapter: adapter.map(identity),
        }
    }
}

#[cfg(test)]
mod tests;
