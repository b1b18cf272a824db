//! A search for settings of the tuning, by successive halving.

use super::run::{Run, extracted, one_place};
use crate::error::{Error, Result};
use crate::{progress::Progress, session::Session, stages::write_json};
use reptune_adapters::{DirectionSet, Error as Fault, HookedModel, Positions, files};
use reptune_recipes::Recipe;
use reptune_recipes::search::{Found, SearchCandidate, rungs, search as halve};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::{collections::BTreeMap, time::Instant};

/// What a search found.
pub struct SearchResult {
    pub found: Found,
    /// Score of the model as it is.
    pub untuned: f64,
    /// The trials as a file.
    pub file: PathBuf,
    /// The best recipe as a file.
    pub best: PathBuf,
}

impl SearchResult {
    /// As JSON.
    pub fn json(&self) -> serde_json::Value {
        json!({
            "end": self.found.end, "best": self.found.best, "untuned": self.untuned,
            "recipe": self.best, "trials": self.found.trials,
        })
    }
}

/// Refuses a recipe that cannot be searched, before its model is loaded.
pub fn check_search(file: &Path) -> Result<()> {
    let recipe = Recipe::read(file)?;
    if recipe.search.is_none() {
        let hint = "add, for example,\n\n\
             [search]\nlearning_rate = [3e-4, 1e-3, 3e-3]\ntoken_weight = [0.01, 0.1]\n\n\
             or another key of [search] in recipes/README.md";
        let expected = "a table with lists of settings to try";
        return Err(Error::model(file, "`[search]`", expected, "none", hint));
    }
    let hint = "choose one with `reptune sweep --select`, and name it as `positions`";
    one_place(file, &recipe, hint)?;
    rungs(&recipe)?;
    Ok(())
}

/// Tries the combinations of the recipe's `[search]`, and writes the best recipe. `model`
/// replaces the recipe's model in it.
pub fn search(run: &mut Run, model: Option<&str>) -> Result<SearchResult> {
    if let Some(model) = model {
        run.session.recipe.model = model.to_owned();
    }
    let (session, recipe) = (&run.session, &run.session.recipe);
    let planned = rungs(recipe)?;
    let grid = SearchCandidate::grid(recipe)?;
    let spec = session.llama.spec();
    grid.iter().try_for_each(|c| spec.check_layers(&c.layers))?;
    run.stages.save()?;
    let trials_in = run.stages.path("search");
    if trials_in.exists() {
        // Those of an earlier search would stand among the new trials.
        std::fs::remove_dir_all(&trials_in).map_err(|e| Fault::write(&trials_in, e))?;
    }
    // At every position now, so that a wrong one fails before the first trial.
    let mut directions: BTreeMap<Option<Positions>, DirectionSet> = BTreeMap::new();
    for candidate in &grid {
        if !directions.contains_key(&candidate.positions) {
            let at = candidate.positions.as_ref().map(|p| format!(" at {p}"));
            let shown = format!("extract{}", at.unwrap_or_default());
            let found = extracted(session, &candidate.recipe(recipe, 1), &shown)?;
            directions.insert(candidate.positions.clone(), found.directions);
        }
    }

    let epoch = session.items.train.len().div_ceil(recipe.tuning.batch);
    let steps = |epochs: usize| epochs * epoch * recipe.tuning.modes.len();
    let all = planned.iter().map(|r| r.trials * steps(r.epochs)).sum();
    let shown = Progress::new("search", all);
    let (mut trials, mut done) = (0, 0);
    let start = Instant::now();
    let found = halve(recipe, &mut || start.elapsed(), &mut |tried, candidate| {
        trials += 1;
        shown.message(format!("trial {trials}, candidate {}", candidate.number));
        let epochs = tried.tuning.epochs;
        let place = trials_in.join(format!("candidate-{}/epochs-{epochs}", candidate.number));
        let set = &directions[&candidate.positions];
        let score = score(session, tried, set, Some(&place), &mut || shown.step());
        // A trial that ended early has done its part too.
        done += steps(epochs);
        shown.set(done);
        score
    })?;
    drop(shown);

    let set = &directions[&found.best.candidate.positions];
    let result = SearchResult {
        untuned: score(session, &found.recipe, set, None, &mut || {})?,
        found,
        file: run.stages.path("search.json"),
        best: run.stages.path("best.toml"),
    };
    let text = result.found.recipe.to_toml()?;
    files::write_atomically(&result.best, |w| w.write_all(text.as_bytes()))?;
    write_json(&result.file, &result.json())?;
    Ok(result)
}

/// Mean score of the modes of `recipe`: tuned, with metrics under `place`, or as they start.
fn score(
    session: &Session,
    recipe: &Recipe,
    directions: &DirectionSet,
    place: Option<&Path>,
    step: &mut dyn FnMut(),
) -> reptune_recipes::Result<f64> {
    let mut sum = 0.;
    for &mode in &recipe.tuning.modes {
        let tuner = session.tuner(&session.llama, recipe, mode, directions)?;
        let tuner = tuner.sharing(&session.activations);
        let mut update = tuner.fresh()?;
        if let Some(place) = place {
            let place = place.join(mode.file_name());
            std::fs::create_dir_all(&place).map_err(|e| Fault::write(&place, e))?;
            update = tuner.tune(update, &place.join("metrics.jsonl"), &mut |_| step())?;
        }
        sum += tuner.score(&update)?;
    }
    Ok(sum / recipe.tuning.modes.len() as f64)
}
