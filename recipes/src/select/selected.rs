//! The choice of layer, place and dose.

use super::SelectionTable;
use crate::error::Result;
use crate::extract::Extracted;
use reptune_adapters::DirectionSet;
use serde::{Deserialize, Serialize};

/// What was chosen, with the numbers that chose it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Selected {
    /// Index of the place among those of the recipe.
    pub place: usize,
    /// The place in words.
    pub rows: String,
    /// The layer.
    pub layer: usize,
    /// Fraction of the mean residual norm.
    pub fraction: f64,
    /// Multiplier of the unit direction; with the other sign for the other behaviour.
    pub coeff: f64,
    /// Mean over both signs of [`MeasuredDose::shift`](super::MeasuredDose::shift).
    pub effect: f64,
    /// Larger of the KL of both signs.
    pub kl: f64,
}

impl Selected {
    /// The chosen place's directions among `found`.
    ///
    /// # Errors
    /// When there is no such place.
    pub fn directions<'a>(&self, found: &'a [Extracted]) -> Result<&'a DirectionSet> {
        let chosen = found.get(self.place).map(|f| &f.directions);
        chosen.ok_or_else(|| {
            reptune_adapters::Error::value(
                "place",
                format!("below {}", found.len()),
                self.place.to_string(),
                "choose among these directions",
            )
            .into()
        })
    }
}

impl SelectionTable {
    /// The layer, place and dose with the largest effect: the mean shift of both signs,
    /// among fractions whose KL is at most `kl` with either sign. Of equal effects the
    /// smaller fraction, then the lower layer, then the earlier place.
    ///
    /// # Errors
    /// When no dose keeps the bound and moves answers as it should.
    pub fn choose(&self, kl: f64) -> Result<Selected> {
        let doses = self.doses();
        let fits = |c: &&Selected| c.kl <= kl && c.effect > 0.;
        let better = |a: &&Selected, b: &&Selected| {
            a.effect
                .total_cmp(&b.effect)
                .then(b.fraction.total_cmp(&a.fraction))
                .then(b.layer.cmp(&a.layer))
                .then(b.place.cmp(&a.place))
        };
        let best = doses.iter().filter(fits).max_by(better);
        best.cloned().ok_or_else(|| {
            let least = doses.iter().map(|c| c.kl).fold(f64::INFINITY, f64::min);
            let effects = doses.iter().map(|c| c.effect);
            let most = effects.fold(f64::NEG_INFINITY, f64::max);
            reptune_adapters::Error::value(
                "selection",
                format!("a dose with a KL of at most {kl} that moves answers its way"),
                format!(
                    "none of {}: least KL {least:.3}, largest effect {most:.3}",
                    doses.len()
                ),
                "try smaller fractions, a larger selection.kl, or another method or place",
            )
            .into()
        })
    }

    /// Every dose that was measured with both signs.
    fn doses(&self) -> Vec<Selected> {
        let mut doses = Vec::new();
        for c in &self.candidates {
            for up in c.doses.iter().filter(|d| d.fraction > 0.) {
                let down = c.doses.iter().find(|d| d.fraction == -up.fraction);
                doses.extend(down.map(|down| Selected {
                    place: c.place,
                    rows: c.rows.clone(),
                    layer: c.layer,
                    fraction: up.fraction,
                    coeff: up.coeff,
                    effect: (up.shift + down.shift) / 2.,
                    kl: up.kl.max(down.kl),
                }));
            }
        }
        doses
    }
}
