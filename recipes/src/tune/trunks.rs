//! The trunk of a tuning, kept for the next one.

use super::Tuner;
use crate::error::Result;
use crate::trunk::ActivationCache;
use reptune_adapters::Adapter;
use std::sync::{Arc, Mutex, PoisonError};

/// The last trunk that a tuning of a model computed: the next one, of another mode, seed or
/// rate, has the same if it trains the same layers on the same prompts.
#[derive(Default)]
pub struct SharedCache(Mutex<Option<Arc<ActivationCache>>>);

impl Tuner<'_> {
    /// The rows below everything that `update` changes and a loss reads, of all prompts;
    /// none where block 0 is among it.
    pub(super) fn trunk(&self, update: &Adapter) -> Result<Option<Arc<ActivationCache>>> {
        let trained = update.modules.keys().map(|module| module.layer).min();
        let Some(below) = trained.unwrap_or(self.host.spec().layers).checked_sub(1) else {
            return Ok(None);
        };
        let read = self.directions.iter().map(|(layer, _)| *layer).min();
        let read = read.filter(|_| self.mode.representation().is_some());
        let layer = read.map_or(below, |read| read.min(below));
        let mut last = self.trunks.0.lock().unwrap_or_else(PoisonError::into_inner);
        let prompts = || self.train.iter().chain(&self.validation).map(|p| &p.ids);
        if let Some(trunk) = &*last
            && trunk.layer() == layer
            && prompts().all(|p| trunk.holds(p))
        {
            return Ok(Some(trunk.clone()));
        }
        *last = None; // before the next one takes its memory
        let prompts = prompts().cloned().collect();
        let trunk = ActivationCache::of(self.host, prompts, layer, None, self.within.trunk)?;
        Ok(Some(last.insert(Arc::new(trunk)).clone()))
    }
}
