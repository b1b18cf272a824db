//! A model as it is measured: its runtime, and what changes it.

use crate::error::{Error, Result};
use reptune_adapters::steering::intervention::token_mask;
use reptune_adapters::{
    Adapter, ForwardOptions, HookedModel, Intervention, KeyValueCache, PrefixTree,
};
use std::ops::Range;

/// A model under interventions and low-rank updates, whose logits can be read.
#[derive(Clone, Copy)]
pub struct Changed<'a> {
    /// The model.
    pub host: &'a dyn HookedModel,
    /// Interventions on the residual stream.
    pub interventions: &'a [Intervention],
    /// Low-rank updates.
    pub adapter: Option<&'a Adapter>,
}

impl<'a> Changed<'a> {
    /// The model as it is.
    pub fn base(host: &'a dyn HookedModel) -> Self {
        Self {
            host,
            interventions: &[],
            adapter: None,
        }
    }

    /// Logits at the positions `wanted[t]` of every text t, by one forward.
    ///
    /// For row rules a text is a prompt throughout: `generated` chooses none of it.
    /// `wanted` has one range for each text.
    ///
    /// # Errors
    /// When a text is empty, longer than the context or shorter than its range.
    pub(super) fn logits(&self, texts: &[&[u32]], wanted: &[Range<usize>]) -> Result<Logits> {
        let context = self.host.spec().context;
        let mut forest = PrefixTree::new();
        let mut rows = Vec::with_capacity(texts.len());
        for (i, (ids, range)) in texts.iter().zip(wanted).enumerate() {
            if ids.is_empty() || ids.len() > context || range.end > ids.len() {
                return Err(Error::Adapters(reptune_adapters::Error::value(
                    format!("text {i}"),
                    format!("{} to {context} tokens", range.end.max(1)),
                    ids.len().to_string(),
                    "shorten it to the model's context, or leave it out",
                )));
            }
            let all = forest.insert(None, ids, |p| token_mask(self.interventions, p, ids.len()));
            rows.push(all[range.clone()].to_vec());
        }
        let mut read: Vec<u32> = rows.iter().flatten().copied().collect();
        read.sort_unstable();
        read.dedup();
        let request = ForwardOptions {
            interventions: self.interventions,
            logits: &read,
            adapter: self.adapter,
            ..ForwardOptions::default()
        };
        let pass = self
            .host
            .forward(&forest, &mut KeyValueCache::none(), &request)?;
        let (values, vocab) = match &pass.logits {
            Some(logits) => {
                let (_, vocab) = logits.dims2()?;
                let flat = logits.detach().to_dtype(candle_core::DType::F32)?;
                (flat.flatten_all()?.to_vec1()?, vocab)
            }
            None => (Vec::new(), self.host.spec().vocab),
        };
        for text in &mut rows {
            for row in text {
                *row = read.partition_point(|r| *r < *row) as u32;
            }
        }
        Ok(Logits {
            values,
            vocab,
            rows,
        })
    }
}

/// Logits of some rows of some texts.
pub(super) struct Logits {
    values: Vec<f32>,
    vocab: usize,
    rows: Vec<Vec<u32>>,
}

impl Logits {
    /// Of text `text`, its `i`-th wanted position: (V,).
    pub(super) fn row(&self, text: usize, i: usize) -> &[f32] {
        let row = self.rows[text][i] as usize;
        &self.values[row * self.vocab..(row + 1) * self.vocab]
    }
}

/// `log sum_v exp(logits_v)`, summed in f64 in the order of the vocabulary.
pub(super) fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|l| (f64::from(*l) - max).exp()).sum();
    max + sum.ln()
}

/// Runs of consecutive texts, of these lengths, with at most `most` tokens together;
/// at least one text a run.
pub(super) fn batches(lengths: impl Iterator<Item = usize>, most: usize) -> Vec<Range<usize>> {
    let mut batches: Vec<Range<usize>> = Vec::new();
    let mut rows = 0;
    for (i, length) in lengths.enumerate() {
        rows += length;
        match batches.last_mut() {
            Some(batch) if rows <= most => batch.end = i + 1,
            _ => {
                rows = length;
                batches.push(i..i + 1);
            }
        }
    }
    batches
}

/// Changes of the toy, and its logits one text at a time, for tests.
#[cfg(test)]
pub(super) mod toy_changes {
    use super::*;
    use candle_core::{Device, Tensor};
    use reptune_adapters::lora::WeightDelta;
    use reptune_adapters::model::{ModuleKind, TargetModule};
    use reptune_adapters::steering::direction::Provenance;
    use reptune_adapters::{Direction, DirectionSet, Dose, Operator};
    use std::collections::BTreeMap;

    /// A steep addition at the output of block 1.
    pub fn steering() -> Vec<Intervention> {
        let direction: Vec<f64> = (0..32).map(|i| f64::from(i * 7 % 11) - 5.).collect();
        let set = DirectionSet {
            layers: BTreeMap::from([(1, Direction::new(&direction).expect("a direction"))]),
            provenance: Provenance::default(),
        };
        vec![
            Intervention::new(&set, &[1], Dose::Total(3.), Operator::Add).expect("an intervention"),
        ]
    }

    /// An update of one weight of block 2, of rank 1.
    pub fn adapter() -> Adapter {
        let column = |n: u32| (0..n).map(|i| (i * 5 % 7) as f32 / 7. - 0.4);
        let factor = |n: u32| Tensor::from_iter(column(n), &Device::Cpu).expect("a tensor");
        let a = factor(32).reshape((1, 32)).expect("A");
        let b = factor(32).reshape((32, 1)).expect("B");
        let module = TargetModule {
            layer: 2,
            kind: ModuleKind::OProj,
        };
        let modules = BTreeMap::from([(
            module,
            WeightDelta {
                a,
                b,
                scale: 2.,
                full: None,
            },
        )]);
        Adapter { modules }
    }

    /// Log-probabilities (V,) of the token after `ids`, from a forward of its own.
    pub fn next(model: &Changed, ids: &[u32]) -> Vec<f64> {
        let mut forest = PrefixTree::new();
        let rows = forest.insert(None, ids, |i| token_mask(model.interventions, i, ids.len()));
        let request = ForwardOptions {
            interventions: model.interventions,
            logits: &rows[ids.len() - 1..],
            adapter: model.adapter,
            ..ForwardOptions::default()
        };
        let pass = model
            .host
            .forward(&forest, &mut KeyValueCache::none(), &request);
        let logits = pass.expect("a forward").logits.expect("logits");
        let logits = logits.flatten_all().expect("one row");
        let logits: Vec<f32> = logits.to_vec1().expect("numbers");
        let total: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
        logits
            .iter()
            .map(|l| (f64::from(*l).exp() / total).ln())
            .collect()
    }

    /// Byte tokens that no one wrote.
    pub fn text(length: u32, seed: u32) -> Vec<u32> {
        (0..length)
            .map(|i| (i * i * 31 + seed * 97 + i) % 251)
            .collect()
    }
}
