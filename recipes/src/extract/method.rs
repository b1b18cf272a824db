//! From rows to a direction, and what is projected out of it.
//!
//! To add a method: add a variant to [`ExtractionMethod`] with its settings, and an arm to
//! each function here.

use super::contrast::{Contrast, PairSums};
use super::{pca, probe};
use crate::error::{Error, Result};
use crate::recipe::{ExtractionMethod, PcaRows};
use reptune_adapters::Direction;

impl ExtractionMethod {
    /// The direction of `contrast` by this method, `without` a nuisance.
    ///
    /// - mean difference: `d = mean_p (h_positive[p] - h_negative[p])`
    /// - PCA: the component of the rows about their mean, or of the differences about
    ///   zero, with the sign under which most positives project higher; its norm is
    ///   the standard deviation along it
    /// - probe: `w` of `sigmoid(w . h + b)`, fitted to positive (1) and negative (0) rows
    ///
    /// A nuisance n (unit) is projected out last: `d - (d . n) n`. The result is of unit
    /// L2 norm; its norm before is kept with it. These are the methods of section 2 of
    /// Representation Tuning (arXiv 2409.06927).
    ///
    /// # Errors
    /// When there is no such component, its sign is a tie, a fit does not converge, or
    /// nothing is left without the nuisance.
    pub fn direction(&self, contrast: &Contrast, without: Option<&Nuisance>) -> Result<Direction> {
        let found = match self {
            Self::MeanDifference => contrast.sums().mean_difference(),
            Self::Pca(pca) => contrast.oriented(pca::component(contrast, *pca)?)?,
            Self::Probe(probe) => probe::weights(contrast, *probe)?,
        };
        let found = match without {
            Some(nuisance) => nuisance.removed(found)?,
            None => found,
        };
        Ok(Direction::new(&found)?)
    }

    /// The direction (H,) of sums over pairs; none where this method needs the pairs.
    pub(super) fn of_sums(&self) -> Option<fn(&PairSums) -> Vec<f64>> {
        match self {
            Self::MeanDifference => Some(PairSums::mean_difference),
            Self::Pca(_) | Self::Probe(_) => None,
        }
    }

    /// The method in words, for provenance.
    pub(super) fn words(&self) -> String {
        match self {
            Self::MeanDifference => "mean difference".into(),
            Self::Pca(pca) => {
                let of = match pca.on {
                    PcaRows::Raw => "rows",
                    PcaRows::Differences => "differences",
                };
                format!("principal component {} of {of}", pca.component)
            }
            Self::Probe(probe) => format!("logistic probe with l2 {}", probe.l2),
        }
    }
}

/// A unit vector that is projected out of directions.
#[derive(Debug, Clone, PartialEq)]
pub struct Nuisance {
    unit: Vec<f64>,
}

impl Nuisance {
    /// The nuisance along `v` (H,).
    ///
    /// # Errors
    /// When its norm is zero or not finite.
    pub fn new(v: &[f64]) -> Result<Self> {
        Direction::new(v)?;
        let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt();
        Ok(Self {
            unit: v.iter().map(|x| x / norm).collect(),
        })
    }

    /// The direction of the answer token: over the positive and the negative
    /// persona, the mean of
    /// `mean(rows that end in answer token 0) - mean(rows that end in answer token 1)`.
    ///
    /// Within a persona an answer token goes with the truth of the claim; over both
    /// personas that cancels and the answer token is left.
    ///
    /// Shapes: `answers` (P, 2): 0 or 1, of the positive and the negative row.
    ///
    /// # Errors
    /// When a persona always ends in the same answer token.
    pub fn answer_token(contrast: &Contrast, answers: &[[usize; 2]]) -> Result<Self> {
        let mut sum = vec![0f64; contrast.hidden()];
        for side in [0, 1] {
            let count = |label: usize| answers.iter().filter(|l| l[side] == label).count();
            let counts = [count(0), count(1)];
            if counts.contains(&0) || answers.len() != contrast.pairs() {
                let expected =
                    "for each persona rows that end in the first answer token and in the second";
                let (pairs, [first, second]) = (contrast.pairs(), counts);
                let found = format!("{first} and {second} of {pairs} pairs");
                let hint = "give more pairs, or `keep = \"all\"`";
                return Err(Error::value("extraction.without", expected, found, hint));
            }
            let mut add = |(row, answers): (&[f32], &[usize; 2])| {
                let label = answers[side].min(1);
                let weight = [0.5, -0.5][label] / counts[label] as f64;
                for (s, x) in sum.iter_mut().zip(row) {
                    *s += weight * f64::from(*x);
                }
            };
            match side {
                0 => contrast.positive().zip(answers).for_each(&mut add),
                _ => contrast.negative().zip(answers).for_each(&mut add),
            }
        }
        Self::new(&sum)
    }

    /// `v - (v . n) n`. Shapes: `v` (H,), result (H,).
    ///
    /// # Errors
    /// When the widths differ, or hardly anything of `v` is left.
    pub fn removed(&self, v: Vec<f64>) -> Result<Vec<f64>> {
        let what = "extraction.without";
        if v.len() != self.unit.len() {
            let expected = format!("a direction of width {}", v.len());
            let (found, hint) = (self.unit.len().to_string(), "use directions of this model");
            return Err(Error::value(what, expected, found, hint));
        }
        let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
        let before = norm(&v);
        let pairs = || v.iter().zip(&self.unit);
        let along: f64 = pairs().map(|(x, n)| x * n).sum();
        let left: Vec<f64> = pairs().map(|(x, n)| x - along * n).collect();
        if norm(&left) <= 1e-6 * before {
            let expected = "a direction that is more than the nuisance";
            let found = format!("{:e} of it left", norm(&left) / before);
            let hint = "give another nuisance, or none";
            return Err(Error::value(what, expected, found, hint));
        }
        Ok(left)
    }
}
