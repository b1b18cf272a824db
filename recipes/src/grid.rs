//! A grid of steering: places x layers x doses x signs, each cell with its scores.
//!
//! A cell is a line of a file as soon as it is measured, and is not measured again if it
//! stands there. Its key is a hash of all it depends on.

use crate::error::{Error, Result};
use crate::json_lines;
use reptune_adapters::model::prefix_tree::TokenMask;
use reptune_adapters::{DirectionSet, Dose, Intervention, Operator, Positions, files};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::Path;

/// What is done with the direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SteeringKind {
    /// It is added.
    Plus,
    /// Its negative is added.
    Minus,
    /// The projection on it is removed; once for all doses.
    Ablate,
}

/// What is tried.
#[derive(Clone, Copy)]
pub struct SteeringGrid<'a> {
    /// The directions of each place.
    pub directions: &'a [&'a DirectionSet],
    /// Sets of layers; the layers of a set are steered together.
    pub layers: &'a [Vec<usize>],
    /// Doses above 0: the kind gives the sign.
    pub doses: &'a [Dose],
    /// What is done.
    pub kinds: &'a [SteeringKind],
    /// The tokens that are acted on.
    pub positions: &'a Positions,
}

/// One steering of a grid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GridCell {
    /// Index of the directions among those of the grid.
    #[serde(default)]
    pub place: usize,
    /// Layers; none of the unsteered model.
    pub layers: Vec<usize>,
    /// What was done; `None` of the unsteered model.
    #[serde(rename = "way")]
    pub kind: Option<SteeringKind>,
    /// Signed total of the coefficients of all layers; 0 of an ablation.
    #[serde(alias = "coeff")]
    pub total: f64,
    /// The same as a signed fraction of the mean residual norm at each layer, if the
    /// directions know that norm.
    pub fraction: Option<f64>,
}

/// A cell and what was measured there: one line of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MeasuredCell<S> {
    /// SHA-256 of all that the scores depend on.
    pub key: String,
    /// The steering.
    #[serde(flatten)]
    pub cell: GridCell,
    /// Its scores.
    #[serde(flatten)]
    pub scores: S,
}

impl GridCell {
    /// The model without steering.
    pub(crate) fn unsteered() -> Self {
        Self {
            place: 0,
            layers: Vec::new(),
            kind: None,
            total: 0.,
            fraction: Some(0.),
        }
    }
}

/// Total, and fraction where it is known, of a dose.
type Amount = (f64, Option<f64>);

impl SteeringGrid<'_> {
    /// All cells, by place, layers, kind and dose.
    ///
    /// # Errors
    /// When a set of layers is empty, a direction or a residual norm is missing, or a dose
    /// is not positive.
    pub fn cells(&self) -> Result<Vec<GridCell>> {
        let mut cells = Vec::new();
        for (place, set) in self.directions.iter().enumerate() {
            for layers in self.layers {
                if layers.is_empty() {
                    return Err(wrong("layers", "at least one layer in each set", "none"));
                }
                for &kind in self.kinds {
                    let doses = match kind {
                        SteeringKind::Ablate => vec![(0., None)],
                        SteeringKind::Plus => self.totals(set, layers, 1.)?,
                        SteeringKind::Minus => self.totals(set, layers, -1.)?,
                    };
                    cells.extend(doses.into_iter().map(|(total, fraction)| GridCell {
                        place,
                        layers: layers.clone(),
                        kind: Some(kind),
                        total,
                        fraction,
                    }));
                }
            }
        }
        for cell in &cells {
            // A layer without a direction is found before the first forward.
            self.intervention(cell)?;
        }
        Ok(cells)
    }

    fn totals(&self, set: &DirectionSet, layers: &[usize], sign: f64) -> Result<Vec<Amount>> {
        // The total of a fraction of 1 at each layer.
        let whole = || set.natural_coeff(layers, layers.len() as f64);
        let dose = |dose: &Dose| {
            let amount = dose.amount();
            if !(amount > 0. && amount.is_finite()) {
                let expected = "a positive number: the kind gives the sign";
                return Err(wrong("dose", expected, amount.to_string()));
            }
            let total = match *dose {
                Dose::Total(total) => total,
                Dose::Coeff(each) => each * layers.len() as f64,
                Dose::Fraction(fraction) => fraction * whole()?,
                Dose::Strength(_) => {
                    let found = "a strength of the vectors as stored";
                    return Err(wrong("dose", "a total, a coeff or a fraction", found));
                }
            };
            let fraction = match *dose {
                Dose::Fraction(fraction) => Some(sign * fraction),
                _ => whole().ok().map(|whole| sign * total / whole),
            };
            Ok((sign * total, fraction))
        };
        self.doses.iter().map(dose).collect()
    }

    /// The steering of `cell`.
    pub fn intervention(&self, cell: &GridCell) -> Result<Intervention> {
        let operator = match cell.kind {
            Some(SteeringKind::Ablate) => Operator::Ablate,
            _ => Operator::Add,
        };
        let set = self.directions[cell.place];
        let all = Intervention::new(set, &cell.layers, Dose::Total(cell.total), operator)?;
        Ok(all.on(self.positions.clone()))
    }

    /// The token mask at a position after a prompt of some length, in every cell.
    pub(crate) fn mask(&self) -> impl Fn(usize, usize) -> TokenMask {
        |position, prompt| TokenMask::from(self.positions.chooses(position, prompt))
    }

    /// The key of `cell`, when all cells depend on `inputs`.
    pub(crate) fn key(&self, inputs: &str, cell: &GridCell) -> String {
        let (kind, layers, total) = (cell.kind, &cell.layers, cell.total.to_bits());
        let what = format!("{inputs} {kind:?} {layers:?} {total:016x}");
        let set = self.directions[cell.place];
        let directions = layers.iter().filter_map(|l| set.layers.get(l));
        let numbers = directions.flat_map(|d| &d.unit);
        let bytes: Vec<u8> = numbers.flat_map(|x| x.to_le_bytes()).collect();
        files::sha256([what.as_bytes(), &bytes])
    }

    /// Measures every one of `cells`, or takes it from `file` if it stands there. `inputs`
    /// is a hash of what all cells depend on besides their own steering. `progress` is
    /// called after each cell with the number done.
    pub(crate) fn measure<S: Clone + Serialize + DeserializeOwned>(
        &self,
        cells: Vec<GridCell>,
        (file, inputs): (&Path, &str),
        measure: &mut dyn FnMut(&GridCell) -> Result<S>,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<MeasuredCell<S>>> {
        let hint = "remove the line, or name another file";
        let lines: Vec<MeasuredCell<S>> = json_lines::read(file, "a cell of a grid", hint)?;
        let lines = lines.into_iter().map(|line| (line.key, line.scores));
        let known: HashMap<String, S> = lines.collect();
        let mut measured = Vec::with_capacity(cells.len());
        for cell in cells {
            let key = self.key(inputs, &cell);
            let (scores, new) = match known.get(&key) {
                Some(scores) => (scores.clone(), false),
                None => (measure(&cell)?, true),
            };
            let cell = MeasuredCell { key, cell, scores };
            if new {
                json_lines::append(file, &cell)?;
            }
            measured.push(cell);
            progress(measured.len());
        }
        Ok(measured)
    }
}

fn wrong(what: &str, expected: &str, found: impl Into<String>) -> Error {
    Error::value(what, expected, found, "correct the grid of the sweep")
}
