//! The activations that a tuning begins at, kept for the next one.

use super::Tuner;
use crate::activation_cache::{ActivationCache, last_unchanged};
use crate::error::Result;
use reptune_adapters::Adapter;
use std::sync::{Arc, PoisonError};

impl Tuner<'_> {
    /// The activations of all prompts below everything that `update` changes and a loss
    /// reads, and their layer; none where layer 0 is among it.
    pub(super) fn cached(&self, update: &Adapter) -> Result<Option<(usize, Arc<ActivationCache>)>> {
        let Some(below) = last_unchanged(self.host.spec(), &[], Some(update)) else {
            return Ok(None);
        };
        let read = self.directions.iter().map(|(layer, _)| *layer).min();
        let read = read.filter(|_| self.mode.representation().is_some());
        let layer = read.map_or(below, |read| read.min(below));
        let mut last = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let prompts = || self.train.iter().chain(&self.validation).map(|p| &p.ids);
        if let Some(cache) = &*last
            && cache.belongs_to(self.host, None)
            && cache.resume_layer(layer) == Some(layer)
            && prompts().all(|p| cache.holds(p))
        {
            return Ok(Some((layer, cache.clone())));
        }
        *last = None; // before the next one takes its memory
        let prompts: Vec<Vec<u32>> = prompts().cloned().collect();
        let storage = self.within.trunk;
        let cache = ActivationCache::at_layer(self.host, &prompts, layer, None, storage)?;
        Ok(Some((layer, last.insert(Arc::new(cache)).clone())))
    }
}
