//! A sweep over layers, doses and signs in the directory of a run, and the choice of one.

use super::run::{Run, extracted};
use super::selection::{self, SelectionOutcome};
use crate::{error::Result, progress};
use reptune_adapters::{DirectionSet, Dose, HookedModel};
use reptune_recipes::grid::{MeasuredCell, SteeringGrid, SteeringKind};
use reptune_recipes::score::ModelVariant;
use reptune_recipes::sweep::{ChoiceScores, sweep};
use reptune_recipes::{data::Claim, select::SelectionTable};
use std::path::PathBuf;

/// The file of the cells of a sweep in a run.
pub const SWEEP_CELLS: &str = "sweep.jsonl";
const DIRECTIONS: &str = "sweep.safetensors";
/// The file of the choice in a run.
pub const CHOICE_FILE: &str = "selection.json";
/// The file of the chosen directions in a run.
pub const SELECTION: &str = "selection.safetensors";

/// A cell with its scores.
pub type SweepCell = MeasuredCell<ChoiceScores>;

impl Run {
    /// The directions of the recipe, as its `[steering]` changes them, and their file.
    pub fn sweep_directions(&mut self) -> Result<(DirectionSet, PathBuf)> {
        let (session, recipe) = (&self.session, &self.session.recipe);
        let inputs = session.extraction_inputs();
        self.stages.run(DIRECTIONS, &[&inputs], |path| {
            let found = extracted(session, recipe, "extract")?;
            Ok(found.directions.save(path)?)
        })?;
        let path = self.stages.path(DIRECTIONS);
        let set = DirectionSet::load(&path)?;
        let set = recipe.steering.directions(&set, session.llama.spec())?;
        Ok((set, path))
    }

    /// Scores `claims` for sets of `layers`, each steered together, and both signs of `doses`,
    /// which are positive. Cells that are in the run's file are not computed again.
    pub fn sweep(
        &self,
        directions: &DirectionSet,
        layers: &[Vec<usize>],
        doses: &[Dose],
        claims: &[Claim],
    ) -> Result<Vec<SweepCell>> {
        let grid = SteeringGrid {
            directions: &[directions],
            layers,
            doses,
            kinds: &[
                SteeringKind::Plus,
                SteeringKind::Minus,
                SteeringKind::Ablate,
            ],
            positions: &self.session.recipe.steering.positions,
        };
        let choices = selection::choices(&self.session, claims)?;
        let base = ModelVariant::base(&self.session.llama);
        self.stages.save()?;
        let (file, mut shown) = (self.stages.path(SWEEP_CELLS), progress::of("sweep"));
        Ok(sweep(&base, &choices, &grid, &file, &mut shown)?)
    }

    /// Chooses layer, place and dose of the recipe's direction, unless that is done, and reads
    /// the choice. `unfit` gets what was measured where no dose can be chosen.
    pub fn select(&mut self, unfit: &mut dyn FnMut(&SelectionTable)) -> Result<SelectionOutcome> {
        let session = &self.session;
        let (of_extraction, r) = (session.extraction_inputs(), &session.recipe);
        let of_choice =
            session.inputs(&[&r.selection, &r.steering.positions, &r.evaluation.claims]);
        let [file, directions, cells] =
            [CHOICE_FILE, SELECTION, selection::CELLS].map(|name| self.stages.path(name));
        if !directions.exists() && file.exists() {
            // Neither is of use without the other.
            std::fs::remove_file(&file).map_err(|e| reptune_adapters::Error::write(&file, e))?;
        }
        let measure = || {
            let (mut selected, found) = selection::measure(session, &cells, unfit)?;
            let set = &found.directions;
            selected.test = selection::test(session, set, &selected.choice)?;
            set.save(&directions)?;
            Ok(selected)
        };
        Ok(self
            .stages
            .json(CHOICE_FILE, &[of_extraction, of_choice], measure)?
            .0)
    }
}
