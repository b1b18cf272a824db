//! The smallest file that retains enough of a tuning's effect.

use super::delta::QuantizedReport;
use super::merger::Merger;
use super::retention::{RetentionCheck, RetentionScores};
use crate::decoder::{Llama, LoadOptions};
use crate::error::Result;
use crate::model::uqff::WeightType;
use candle_core::quantized::GgmlDType;
use reptune_adapters::files::Staging;
use reptune_adapters::{Error, HookedModel};
use reptune_recipes::recipe::MergeRounding;
use reptune_recipes::score::ModelVariant;
use std::path::Path;

/// A merge that was tried.
#[derive(Debug, Clone)]
pub struct TriedMerge {
    /// The type that was asked for.
    pub wanted: WeightType,
    /// How the weights were rounded.
    pub rounding: MergeRounding,
    /// What was written.
    pub report: QuantizedReport,
    /// What the merged model does.
    pub scores: RetentionScores,
    /// The share of the tuned effect that it retains.
    pub effect_retained: f64,
}

/// The merges that [`SmallestMerge`] tries, in this order: types by size, each with all of
/// `roundings`. The types are the block types of ggml where they divide the rows, else those
/// with short blocks, and afq where ggml has none.
pub fn candidates(row: usize, roundings: &[MergeRounding]) -> Vec<(WeightType, MergeRounding)> {
    use GgmlDType as G;
    use WeightType::{Afq, Ggml};
    let [q4, q5, q8] = [G::Q4_0, G::Q5_0, G::Q8_0].map(Ggml);
    let types = match row.is_multiple_of(256) {
        true => [G::Q2K, G::Q3K, G::Q4K, G::Q5K, G::Q6K, G::Q8_0].map(Ggml),
        false => [Afq(2), Afq(3), q4, q5, Afq(6), q8],
    };
    let types = types.into_iter();
    let merges = types.flat_map(|t| roundings.iter().map(move |r| (t, *r)));
    merges.collect()
}

/// A search for the smallest merge that retains enough.
pub struct SmallestMerge<'a> {
    /// Makes the merges.
    pub merger: &'a Merger<'a>,
    /// The merges to try, see [`candidates`].
    pub candidates: &'a [(WeightType, MergeRounding)],
    /// The unquantized base.
    pub model: &'a dyn HookedModel,
    /// Measures the effect. It chooses, so it should ask claims on which nothing is reported.
    pub check: &'a RetentionCheck<'a>,
    /// The least share of the tuned effect to retain.
    pub least: f64,
}

impl SmallestMerge<'_> {
    /// Merges with finer and finer types, until a merge with one type retains enough, and
    /// writes the smallest of those to `out`. Returns all merges that were tried, and the
    /// index of the one that was taken. `progress` is called before each merge with the
    /// number of merges that are done, and the name of the next.
    ///
    /// # Errors
    /// When a merge fails, or the update changes no answer of the check. Nothing is at `out`
    /// where no merge retains enough.
    pub fn write(
        &self,
        out: &Path,
        progress: &mut dyn FnMut(usize, &str),
    ) -> Result<(Vec<TriedMerge>, Option<usize>)> {
        let staging = Staging::new(out)?;
        let base = ModelVariant::base(self.model);
        let tuned = ModelVariant {
            adapter: Some(self.merger.update),
            ..base
        };
        let before = self.check.scores(&base, None)?.behaviour;
        let whole = self.check.scores(&tuned, None)?.behaviour;
        if whole.effect_retained(&before, &whole).is_none() {
            let expected = "one that changes what the model answers on the validation claims";
            let found = "one that does not, before anything is quantized";
            let hint = "tune longer, or check that the adapter is for this model and recipe";
            return Err(Error::value("adapter", expected, found, hint).into());
        }
        let enough = |merge: &TriedMerge| merge.effect_retained >= self.least;
        let place = |i: usize| staging.path().join(i.to_string());
        let mut tried: Vec<TriedMerge> = Vec::new();
        for (i, (wanted, rounding)) in self.candidates.iter().enumerate() {
            let finer = tried.last().is_some_and(|m| m.wanted != *wanted);
            if finer && tried.iter().any(enough) {
                break;
            }
            progress(i, &format!("{wanted}, {rounding}"));
            let merger = self.merger;
            let report = merger.write(*rounding, Some(*wanted), &place(i), &mut |_, _| {})?;
            let merged = Llama::load(&place(i), LoadOptions::default())?;
            let merged = ModelVariant::base(&merged);
            let scores = self.check.scores(&merged, Some(&tuned))?;
            let effect_retained = scores.behaviour.effect_retained(&before, &whole);
            tried.push(TriedMerge {
                wanted: *wanted,
                rounding: *rounding,
                report,
                effect_retained: effect_retained.unwrap_or(0.),
                scores,
            });
        }
        let good = tried.iter().enumerate().filter(|(_, m)| enough(m));
        let taken = good.min_by_key(|(_, m)| m.report.bytes).map(|(i, _)| i);
        if let Some(i) = taken {
            let rename = || {
                if out.exists() {
                    std::fs::remove_dir(out)?;
                }
                std::fs::rename(place(i), out)
            };
            rename().map_err(|e| Error::write(out, e))?;
        }
        Ok((tried, taken))
    }
}
