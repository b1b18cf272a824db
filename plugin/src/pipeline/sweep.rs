//! A sweep over layers, doses and signs, in the directory of a run.

use super::run::Run;
use crate::error::Result;
use crate::progress::Progress;
use reptune_adapters::{DirectionSet, Dose, HookedModel};
use reptune_recipes::data::{Claim, claim_question};
use reptune_recipes::extract::extract;
use reptune_recipes::grid::{MeasuredCell, SteeringGrid, SteeringKind};
use reptune_recipes::score::{Choice, ModelVariant};
use reptune_recipes::sweep::{ChoiceScores, sweep};
use std::path::PathBuf;

/// The file of the cells in a run.
pub const CELLS: &str = "sweep.jsonl";
const DIRECTIONS: &str = "sweep.safetensors";

/// A cell with its scores.
pub type SweepCell = MeasuredCell<ChoiceScores>;

/// What is compared.
pub struct Sweep<'a> {
    /// The directions.
    pub directions: &'a DirectionSet,
    /// Sets of layers, each steered together.
    pub layers: &'a [Vec<usize>],
    /// Doses, all positive; both signs are tried.
    pub doses: &'a [Dose],
    /// Claims that are asked.
    pub claims: &'a [Claim],
}

impl Run {
    /// The directions of the recipe, as its `[steering]` changes them, and their file.
    ///
    /// # Errors
    /// When the model fails.
    pub fn sweep_directions(&mut self) -> Result<(DirectionSet, PathBuf)> {
        let session = &self.session;
        let (llama, recipe) = (&session.llama, &session.recipe);
        let inputs = session.inputs(&[&recipe.hash()]);
        self.stages.run(DIRECTIONS, &[&inputs], |path| {
            let shown = Progress::unknown("extract");
            let mut progress = |done, all| shown.set_of(done, all);
            let claims = &session.items.train;
            let found = extract(llama, &session.chat, recipe, claims, &mut progress)?;
            Ok(found.directions.save(path)?)
        })?;
        let path = self.stages.path(DIRECTIONS);
        let set = DirectionSet::load(&path)?;
        Ok((recipe.steering.directions(&set, llama.spec())?, path))
    }

    /// Scores every cell that is not in the run's file yet; returns all of them.
    ///
    /// # Errors
    /// When the model fails, or directions lack a layer or a norm.
    pub fn sweep(
        &self,
        sweep_of: &Sweep,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Vec<SweepCell>> {
        let session = &self.session;
        let recipe = &session.recipe;
        let claims = sweep_of.claims.iter();
        let questions: Vec<_> = claims.map(|c| claim_question(recipe, c)).collect();
        let choices = Choice::of_questions(&session.chat, recipe, &session.plain(), &questions)?;
        let grid = SteeringGrid {
            directions: &[sweep_of.directions],
            layers: sweep_of.layers,
            doses: sweep_of.doses,
            kinds: &[
                SteeringKind::Plus,
                SteeringKind::Minus,
                SteeringKind::Ablate,
            ],
            positions: &recipe.steering.positions,
        };
        let (base, file) = (ModelVariant::base(&session.llama), self.stages.path(CELLS));
        Ok(sweep(&base, &choices, &grid, &file, progress)?)
    }
}
