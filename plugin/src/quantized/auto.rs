//! The smallest file that keeps the behaviour.

use super::exam::{Exam, Grade};
use super::survival::QuantizedReport;
use super::ways::Ways;
use crate::error::Result;
use crate::llama::{Llama, LoadOptions};
use crate::uqff::WeightType;
use candle_core::quantized::GgmlDType;
use reptune_adapters::staging::Staging;
use reptune_adapters::{Host, LowRankUpdate};
use reptune_recipes::recipe::Way;
use std::path::Path;

/// A merge that was tried.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The type asked for.
    pub wanted: WeightType,
    /// How it was merged.
    pub way: Way,
    /// What was written.
    pub report: QuantizedReport,
    /// What it does.
    pub grade: Grade,
    /// Share of the tuned effect; none where tuning had no effect.
    pub kept: Option<f64>,
}

/// Types in the order of their sizes: the block types of ggml where rows are long
/// enough, else those with short blocks; and afq below four bits.
fn types(row: usize) -> Vec<WeightType> {
    use GgmlDType as G;
    let ggml: &[G] = match row.is_multiple_of(256) {
        true => &[G::Q2K, G::Q3K, G::Q4K, G::Q5K, G::Q6K, G::Q8_0],
        false => &[G::Q4_0, G::Q5_0, G::Q5_1, G::Q8_0],
    };
    let mut types: Vec<WeightType> = ggml.iter().map(|t| WeightType::Ggml(*t)).collect();
    if !row.is_multiple_of(256) {
        types.splice(0..0, [WeightType::Afq(2), WeightType::Afq(3)]);
    }
    types
}

/// Every merge that [`auto`] may try, in the order in which it does.
pub fn candidates(row: usize) -> Vec<(WeightType, Way)> {
    let ways = [Way::Nearest, Way::Calibrated, Way::Kept];
    let each = types(row).into_iter();
    each.flat_map(|t| ways.map(|w| (t, w))).collect()
}

/// Merges with ever finer types until one file keeps `least` of the tuned effect, and
/// puts that one at `out`. Returns all that were tried, and which was taken: the smallest
/// of those of the first type that is fine enough.
///
/// `exam` should ask claims that nothing is reported on: it chooses.
///
/// # Errors
/// When a merge fails. Nothing is at `out` where none was good enough.
pub fn auto(
    ways: &Ways,
    (host, exam): (&dyn Host, &Exam),
    least: f64,
    out: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<(Vec<Candidate>, Option<usize>)> {
    let staging = Staging::new(out)?;
    let tuned = (host, Some(ways.update as &LowRankUpdate));
    let base = exam.grade((host, None), None)?.behaviour;
    let whole = exam.grade(tuned, None)?.behaviour;
    let all = candidates(ways.source.spec.hidden);
    let mut tried: Vec<Candidate> = Vec::new();
    for (i, (wanted, way)) in all.iter().enumerate() {
        progress(i, all.len());
        let good = |c: &Candidate| c.kept.is_some_and(|k| k >= least);
        let finer = tried.last().is_some_and(|c| c.wanted != *wanted);
        if finer && tried.iter().any(good) {
            break;
        }
        let place = staging.path().join(i.to_string());
        let report = ways.write(*way, Some(*wanted), &place, &mut |_, _| {})?;
        let merged = Llama::load(&place, LoadOptions::default())?;
        let grade = exam.grade((&merged, None), Some(tuned))?;
        tried.push(Candidate {
            wanted: *wanted,
            way: *way,
            report,
            kept: grade.behaviour.kept(&base, &whole),
            grade,
        });
    }
    let good = tried.iter().enumerate();
    let good = good.filter(|(_, c)| c.kept.is_some_and(|k| k >= least));
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
