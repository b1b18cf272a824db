//! From rows to a direction.
//!
//! To add a method: add a variant to [`ExtractionMethod`] with its settings, and an arm to
//! each function here.

use super::contrast::Contrast;
use super::nuisance::Nuisance;
use super::pair_sums::PairSums;
use super::{pca, probe};
use crate::error::Result;
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
    /// L2 norm; its norm before is kept beside it. These are the methods of section 2 of
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
