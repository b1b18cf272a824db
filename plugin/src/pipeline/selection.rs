//! The choice of layer, place and dose of a recipe's direction.
//!
//! The choice sees training and validation claims. Its effect is then measured on the test
//! claims, which had no part in it.

use crate::{error::Result, progress, session::Session};
use reptune_adapters::{DirectionSet, Dose, Intervention, Operator};
use reptune_recipes::data::Claim;
use reptune_recipes::extract::{CapturedPairs, Extracted, extract_each};
use reptune_recipes::score::{Choice, ModelVariant, log_odds};
use reptune_recipes::select::{Selected, SelectionInputs, SelectionTable, select};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// File of the doses that were measured.
pub(super) const CELLS: &str = "selection.jsonl";

/// What was measured, and what was chosen.
#[derive(Serialize, Deserialize)]
pub struct SelectionOutcome {
    pub choice: Selected,
    /// Largest KL that was allowed.
    pub kl: f64,
    /// Training pairs that made the directions, and those that were captured.
    pub pairs: [usize; 2],
    /// Validation pairs, likewise.
    pub held_out: [usize; 2],
    pub table: SelectionTable,
    /// What the choice does to the answers to test claims.
    pub test: Vec<Tested>,
}

/// The model on test claims with one dose of the choice.
#[derive(Serialize, Deserialize)]
pub struct Tested {
    /// Signed coefficient; 0: the model as it is.
    pub coeff: f64,
    pub n: usize,
    /// Mean of log p(right) - log p(wrong).
    pub log_odds: f64,
    /// Claims whose right answer is likelier.
    pub honest: usize,
}

/// Measures and chooses as the recipe's `[selection]` says; also returns the directions of the
/// chosen place. Doses are kept in `cells` as they are measured. `unfit` gets what was measured
/// where none can be chosen. Nothing is tested yet.
pub(super) fn measure(
    session: &Session,
    cells: &Path,
    unfit: &mut dyn FnMut(&SelectionTable),
) -> Result<(SelectionOutcome, Extracted)> {
    let (model, chat, recipe) = (&session.llama, &session.chat, &session.recipe);
    let (train, claims) = (&session.items.train, &session.items.validation);
    let shown = || progress::of("extract at every position");
    let (mut found, pairs) = extract_each(model, chat, recipe, train, &mut shown())?;
    let shown = || progress::of("capture held-out pairs");
    let held_out = CapturedPairs::of(model, chat, recipe, claims, &mut shown())?;
    let inputs = SelectionInputs {
        model,
        chat,
        recipe,
        found: &found,
        held_out: &held_out,
        claims,
    };
    let table = select(inputs, cells, &mut progress::of("measure doses"))?;
    let kl = recipe.selection.clone().unwrap_or_default().kl;
    let choice = table.choose(kl).inspect_err(|_| unfit(&table))?;
    let found = found.swap_remove(choice.place);
    let outcome = SelectionOutcome {
        choice,
        kl,
        pairs,
        held_out: [held_out.pairs.answers.len(), held_out.pairs.asked],
        table,
        test: Vec::new(),
    };
    Ok((outcome, found))
}

/// Asks the test claims without the choice, with it, and with its negative.
pub(super) fn test(
    session: &Session,
    set: &DirectionSet,
    choice: &Selected,
) -> Result<Vec<Tested>> {
    let choices = choices(session, &session.items.test)?;
    let mut shown = progress::steps("test the choice", 3 * choices.len());
    let mut tested = Vec::new();
    for coeff in [0., choice.coeff, -choice.coeff] {
        let steering = Intervention::new(set, &[choice.layer], Dose::Coeff(coeff), Operator::Add)?;
        let steering = [steering.on(session.recipe.steering.positions.clone())];
        let variant = ModelVariant {
            interventions: if coeff == 0. { &[] } else { &steering },
            ..ModelVariant::base(&session.llama)
        };
        let from = tested.len() * choices.len();
        let odds = log_odds(&variant, &choices, &mut |n| shown(from + n))?;
        tested.push(Tested {
            coeff,
            n: odds.len(),
            log_odds: odds.iter().sum::<f64>() / odds.len() as f64,
            honest: odds.iter().filter(|o| **o > 0.).count(),
        });
    }
    Ok(tested)
}

pub(super) fn choices(session: &Session, claims: &[Claim]) -> Result<Vec<Choice>> {
    let (questions, plain) = (session.questions(claims), session.plain());
    let (chat, recipe) = (&session.chat, &session.recipe);
    Ok(Choice::of_questions(chat, recipe, &plain, &questions)?)
}
