//! The two losses of some prompts.

use super::Tuner;
use super::prompt::Prompt;
use crate::error::Result;
use candle_core::{DType, Tensor};
use reptune_adapters::lora::loss::{LabelRow, representation_loss, token_loss};
use reptune_adapters::{Adapter, CaptureTokens, ForwardOptions, KeyValueCache, PrefixTree, Resume};

/// Token and representation loss, neither weighted.
pub(super) struct Losses {
    pub token: Tensor,
    pub representation: Option<Tensor>,
}

impl Losses {
    /// `representation_weight * representation + token_weight * token`, or the token
    /// loss alone in a mode without the other.
    pub(super) fn total(&self, token_weight: f64, representation_weight: f64) -> Result<Tensor> {
        Ok(match &self.representation {
            None => self.token.clone(),
            Some(r) => ((r * representation_weight)? + (&self.token * token_weight)?)?,
        })
    }

    /// Both as numbers.
    pub(super) fn numbers(&self) -> Result<(f64, Option<f64>)> {
        let representation = self.representation.as_ref().map(number).transpose()?;
        Ok((number(&self.token)?, representation))
    }
}

fn number(scalar: &Tensor) -> Result<f64> {
    Ok(f64::from(scalar.to_scalar::<f32>()?))
}

impl Tuner<'_> {
    /// Losses of some prompts, packed into one forest. In `in+` and `in-` the paper
    /// shows every claim with both letters; the rows that are read come before the
    /// letter, so here both are one prompt with a soft label.
    pub(super) fn losses(&self, prompts: &[&Prompt], update: &Adapter) -> Result<Losses> {
        let ids: Vec<&[u32]> = prompts.iter().map(|p| p.ids.as_slice()).collect();
        let (forest, rows) = PrefixTree::pack(&ids);
        let mut last: Vec<u32> = rows.iter().map(|r| r[r.len() - 1]).collect();
        let labels = prompts
            .iter()
            .zip(&last)
            .map(|(p, row)| (*row, p.right, p.wrong))
            .collect::<Vec<_>>();
        last.sort_unstable();
        last.dedup();
        let labels: Vec<LabelRow> = labels
            .into_iter()
            .map(|(row, right, wrong)| LabelRow {
                row: last.partition_point(|r| *r < row) as u32,
                right,
                wrong,
            })
            .collect();
        let capture: Vec<usize> = match self.mode.representation() {
            Some(_) => self.directions.iter().map(|(layer, _)| *layer).collect(),
            None => Vec::new(),
        };
        // The rows of the first offset, of all prompts, then those of the next.
        let offsets = self.settings.all_offsets();
        let read: Vec<u32> = offsets
            .iter()
            .flat_map(|offset| rows.iter().map(move |r| r[r.len() - 1 - offset]))
            .collect();
        let cached = self.cached(update)?.map(|(layer, cache)| {
            let known = cache.rows(layer, &forest, &ids, &rows)?;
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
            .forward(&forest, &mut KeyValueCache::none(), &request)?;
        let logits = pass
            .logits
            .unwrap_or(Tensor::zeros((1, 1), DType::F32, self.host.device())?);
        let token = token_loss(&logits, &labels, self.mode.label())?;
        let Some(kind) = self.mode.representation() else {
            return Ok(Losses {
                token,
                representation: None,
            });
        };
        let mut sum: Option<Tensor> = None;
        for (layer, direction) in &self.directions {
            for offset in 0..offsets.len() {
                let h = pass.residuals[layer].narrow(0, offset * rows.len(), rows.len())?; // (prompts, H)
                let loss = representation_loss(&h, direction, kind, self.settings.m)?;
                sum = Some(match sum {
                    Some(sum) => (sum + loss)?,
                    None => loss,
                });
            }
        }
        let terms = self.directions.len() * offsets.len();
        Ok(Losses {
            token,
            representation: sum.map(|s| s / terms as f64).transpose()?,
        })
    }
}
