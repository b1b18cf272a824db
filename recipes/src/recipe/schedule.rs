//! `tuning.schedule`: how the learning rate changes over a run.

use serde::{Deserialize, Serialize};

/// What the learning rate does after its warm-up, in which it rises linearly.
///
/// With `s` the step from 0, `T` the steps of the run and `w` those of the warm-up:
///
/// - warm-up: `peak (s + 1) / w` while `s < w`
/// - linear: `peak (T - s) / (T - w)`
/// - cosine: `peak (1 + cos(pi (s - w) / (T - w))) / 2`
/// - constant: `peak`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// Falls in a line.
    #[default]
    Linear,
    /// Falls along half a wave of the cosine.
    Cosine,
    /// Stays.
    Constant,
}

impl Schedule {
    /// Learning rate of step `step` (from 0) of `total`, with `warmup` steps of
    /// warm-up and the highest rate `peak`.
    pub fn rate(self, peak: f64, step: usize, total: usize, warmup: usize) -> f64 {
        let warm = warmup.min(total.saturating_sub(1));
        if step < warm {
            return peak * (step + 1) as f64 / warm as f64;
        }
        match self {
            Self::Linear => peak * (total - step) as f64 / (total - warm) as f64,
            Self::Cosine => {
                let share = (step - warm) as f64 / (total - warm) as f64;
                peak * (1. + (std::f64::consts::PI * share).cos()) / 2.
            }
            Self::Constant => peak,
        }
    }
}

#[cfg(test)]
mod tests;
