//! A sweep: sets of layers x doses x {plus, minus, ablate}, scored by the log-odds of
//! choices.
//!
//! Nothing is generated. A cell of the grid is one forward of the choices, and begins at
//! the steered layer: the activations there are computed once for all doses and signs.
//!
//! What the unsteered model answers is computed in every run and is part of every cell's key:
//! lines of another model, quantization or adapter are never taken for those of this one.

use crate::activation_cache::ActivationCache;
use crate::error::{Error, Result};
use crate::grid::{GridCell, MeasuredCell, SteeringGrid};
use crate::score::{Choice, ModelVariant, PackedChoices};
use reptune_adapters::files;
use reptune_report::Outcomes;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The scores of some choices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "LogOdds")]
pub struct ChoiceScores {
    /// Log-odds of every choice; `None` where it is not a finite number.
    pub log_odds: Vec<Option<f32>>,
    /// Mean of the finite log-odds.
    pub mean: f64,
    /// Which response is likelier. Equal ones, and log-odds that are not finite, are
    /// unscored.
    pub outcomes: Outcomes,
}

/// What the other scores follow from.
#[derive(Deserialize)]
struct LogOdds {
    log_odds: Vec<Option<f32>>,
}

impl From<LogOdds> for ChoiceScores {
    fn from(LogOdds { log_odds }: LogOdds) -> Self {
        Self::of(log_odds)
    }
}

impl ChoiceScores {
    /// The scores that follow from `log_odds`.
    pub fn of(log_odds: Vec<Option<f32>>) -> Self {
        let numbers: Vec<f64> = log_odds.iter().flatten().map(|x| f64::from(*x)).collect();
        let positive = numbers.iter().filter(|x| **x > 0.).count();
        let negative = numbers.iter().filter(|x| **x < 0.).count();
        Self {
            mean: numbers.iter().sum::<f64>() / numbers.len().max(1) as f64,
            outcomes: Outcomes {
                positive,
                negative,
                unscored: log_odds.len() - positive - negative,
            },
            log_odds,
        }
    }
}

/// Scores every cell of `grid` on `choices`, the unsteered model `base` first. Cells that stand in
/// `file` are taken from there; others are appended as they are measured. `progress` is
/// called with the number of cells done and of all.
///
/// # Errors
/// When the grid or a choice is wrong, a layer has no direction, a line of the file is not
/// a cell, or the model fails. An unfinished last line is removed.
pub fn sweep(
    base: &ModelVariant,
    choices: &[Choice],
    grid: &SteeringGrid,
    file: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<MeasuredCell<ChoiceScores>>> {
    let mut cells = vec![GridCell::unsteered()];
    cells.extend(grid.cells()?);
    if choices.is_empty() {
        let hint = "give questions with two answers";
        return Err(Error::value("questions", "at least one", "none", hint));
    }
    // All cells act on the same tokens, so that one packing serves them all.
    let packed = PackedChoices::new(base.model.spec(), choices, grid.mask())?;
    let score = |variant: &ModelVariant, cache: Option<&ActivationCache>| {
        let odds = packed.log_odds(variant, cache, &mut |_| {})?;
        let odds = odds
            .into_iter()
            .map(|x| Some(x as f32).filter(|x| x.is_finite()));
        Result::Ok(odds.collect::<Vec<_>>())
    };
    let unsteered = score(base, None)?;
    let key = key_of_inputs(choices, &unsteered, &grid.positions.to_string());
    let mut cache = None;
    let mut measure = |cell: &GridCell| -> Result<ChoiceScores> {
        if cell.kind.is_none() {
            return Ok(ChoiceScores::of(unsteered.clone()));
        }
        let steering = [grid.intervention(cell)?];
        let variant = ModelVariant {
            interventions: &steering,
            ..*base
        };
        cache = variant.cache(cache.take(), || packed.prompts())?;
        Ok(ChoiceScores::of(score(&variant, cache.as_ref())?))
    };
    let all = cells.len();
    let mut progress = |done| progress(done, all);
    grid.measure(cells, (file, &key), &mut measure, &mut progress)
}

/// A hash of what all cells depend on.
fn key_of_inputs(choices: &[Choice], unsteered: &[Option<f32>], positions: &str) -> String {
    let mut numbers = Vec::new();
    for choice in choices {
        numbers.push(choice.prompt.len() as u32);
        numbers.extend(&choice.prompt);
        numbers.extend(choice.responses.iter().flatten());
        numbers.push(choice.positive as u32);
        if choice.responses.iter().any(|r| r.len() != 1) || choice.responses.len() != 2 {
            numbers.extend(choice.responses.iter().map(|r| r.len() as u32));
        }
    }
    let choices: Vec<u8> = numbers.into_iter().flat_map(u32::to_le_bytes).collect();
    let scores = unsteered.iter().map(|x| x.map_or(u32::MAX, f32::to_bits));
    let scores: Vec<u8> = scores.flat_map(u32::to_le_bytes).collect();
    files::sha256([choices.as_slice(), &scores, positions.as_bytes()])
}
