//! A sweep: layers x doses x {plus, minus, ablate}, scored by the answer letters.
//!
//! Nothing is generated. A question's score is the log-odds of its true label over
//! the other at the last prompt row, so a cell of the grid is one forward of the
//! questions, and begins at the steered layer: the rows below are computed once for all
//! doses and signs. Every cell is a line of a file as soon as it is known, and a cell that
//! stands there is not computed again.
//!
//! A cell's key is a hash of all it depends on. The weights among that are told by
//! what the model answers unsteered: those scores are computed first in every run
//! (they are the base of the comparison anyway) and go into every key, so the lines
//! of another model, quantization or low-rank update are never taken for this one's.

mod file;
mod questions;

pub use questions::Asked;

use crate::error::{Error, Result};
use file::{append, resume};
use questions::{Below, Questions, batches, score};
use reptune_adapters::{
    Adapter, DirectionSet, Dose, HookedModel, Intervention, Operator, Positions, files,
};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What is done with the direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// It is added.
    Plus,
    /// Its negative is added.
    Minus,
    /// The projection on it is removed; once for all doses.
    Ablate,
}

/// The grid.
#[derive(Clone, Copy)]
pub struct Grid<'a> {
    /// The directions.
    pub directions: &'a DirectionSet,
    /// Sets of layers; each is steered together.
    pub layers: &'a [Vec<usize>],
    /// Doses, above 0: the way gives the sign.
    pub doses: &'a [Dose],
    /// What is done.
    pub ways: &'a [Way],
    /// Rows that are acted on.
    pub rows: &'a Positions,
    /// Low-rank updates of the model.
    pub adapter: Option<&'a Adapter>,
}

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// SHA-256 of what the scores depend on.
    pub key: String,
    /// Layers; none of the unsteered model.
    pub layers: Vec<usize>,
    /// What was done; none: nothing.
    pub way: Option<Way>,
    /// Signed coeff over all layers; 0 of an ablation.
    pub coeff: f64,
    /// The same as a signed fraction of the mean residual norm at each layer, if the
    /// directions know that norm.
    pub fraction: Option<f64>,
    /// Per question, ln p(true label) - ln p(other label); none where it is no number.
    pub log_odds: Vec<Option<f32>>,
    /// Mean of the log-odds that are numbers.
    pub mean: f64,
    /// Questions on which the true label is larger.
    pub honest: usize,
    /// Questions on which the other label is larger.
    pub lie: usize,
}

/// Scores every cell of `grid` on `asked`, the unsteered model first; cells that
/// stand in `file` are taken from there, others are appended as they are known.
/// `progress` is called with the cells done and their number.
///
/// # Errors
/// When the grid or a question cannot be, a layer has no direction, a line of the
/// file is no cell, or the model fails. An unfinished last line is dropped.
pub fn sweep(
    host: &dyn HookedModel,
    grid: &Grid,
    asked: &[Asked],
    file: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Cell>> {
    let plans = plans(grid)?;
    for plan in &plans {
        // A layer without a direction is found before the first forward.
        plan.intervention(grid)?;
    }
    let questions = Questions {
        host,
        asked,
        batches: batches(asked, grid.rows)?,
        adapter: grid.adapter,
    };
    let mut below = Below::default();
    let known = resume(file)?;
    let total = plans.len() + 1;
    let unsteered = score(&questions, &[], &mut below)?;
    let base = Plan {
        layers: &[],
        way: None,
        coeff: 0.,
        fraction: Some(0.),
    };
    let inputs = inputs(asked, &unsteered, grid);
    let mut cells = vec![base.cell(base.key(&inputs, grid), unsteered)];
    if !known.contains_key(&cells[0].key) {
        append(file, &cells[0])?;
    }
    progress(1, total);
    for plan in &plans {
        let key = plan.key(&inputs, grid);
        let cell = match known.get(&key) {
            Some(scores) => plan.cell(key, scores.clone()),
            None => {
                let steering = [plan.intervention(grid)?];
                let scores = score(&questions, &steering, &mut below)?;
                let cell = plan.cell(key, scores);
                append(file, &cell)?;
                cell
            }
        };
        cells.push(cell);
        progress(cells.len(), total);
    }
    Ok(cells)
}

/// Log-odds by question; none where it is no number.
type Scores = Vec<Option<f32>>;

/// What one cell does.
struct Plan<'a> {
    layers: &'a [usize],
    way: Option<Way>,
    coeff: f64,
    fraction: Option<f64>,
}

impl Plan<'_> {
    fn intervention(&self, grid: &Grid) -> Result<Intervention> {
        let operator = match self.way {
            Some(Way::Ablate) => Operator::Ablate,
            _ => Operator::Add,
        };
        let all = Intervention::new(
            grid.directions,
            self.layers,
            Dose::Total(self.coeff),
            operator,
        )?;
        Ok(all.on(grid.rows.clone()))
    }

    fn key(&self, inputs: &str, grid: &Grid) -> String {
        let what = format!(
            "{inputs} {:?} {:?} {:016x}",
            self.way,
            self.layers,
            self.coeff.to_bits()
        );
        let directions: Vec<u8> = self
            .layers
            .iter()
            .filter_map(|l| grid.directions.layers.get(l))
            .flat_map(|d| d.unit.iter().flat_map(|x| x.to_le_bytes()))
            .collect();
        files::sha256([what.as_bytes(), &directions])
    }

    fn cell(&self, key: String, log_odds: Scores) -> Cell {
        let numbers: Vec<f64> = log_odds.iter().flatten().map(|x| f64::from(*x)).collect();
        Cell {
            key,
            layers: self.layers.to_vec(),
            way: self.way,
            coeff: self.coeff,
            fraction: self.fraction,
            mean: numbers.iter().sum::<f64>() / numbers.len().max(1) as f64,
            honest: numbers.iter().filter(|x| **x > 0.).count(),
            lie: numbers.iter().filter(|x| **x < 0.).count(),
            log_odds,
        }
    }
}

fn plans<'a>(grid: &Grid<'a>) -> Result<Vec<Plan<'a>>> {
    let mut plans = Vec::new();
    for layers in grid.layers {
        if layers.is_empty() {
            return Err(wrong("layers", "at least one layer in each set", "none"));
        }
        // What a fraction of 1 at each of them is as a coeff.
        let whole = grid.directions.natural_coeff(layers, layers.len() as f64);
        for &way in grid.ways {
            if way == Way::Ablate {
                plans.push(Plan {
                    layers,
                    way: Some(way),
                    coeff: 0.,
                    fraction: None,
                });
                continue;
            }
            let sign = if way == Way::Minus { -1. } else { 1. };
            for dose in grid.doses {
                let amount = dose.amount();
                if !(amount > 0. && amount.is_finite()) {
                    let found = amount.to_string();
                    return Err(wrong(
                        "dose",
                        "a positive number: the way is its sign",
                        found,
                    ));
                }
                let total = match *dose {
                    Dose::Total(total) => total,
                    Dose::Coeff(each) => each * layers.len() as f64,
                    Dose::Fraction(f) => match &whole {
                        Ok(whole) => f * whole,
                        Err(_) => grid.directions.natural_coeff(layers, f)?,
                    },
                    Dose::Strength(_) => {
                        let found = "a strength of the vectors as stored";
                        return Err(wrong("dose", "a total, a coeff or a fraction", found));
                    }
                };
                let fraction = match (*dose, &whole) {
                    (Dose::Fraction(f), _) => Some(sign * f),
                    (_, Ok(whole)) => Some(sign * total / whole),
                    (_, Err(_)) => None,
                };
                plans.push(Plan {
                    layers,
                    way: Some(way),
                    coeff: sign * total,
                    fraction,
                });
            }
        }
    }
    Ok(plans)
}

fn wrong(what: &str, expected: &str, found: impl Into<String>) -> Error {
    reptune_adapters::Error::value(what, expected, found, "mend the grid of the sweep").into()
}

/// A hash of what all cells depend on.
fn inputs(asked: &[Asked], unsteered: &[Option<f32>], grid: &Grid) -> String {
    let questions = asked.iter().flat_map(|q| {
        let length = q.prompt.len() as u32;
        let ends = [q.labels[0], q.labels[1], q.right as u32];
        let numbers = std::iter::once(length).chain(q.prompt.iter().copied());
        numbers.chain(ends).flat_map(u32::to_le_bytes)
    });
    let questions: Vec<u8> = questions.collect();
    let scores = unsteered.iter().map(|x| x.map_or(u32::MAX, f32::to_bits));
    let scores: Vec<u8> = scores.flat_map(u32::to_le_bytes).collect();
    let rows = grid.rows.to_string();
    files::sha256([questions.as_slice(), &scores, rows.as_bytes()])
}
