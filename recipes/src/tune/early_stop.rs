//! When a run ends before its last epoch, and what it keeps.

use crate::error::Result;
use crate::recipe::EarlyStop;
use reptune_adapters::Adapter;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// What to do after a validation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    GoOn,
    Stop,
}

/// Watches the mean of the last `window` validation losses, and keeps the update with which
/// it was lowest. Losses are bits, because JSON readers differ in the last one of a number.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Watch {
    /// Validations since the lowest mean.
    pub waited: usize,
    pub lowest: Option<u64>,
    /// Losses of the last validations, the oldest first.
    pub recent: VecDeque<u64>,
    /// The update with the lowest mean.
    #[serde(skip)]
    pub best: Option<Adapter>,
}

impl Watch {
    /// Takes the validation loss after `steps` steps.
    pub(super) fn see(
        &mut self,
        settings: &EarlyStop,
        steps: usize,
        loss: f64,
        update: &Adapter,
    ) -> Result<Verdict> {
        self.recent.push_back(loss.to_bits());
        if self.recent.len() < settings.window {
            return Ok(Verdict::GoOn);
        }
        let losses = self.recent.iter().map(|bits| f64::from_bits(*bits));
        let mean = losses.sum::<f64>() / settings.window as f64;
        self.recent.drain(..self.recent.len() + 1 - settings.window);
        if (self.lowest).is_some_and(|lowest| mean >= f64::from_bits(lowest)) {
            self.waited += 1;
            if self.waited >= settings.patience && steps >= settings.min_steps {
                return Ok(Verdict::Stop);
            }
        } else {
            self.lowest = Some(mean.to_bits());
            self.waited = 0;
            self.best = Some(update.snapshot()?);
        }
        Ok(Verdict::GoOn)
    }
}

#[cfg(test)]
mod tests;
