//! The loss terms of some prompts.

use super::Tuner;
use super::objective::Outputs;
use super::prompt::TuningPrompt;
use crate::error::Result;
use candle_core::{DType, Tensor};
use reptune_adapters::lora::loss::LabelRow;
use reptune_adapters::{Adapter, CaptureTokens, ForwardOptions, KeyValueCache, PrefixTree, Resume};

/// One loss for each term of the objective, in its order; none weighted.
pub(super) struct Losses(pub Vec<Tensor>);

impl Losses {
    /// `sum_t weights[t] * loss[t]`; a term that is alone as it is.
    pub(super) fn total(&self, weights: &[f64]) -> Result<Tensor> {
        if let [only] = self.0.as_slice() {
            return Ok(only.clone());
        }
        let mut sum: Option<Tensor> = None;
        for (loss, weight) in self.0.iter().zip(weights) {
            let weighted = (loss * *weight)?;
            sum = Some(match sum {
                Some(sum) => (sum + weighted)?,
                None => weighted,
            });
        }
        Ok(sum.map_or_else(|| Tensor::new(0f32, &candle_core::Device::Cpu), Ok)?)
    }

    /// The losses as numbers.
    pub(super) fn numbers(&self) -> Result<Vec<f64>> {
        let number = |loss: &Tensor| Ok(f64::from(loss.to_scalar::<f32>()?));
        self.0.iter().map(number).collect()
    }
}

impl Tuner<'_> {
    /// Losses of some prompts, packed into one prefix tree. In `in+` and `in-` the paper
    /// shows every claim with both answer tokens; the rows that are read come before the
    /// answer, so here both are one prompt with a soft label.
    pub(super) fn losses(&self, prompts: &[&TuningPrompt], update: &Adapter) -> Result<Losses> {
        let ids: Vec<&[u32]> = prompts.iter().map(|p| p.ids.as_slice()).collect();
        let (tree, rows) = PrefixTree::pack(&ids);
        let mut last: Vec<u32> = rows.iter().map(|r| r[r.len() - 1]).collect();
        let ends = last.clone();
        last.sort_unstable();
        last.dedup();
        let label = |(prompt, row): (&&TuningPrompt, &u32)| LabelRow {
            row: last.partition_point(|r| r < row) as u32,
            right: prompt.right,
            wrong: prompt.wrong,
        };
        let labels = prompts.iter().zip(&ends).map(label).collect();
        let capture: Vec<usize> = match self.objective.reads_rows() {
            true => self.directions.iter().map(|(layer, _)| *layer).collect(),
            false => Vec::new(),
        };
        // The rows of the first position, of all prompts, then those of the next.
        let offsets = self.settings.offsets();
        let read: Vec<u32> = offsets
            .iter()
            .flat_map(|offset| rows.iter().map(move |r| r[r.len() - 1 - offset]))
            .collect();
        let cached = self.cached(update)?.map(|(layer, cache)| {
            let known = cache.rows(layer, &tree, &ids, &rows)?;
            crate::Result::Ok((layer, known))
        });
        let cached = cached.transpose()?;
        let request = ForwardOptions {
            capture: &capture,
            captured: CaptureTokens::Only(&read),
            logits: &last,
            adapter: Some(update),
            start: cached.as_ref().map(|(layer, rows)| Resume {
                layer: *layer,
                rows,
            }),
            activations: self.within.activations,
            ..ForwardOptions::default()
        };
        let pass = self
            .host
            .forward(&tree, &mut KeyValueCache::none(), &request)?;
        let logits = pass
            .logits
            .unwrap_or(Tensor::zeros((1, 1), DType::F32, self.host.device())?);
        let mut of_directions = Vec::new();
        for (layer, direction) in self.directions.iter().filter(|_| !capture.is_empty()) {
            for position in 0..offsets.len() {
                let first = position * rows.len();
                let h = pass.residuals[layer].narrow(0, first, rows.len())?; // (prompts, H)
                of_directions.push((direction, h));
            }
        }
        let outputs = Outputs {
            logits,
            labels,
            rows: of_directions,
            m: self.settings.m,
        };
        let terms = self.objective.terms().iter();
        Ok(Losses(
            terms
                .map(|term| term.loss(&outputs))
                .collect::<Result<_>>()?,
        ))
    }
}
