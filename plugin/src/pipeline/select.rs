//! The choice of layer, place and dose of a recipe's direction.
//!
//! The choice sees training and validation claims. Its effect is then measured on the test
//! claims, which had no part in it.

use super::run::{Run, write_json};
use crate::error::Result;
use crate::progress::Progress;
use crate::session::Session;
use reptune_adapters::{DirectionSet, Dose, Intervention, Operator};
use reptune_recipes::extract::{CapturedPairs, extract_each};
use reptune_recipes::score::{Choice, ModelVariant, log_odds};
use reptune_recipes::select::{Selected, SelectionInputs, SelectionTable, select as choose};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The file of the choice in a run.
pub const RESULT: &str = "selection.json";
const CELLS: &str = "selection.jsonl";
/// The file of the chosen directions in a run.
pub const SELECTION: &str = "selection.safetensors";

/// What was measured, and what was chosen.
#[derive(Serialize, Deserialize)]
pub struct Selection {
    /// Layer, place and dose.
    pub choice: Selected,
    /// Largest KL that was allowed.
    pub kl: f64,
    /// Training pairs that made the directions, and those that were captured.
    pub pairs: [usize; 2],
    /// Validation pairs, likewise.
    pub held_out: [usize; 2],
    /// All that was measured.
    pub table: SelectionTable,
    /// What the choice does to the answers to test claims.
    pub test: Vec<Tested>,
}

/// The model on test claims with one dose of the choice.
#[derive(Serialize, Deserialize)]
pub struct Tested {
    /// Signed coefficient; 0: the model as it is.
    pub coeff: f64,
    /// Claims that were asked.
    pub n: usize,
    /// Mean of log p(right) - log p(wrong).
    pub log_odds: f64,
    /// Claims whose right answer is likelier.
    pub honest: usize,
}

/// Chooses, unless that is done, and reads the choice. `unfit` gets what was measured where
/// no dose can be chosen.
///
/// # Errors
/// When nothing can be chosen, or the model fails.
pub fn select(run: &mut Run, unfit: &mut dyn FnMut(&SelectionTable)) -> Result<Selection> {
    let session = &run.session;
    let inputs = session.inputs(&[&session.recipe.hash()]);
    let (file, directions) = (run.stages.path(RESULT), run.stages.path(SELECTION));
    if !directions.exists() && file.exists() {
        // Neither is of use without the other.
        std::fs::remove_file(&file).map_err(|e| reptune_adapters::Error::write(&file, e))?;
    }
    let cells = run.stages.path(CELLS);
    run.stages.run(RESULT, &[&inputs], |path| {
        write_json(path, &measure(session, &directions, &cells, unfit)?)
    })?;
    run.read(RESULT)
}

/// Measures, chooses, writes the chosen directions to `file` and tests the choice. Doses are
/// kept in `cells` as they are measured.
fn measure(
    session: &Session,
    file: &Path,
    cells: &Path,
    unfit: &mut dyn FnMut(&SelectionTable),
) -> Result<Selection> {
    let (llama, chat, recipe) = (&session.llama, &session.chat, &session.recipe);
    let shown = Progress::unknown("extract at every position");
    let mut progress = |done, all| shown.set_of(done, all);
    let claims = &session.items.train;
    let (found, pairs) = extract_each(llama, chat, recipe, claims, &mut progress)?;
    drop(shown);
    let shown = Progress::unknown("capture held-out pairs");
    let mut progress = |done, all| shown.set_of(done, all);
    let claims = &session.items.validation;
    let held_out = CapturedPairs::of(llama, chat, recipe, claims, &mut progress)?;
    drop(shown);
    let inputs = SelectionInputs {
        model: llama,
        chat,
        recipe,
        found: &found,
        held_out: &held_out,
        claims: &session.items.validation,
    };
    let shown = Progress::unknown("measure doses");
    let mut progress = |done, all| shown.set_of(done, all);
    let table = choose(inputs, cells, &mut progress)?;
    drop(shown);
    let kl = recipe.selection.clone().unwrap_or_default().kl;
    let choice = table.choose(kl).inspect_err(|_| unfit(&table))?;
    let set = choice.directions(&found)?;
    let test = test(session, set, &choice)?;
    set.save(file)?;
    Ok(Selection {
        kl,
        pairs,
        held_out: [held_out.pairs.answers.len(), held_out.pairs.asked],
        choice,
        table,
        test,
    })
}

/// Asks the test claims without the choice, with it, and with its negative.
fn test(session: &Session, set: &DirectionSet, choice: &Selected) -> Result<Vec<Tested>> {
    let questions = session.claim_questions();
    let plain = session.plain();
    let choices = Choice::of_questions(&session.chat, &session.recipe, &plain, &questions)?;
    let shown = Progress::new("test the choice", 3 * choices.len());
    let mut tested = Vec::new();
    for coeff in [0., choice.coeff, -choice.coeff] {
        let steering = Intervention::new(set, &[choice.layer], Dose::Coeff(coeff), Operator::Add)?;
        let steering = [steering.on(session.recipe.steering.positions.clone())];
        let variant = ModelVariant {
            interventions: if coeff == 0. { &[] } else { &steering },
            ..ModelVariant::base(&session.llama)
        };
        let from = tested.len() * choices.len();
        let odds = log_odds(&variant, &choices, &mut |n| shown.set(from + n))?;
        tested.push(Tested {
            coeff,
            n: odds.len(),
            log_odds: odds.iter().sum::<f64>() / odds.len() as f64,
            honest: odds.iter().filter(|o| **o > 0.).count(),
        });
    }
    Ok(tested)
}
