//! The loss terms of some prompts, in a forward that begins at cached activations, and the
//! gradients of what is trained: summed over parts of a batch, and clipped.

use super::Tuner;
use super::objective::{Losses, Outputs};
use super::prompts::TuningPrompt;
use crate::activation_cache::{ActivationCache, last_unchanged, resume};
use crate::error::Result;
use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use reptune_adapters::lora::loss::LabelRow;
use reptune_adapters::ops::in_pool;
use reptune_adapters::{Adapter, CaptureTokens, ForwardOptions, KeyValueCache, PrefixTree};
use std::sync::{Arc, PoisonError};

impl Tuner<'_> {
    /// Losses of some prompts, packed into one prefix tree. In `in+` and `in-` the paper
    /// shows every claim with both answer tokens; the rows that are read come before the
    /// answer, so here both are one prompt with a soft label.
    pub(super) fn losses(&self, prompts: &[&TuningPrompt], update: &Adapter) -> Result<Losses> {
        let ids: Vec<&[u32]> = prompts.iter().map(|p| p.ids.as_slice()).collect();
        let (tree, paths) = PrefixTree::pack(&ids);
        let ends: Vec<u32> = paths.iter().map(|path| path[path.len() - 1]).collect();
        let mut last = ends.clone();
        last.sort_unstable();
        last.dedup();
        let label = |(prompt, token): (&&TuningPrompt, &u32)| LabelRow {
            row: last.partition_point(|t| t < token) as u32,
            right: prompt.right,
            wrong: prompt.wrong,
        };
        let labels = prompts.iter().zip(&ends).map(label).collect();
        let directions = match self.objective.reads_rows() {
            true => self.directions.as_slice(),
            false => &[],
        };
        let capture: Vec<usize> = directions.iter().map(|(layer, _)| *layer).collect();
        // The tokens of the first position, of all prompts, then those of the next.
        let offsets = self.settings.offsets();
        let of_offset = |offset| paths.iter().map(move |path| path[path.len() - 1 - offset]);
        let read: Vec<u32> = offsets.iter().flat_map(of_offset).collect();
        let start = match self.cached(update)? {
            Some((layer, cache)) => Some((layer, cache.rows(layer, &tree, &ids, &paths)?)),
            None => None,
        };
        let options = ForwardOptions {
            capture: &capture,
            captured: CaptureTokens::Only(&read),
            logits: &last,
            adapter: Some(update),
            start: start.as_ref().map(resume),
            activations: self.memory.activations,
            ..ForwardOptions::default()
        };
        let none = &mut KeyValueCache::none();
        let output = self.model.forward(&tree, none, &options)?;
        let mut rows = Vec::new();
        for (layer, direction) in directions {
            for position in 0..offsets.len() {
                let first = position * paths.len();
                let h = output.residuals[layer].narrow(0, first, paths.len())?; // (prompts, H)
                rows.push((direction, h));
            }
        }
        let outputs = Outputs {
            logits: output.into_logits()?,
            labels,
            rows,
            m: self.settings.m,
        };
        let losses = self.objective.terms().iter().map(|t| t.loss(&outputs));
        Ok(Losses(losses.collect::<Result<_>>()?))
    }

    /// The activations of all prompts below everything that `update` changes and a loss
    /// reads (which may be lower: an update that tuning starts from need not have all layers),
    /// and their layer; none where layer 0 is among it. They are kept for the next tuning.
    pub(super) fn cached(&self, update: &Adapter) -> Result<Option<(usize, Arc<ActivationCache>)>> {
        let Some(below) = last_unchanged(self.model.spec(), &[], Some(update)) else {
            return Ok(None);
        };
        let read = self.directions.iter().map(|(layer, _)| *layer).min();
        let read = read.filter(|_| self.objective.reads_rows());
        let layer = read.map_or(below, |read| read.min(below));
        let mut last = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let prompts = || self.train.iter().chain(&self.validation).map(|p| &p.ids);
        if let Some(cache) = &*last
            && cache.check(self.model, None).is_ok()
            && cache.resume_layer(layer) == Some(layer)
            && prompts().all(|p| cache.holds(p))
        {
            return Ok(Some((layer, cache.clone())));
        }
        *last = None; // before the next one takes its memory
        let prompts: Vec<Vec<u32>> = prompts().cloned().collect();
        let storage = self.memory.cache;
        let cache = ActivationCache::at_layer(self.model, &prompts, layer, None, storage)?;
        Ok(Some((layer, last.insert(Arc::new(cache)).clone())))
    }
}

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
    Ok(match (a, b) {
        (Some(a), Some(b)) => Some((a + b)?),
        (a, b) => a.or(b),
    })
}
