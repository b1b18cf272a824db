//! From rows to a direction.

use super::contrast::Contrast;
use super::nuisance::Nuisance;
use super::{pca, probe};
use crate::error::Result;
use crate::recipe::{Method, On};
use reptune_adapters::Direction;

impl Method {
    /// The direction of `contrast` by this method, `without` a nuisance.
    ///
    /// - mean difference: `d = mean_p (h_positive[p] - h_negative[p])`
    /// - PCA: the component of the rows about their mean, or of the differences about
    ///   zero, with the sign under which most positives project higher; its norm is
    ///   the standard deviation along it
    /// - probe: `w` of `sigmoid(w . h + b)`, fitted to positive (1) and negative (0) rows
    ///
    /// A nuisance n (unit) is taken out last: `d - (d . n) n`. The result is of unit
    /// L2, its norm before is kept beside it. These are the ways of section 2 of
    /// Representation Tuning (arXiv 2409.06927).
    ///
    /// # Errors
    /// When there is no such component, its sign is a tie, a fit does not settle, or
    /// nothing is left without the nuisance.
    pub fn direction(&self, contrast: &Contrast, without: Option<&Nuisance>) -> Result<Direction> {
        let found = match self {
            Self::MeanDifference => mean_difference(contrast),
            Self::Pca(pca) => contrast.turned(pca::component(contrast, *pca)?)?,
            Self::Probe(probe) => probe::weights(contrast, *probe)?,
        };
        let found = match without {
            Some(nuisance) => nuisance.removed(found)?,
            None => found,
        };
        Ok(Direction::new(&found)?)
    }

    /// The method in words, for provenance.
    pub(super) fn words(&self) -> String {
        match self {
            Self::MeanDifference => "mean difference".into(),
            Self::Pca(pca) => {
                let of = match pca.on {
                    On::Raw => "rows",
                    On::Differences => "differences",
                };
                format!("principal component {} of {of}", pca.component)
            }
            Self::Probe(probe) => format!("logistic probe with l2 {}", probe.l2),
        }
    }
}

/// Differences in single precision, their sum in double, in the order of the pairs.
fn mean_difference(contrast: &Contrast) -> Vec<f64> {
    let mut sums = vec![0f64; contrast.hidden()];
    for difference in contrast.differences() {
        for (sum, d) in sums.iter_mut().zip(&difference) {
            *sum += f64::from(*d);
        }
    }
    let pairs = contrast.pairs() as f64;
    sums.iter().map(|s| s / pairs).collect()
}
