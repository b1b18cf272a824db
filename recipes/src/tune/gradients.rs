//! Gradients of what is trained: of the objective, or of each term by parameter group;
//! summed over parts of a batch, and clipped.

use super::objective::{Losses, plus};
use crate::error::Result;
use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use reptune_adapters::ops::in_pool;

/// One gradient for each variable, in their order; none where no loss reaches it.
pub(super) struct Gradients(pub Vec<Option<Tensor>>);

impl Gradients {
    /// Gradients of `part` times the objective, whose terms are weighted for each variable:
    /// one backward where all weigh alike, else one for each term.
    ///
    /// `g = part sum_t weights[t] dL_t/dx`
    pub(super) fn of(
        losses: &Losses,
        vars: &[Var],
        weights: &[Vec<f64>],
        part: f64,
    ) -> Result<Self> {
        if weights.windows(2).all(|w| w[0] == w[1]) {
            let weights = weights.first().map_or(&[][..], Vec::as_slice);
            let total = (losses.total(weights)? * part)?;
            return Ok(Self::pick(&backward(&total)?, vars));
        }
        let mut sums = vec![None; vars.len()];
        for (t, loss) in losses.0.iter().enumerate() {
            let gradients = Self::pick(&backward(&(loss * part)?)?, vars);
            for ((total, gradient), weights) in sums.iter_mut().zip(gradients.0).zip(weights) {
                *total = sum(total.take(), weighted(gradient, weights[t])?)?;
            }
        }
        Ok(Self(sums))
    }

    fn pick(store: &GradStore, vars: &[Var]) -> Self {
        let gradient = |v: &Var| store.get(v.as_tensor()).cloned();
        Self(vars.iter().map(gradient).collect())
    }

    /// Adds the gradients of another part of the batch.
    pub(super) fn add(self, other: Self) -> Result<Self> {
        let both = self.0.into_iter().zip(other.0);
        Ok(Self(both.map(|(a, b)| sum(a, b)).collect::<Result<_>>()?))
    }

    /// L2 norm over all variables, summed in their order.
    pub(super) fn norm(&self) -> Result<f64> {
        let mut squares = 0.;
        for gradient in self.0.iter().flatten() {
            let values: Vec<f32> = gradient.flatten_all()?.to_vec1()?;
            let values = values.into_iter().map(|x| f64::from(x).powi(2));
            squares += values.sum::<f64>();
        }
        Ok(squares.sqrt())
    }

    /// The same direction at norm `longest`, if `norm` is above it.
    pub(super) fn clip(self, norm: f64, longest: f64) -> Result<Self> {
        if norm <= longest {
            return Ok(self);
        }
        let shorter = self.0.into_iter().map(|g| weighted(g, longest / norm));
        Ok(Self(shorter.collect::<Result<_>>()?))
    }
}

fn backward(loss: &Tensor) -> candle_core::Result<GradStore> {
    in_pool(|| loss.backward())
}

fn weighted(gradient: Option<Tensor>, weight: f64) -> Result<Option<Tensor>> {
    match gradient {
        Some(g) if weight != 0. => Ok(Some((g * weight)?)),
        _ => Ok(None),
    }
}

fn sum(a: Option<Tensor>, b: Option<Tensor>) -> Result<Option<Tensor>> {
    match b {
        Some(b) => plus(a, b),
        None => Ok(a),
    }
}
