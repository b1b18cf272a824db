//! Choosing layer, place and dose of a direction on validation data only.
//!
//! A direction may order all pairs and yet do nothing when it is added. So every layer and
//! place is measured on both, and the choice rests on what adding does: of all doses
//! that keep neutral text as it was, the one that moves answers most.

mod doses;
#[cfg(test)]
mod tests;

pub use doses::SelectionInputs;

use crate::error::{Error, Result};
use crate::grid::{MeasuredCell, SteeringGrid, SteeringKind};
use doses::{DoseScores, Doses};
use reptune_adapters::{DirectionSet, Dose};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What adding a direction with some coeff does.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MeasuredDose {
    /// Signed fraction of the mean residual norm.
    pub fraction: f64,
    /// The same as a multiplier of the unit direction.
    pub coeff: f64,
    /// Mean shift of the log-odds of the positive answer, times the sign of the coeff.
    pub shift: f64,
    /// `shift / |fraction|`.
    pub per_fraction: f64,
    /// Mean KL(base || steered) of the next token on neutral text, in nats.
    pub kl: f64,
}

/// A layer and place, with all that was measured there on validation data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SteeringCandidate {
    /// Index of the place among those of the recipe.
    pub place: usize,
    /// The place in words.
    pub rows: String,
    /// The layer (output of block i, 0-based).
    pub layer: usize,
    /// Share of pairs whose positive row projects higher.
    pub ordered: f64,
    /// Mean cosine of positive rows with the direction.
    pub positive: f64,
    /// Mean cosine of negative rows with the direction.
    pub negative: f64,
    /// Every dose, each fraction with both signs; none for a layer that may not be chosen.
    pub doses: Vec<MeasuredDose>,
}

/// Every layer and place, measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SelectionTable {
    /// By place, then by layer.
    pub candidates: Vec<SteeringCandidate>,
}

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
    /// Mean over both signs of [`MeasuredDose::shift`].
    pub effect: f64,
    /// Larger of the KL of both signs.
    pub kl: f64,
}

/// Measures the directions of every place on held-out claims: how they order rows, and
/// what adding them does to the answers and to neutral text. Doses that stand in `file`
/// are taken from there; others are appended as they are measured. `progress` is called
/// with the number of doses done and of all.
///
/// # Errors
/// When a layer does not exist, directions and held-out rows are of other places, a line of
/// the file is not a cell, or the model fails.
pub fn select(
    inputs: SelectionInputs,
    file: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<SelectionTable> {
    let (model, recipe, found) = (inputs.model, inputs.recipe, inputs.found);
    let settings = recipe.selection.clone().unwrap_or_default();
    let layers = model.spec().layers;
    let eligible = settings.eligible(layers);
    model.spec().check_layers(&eligible)?;
    let places = places(inputs)?;
    let sets: Vec<&DirectionSet> = found.iter().map(|f| &f.directions).collect();
    let each: Vec<Vec<usize>> = eligible.iter().map(|layer| vec![*layer]).collect();
    let fractions = settings.fractions.iter().copied();
    let fractions: Vec<Dose> = fractions.map(Dose::Fraction).collect();
    let grid = SteeringGrid {
        directions: &sets,
        layers: &each,
        doses: &fractions,
        kinds: &[SteeringKind::Plus, SteeringKind::Minus],
        positions: &recipe.steering.positions,
    };
    let cells = grid.cells()?;
    let all = cells.len();
    let mut doses = Doses::new(inputs, &settings)?;
    let key = doses.inputs(&recipe.steering.positions);
    let mut measure = |cell: &_| doses.measure(&grid, cell);
    let mut progress = |done| progress(done, all);
    let measured = grid.measure(cells, (file, &key), &mut measure, &mut progress)?;
    let mut candidates = Vec::new();
    for (place, rows) in places.into_iter().enumerate() {
        for layer in 0..layers {
            let contrast = inputs.held_out.contrast(place, layer)?;
            let direction = sets[place].layer(layer)?;
            let (positive, negative) = contrast.cosines(direction);
            candidates.push(SteeringCandidate {
                place,
                rows: rows.clone(),
                layer,
                ordered: contrast.ordered(direction),
                positive,
                negative,
                doses: of_layer(&measured, place, layer, &settings.fractions),
            });
        }
    }
    Ok(SelectionTable { candidates })
}

/// The doses of one layer and place, each fraction with both signs.
fn of_layer(
    measured: &[MeasuredCell<DoseScores>],
    place: usize,
    layer: usize,
    fractions: &[f64],
) -> Vec<MeasuredDose> {
    let signed = fractions.iter().flat_map(|fraction| [*fraction, -fraction]);
    let dose = |fraction: f64| {
        let this = |m: &&MeasuredCell<DoseScores>| {
            m.cell.place == place && m.cell.layers == [layer] && m.cell.fraction == Some(fraction)
        };
        let MeasuredCell { cell, scores, .. } = measured.iter().find(this)?;
        Some(MeasuredDose {
            fraction,
            coeff: cell.total, // of one layer
            shift: scores.shift,
            per_fraction: scores.shift / fraction.abs(),
            kl: scores.kl,
        })
    };
    signed.filter_map(dose).collect()
}

/// The places in words; the directions and the held-out rows must be of the same ones.
fn places(inputs: SelectionInputs) -> Result<Vec<String>> {
    let held_out = inputs.held_out.positions.iter();
    let held_out: Vec<String> = held_out.map(|p| p.to_string()).collect();
    let sets = inputs.found.iter().map(|f| &f.directions.provenance.rows);
    if sets.clone().eq(&held_out) {
        return Ok(held_out);
    }
    let sets: Vec<_> = sets.collect();
    let expected = format!("the places of the directions, {sets:?}");
    let (found, hint) = (format!("{held_out:?}"), "capture both with one recipe");
    Err(Error::value("held-out rows", expected, found, hint))
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
            let expected =
                format!("a dose with a KL of at most {kl} that moves answers towards its sign");
            let n = doses.len();
            let found = format!("none of {n}: least KL {least:.3}, largest effect {most:.3}");
            let hint = "try smaller fractions, a larger selection.kl, or another method or place";
            Error::value("selection", expected, found, hint)
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
