//! When a run ends before its last epoch, and what it keeps.

use crate::error::Result;
use crate::recipe::EarlyStop;
use reptune_adapters::Adapter;
use std::collections::VecDeque;

/// What to do after a validation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    GoOn,
    Stop,
}

/// Watches the mean of the last `window` validation losses, and keeps the update
/// with which it was lowest.
#[derive(Debug, Clone, Default)]
pub(super) struct Watch {
    /// Losses of the last validations, the oldest first.
    pub recent: VecDeque<f64>,
    /// The lowest mean.
    pub lowest: Option<f64>,
    /// Validations since then.
    pub waited: usize,
    /// The update at that time.
    pub best: Option<Adapter>,
}

impl Watch {
    /// Hears of the validation loss after `steps` steps.
    pub(super) fn see(
        &mut self,
        settings: &EarlyStop,
        steps: usize,
        loss: f64,
        update: &Adapter,
    ) -> Result<Verdict> {
        self.recent.push_back(loss);
        if self.recent.len() < settings.window {
            return Ok(Verdict::GoOn);
        }
        let mean = self.recent.iter().sum::<f64>() / settings.window as f64;
        self.recent.drain(..self.recent.len() + 1 - settings.window);
        if self.lowest.is_some_and(|lowest| mean >= lowest) {
            self.waited += 1;
            if self.waited >= settings.patience && steps >= settings.min_steps {
                return Ok(Verdict::Stop);
            }
        } else {
            self.lowest = Some(mean);
            self.waited = 0;
            self.best = Some(update.snapshot()?);
        }
        Ok(Verdict::GoOn)
    }
}

#[cfg(test)]
mod tests;
