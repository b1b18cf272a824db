//! Gradients of what is trained: of one loss or of both by group, summed over parts
//! of a batch, and shortened.

use super::losses::Losses;
use super::share::Share;
use crate::error::Result;
use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use reptune_adapters::ops::in_pool;

/// One gradient for each variable, in their order; none where no loss reaches it.
pub(super) struct Gradients(Vec<Option<Tensor>>);

impl Gradients {
    /// Gradients of `part` times the losses, weighted for each variable as its share
    /// says: one backward where all weigh alike, else one for each loss.
    ///
    /// `g = part (representation_weight dR/dx + token_weight dT/dx)`
    pub(super) fn of(losses: &Losses, vars: &[Var], shares: &[Share], part: f64) -> Result<Self> {
        let weights = |s: &Share| (s.token_weight, s.representation_weight);
        let alike = shares.windows(2).all(|w| weights(&w[0]) == weights(&w[1]));
        match (&losses.representation, shares.first()) {
            (Some(representation), _) if !alike => {
                let token = Self::pick(&backward(&(&losses.token * part)?)?, vars);
                let other = Self::pick(&backward(&(representation * part)?)?, vars);
                let mut sums = Vec::new();
                for ((token, other), share) in token.0.into_iter().zip(other.0).zip(shares) {
                    let token = weighted(token, share.token_weight)?;
                    let other = weighted(other, share.representation_weight)?;
                    sums.push(sum(other, token)?);
                }
                Ok(Self(sums))
            }
            (_, share) => {
                let (token, representation) = share.map_or((1., 1.), weights);
                let total = (losses.total(token, representation)? * part)?;
                Ok(Self::pick(&backward(&total)?, vars))
            }
        }
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
            squares += values
                .into_iter()
                .map(|x| f64::from(x).powi(2))
                .sum::<f64>();
        }
        Ok(squares.sqrt())
    }

    /// The same direction at norm `longest`, if `norm` is above it.
    pub(super) fn clip(self, norm: f64, longest: f64) -> Result<Self> {
        if norm <= longest {
            return Ok(self);
        }
        let shorter = |g: Option<Tensor>| weighted(g, longest / norm);
        Ok(Self(
            self.0.into_iter().map(shorter).collect::<Result<_>>()?,
        ))
    }

    pub(super) fn as_slice(&self) -> &[Option<Tensor>] {
        &self.0
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
    Ok(match (a, b) {
        (Some(a), Some(b)) => Some((a + b)?),
        (a, b) => a.or(b),
    })
}
