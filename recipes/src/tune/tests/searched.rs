//! The search over real runs.

use super::*;
use crate::search::search;
use std::time::Duration;

#[test]
fn a_search_over_tunings_leaves_out_what_breaks_and_finds_what_learns() -> Result<()> {
    let setting = setting()?;
    let recipe = recipe(
        "batch = 4\nepochs = 4\nwarmup = 0\nrank = 2\ntoken_weight = 0.5\n\
         [search]\nlearning_rate = [1e-7, 1e-2, 1e30]\nkeep = 0.7\nrungs = [0.5, 1.0]",
    );
    let room = tempfile::tempdir().expect("room");
    let metrics = room.path().join("metrics.jsonl");
    let mut trial = |recipe: &Recipe, _: &_| {
        let tuner = setting.tuner(&setting.model, recipe, Mode::InPlusTruth)?;
        let tuned = tuner.tune(tuner.fresh()?, &metrics, &mut |_| {})?;
        tuner.score(&tuned)
    };
    let found = search(&recipe, &mut || Duration::ZERO, &mut trial)?;
    assert_eq!(found.recipe.tuning.learning_rate, 1e-2, "\n{found}");
    let last = &found.trials[2];
    assert_eq!((last.candidate.learning_rate, last.score), (1e30, None));
    assert_eq!(
        found.trials.len(),
        5,
        "the broken one does not go on\n{found}"
    );
    let tuner = setting.tuner(&setting.model, &found.recipe, Mode::InPlusTruth)?;
    let base = tuner.score(&tuner.fresh()?)?;
    let best = found.best.score.expect("a score");
    assert!(best < base, "{best} {base}");
    Ok(())
}
