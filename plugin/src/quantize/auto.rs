//! The smallest file that keeps the behaviour.

use super::exam::{Exam, Grade};
use super::survival::QuantizedReport;
use super::ways::Ways;
use crate::decoder::{Llama, LoadOptions};
use crate::error::Result;
use crate::model::uqff::WeightType;
use candle_core::quantized::GgmlDType;
use reptune_adapters::files::Staging;
use reptune_adapters::{Adapter, HookedModel};
use reptune_recipes::recipe::MergeRounding;
use std::path::Path;

/// A merge that was tried.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The type asked for.
    pub wanted: WeightType,
    /// How it was merged.
    pub way: MergeRounding,
    /// What was written.
    pub report: QuantizedReport,
    /// What it does.
    pub grade: Grade,
    /// Share of the tuned effect.
    pub kept: f64,
}

/// Types in the order of their sizes: the block types of ggml where rows are long
/// enough, else those with short blocks, and afq where ggml has none.
fn types(row: usize) -> [WeightType; 6] {
    use GgmlDType as G;
    use WeightType::{Afq, Ggml};
    match row.is_multiple_of(256) {
        true => [G::Q2K, G::Q3K, G::Q4K, G::Q5K, G::Q6K, G::Q8_0].map(Ggml),
        false => [
            Afq(2),
            Afq(3),
            Ggml(G::Q4_0),
            Ggml(G::Q5_0),
            Afq(6),
            Ggml(G::Q8_0),
        ],
    }
}

/// Every merge that [`auto`] may try, in the order in which it does: types by size, each in
/// all of `ways`.
pub fn candidates(row: usize, ways: &[MergeRounding]) -> Vec<(WeightType, MergeRounding)> {
    let each = types(row).into_iter();
    each.flat_map(|t| ways.iter().map(move |w| (t, *w)))
        .collect()
}

/// Makes `merges` with ever finer types until one file keeps `least` of the tuned effect, and
/// puts that one at `out`. Returns all that were tried, and which was taken: the smallest
/// of those of the first type that is fine enough.
///
/// `progress` hears how many are done, and what is next.
/// `exam` should ask claims that nothing is reported on: it chooses.
///
/// # Errors
/// When a merge fails, or the update changes nothing that the exam asks. Nothing is at `out` where none was good enough.
pub fn auto(
    (ways, merges): (&Ways, &[(WeightType, MergeRounding)]),
    (host, exam): (&dyn HookedModel, &Exam),
    least: f64,
    out: &Path,
    progress: &mut dyn FnMut(usize, &str),
) -> Result<(Vec<Candidate>, Option<usize>)> {
    let staging = Staging::new(out)?;
    let tuned = (host, Some(ways.update as &Adapter));
    let base = exam.grade((host, None), None)?.behaviour;
    let whole = exam.grade(tuned, None)?.behaviour;
    if whole.effect_retained(&base, &whole).is_none() {
        return Err(reptune_adapters::Error::value(
            "adapter",
            "one that changes what the model answers on the validation claims",
            "one that does not, before anything is quantized",
            "tune longer, or check that the adapter is for this model and recipe",
        )
        .into());
    }
    let mut tried: Vec<Candidate> = Vec::new();
    for (i, (wanted, way)) in merges.iter().enumerate() {
        let good = |c: &Candidate| c.kept >= least;
        let finer = tried.last().is_some_and(|c| c.wanted != *wanted);
        if finer && tried.iter().any(good) {
            break;
        }
        progress(i, &format!("{wanted}, {way}"));
        let place = staging.path().join(i.to_string());
        let report = ways.write(*way, Some(*wanted), &place, &mut |_, _| {})?;
        let merged = Llama::load(&place, LoadOptions::default())?;
        let grade = exam.grade((&merged, None), Some(tuned))?;
        let kept = grade.behaviour.effect_retained(&base, &whole).unwrap_or(0.);
        tried.push(Candidate {
            wanted: *wanted,
            way: *way,
            report,
            kept,
            grade,
        });
    }
    let good = tried.iter().enumerate();
    let good = good.filter(|(_, c)| c.kept >= least);
    let taken = good.min_by_key(|(_, c)| c.report.bytes).map(|(i, _)| i);
    if let Some(i) = taken {
        take(&staging.path().join(i.to_string()), out)?;
    }
    Ok((tried, taken))
}

/// Gives the finished directory `from` its name.
fn take(from: &Path, out: &Path) -> Result<()> {
    let attempt = || {
        if out.exists() {
            std::fs::remove_dir(out)?;
        }
        std::fs::rename(from, out)
    };
    attempt().map_err(|e| reptune_adapters::Error::write(out, e).into())
}
