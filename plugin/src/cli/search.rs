//! `reptune search`: settings of the tuning, tried by successive halving.

use super::opened::{directory, growing, one_place, open, write_json};
use super::{bar, flags};
use crate::session::Session;
use crate::stages::Stages;
use anyhow::{Context, Result, bail};
use reptune_adapters::{DirectionSet, HookedModel, files};
use reptune_recipes::extract::extract;
use reptune_recipes::search::{SearchCandidate, SearchEnd, rungs, search as halve};
use reptune_recipes::tune::Tuner;
use reptune_recipes::{Error, Recipe};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

const RESULT: &str = "search.json";
const BEST: &str = "best.toml";

/// Directions by the offset that a candidate asks for.
type Directions = BTreeMap<Option<usize>, DirectionSet>;

pub fn search(a: &flags::Recipe) -> Result<()> {
    let place = || a.recipe.display().to_string();
    let recipe = Recipe::read(&a.recipe)?;
    if recipe.search.is_none() {
        bail!(
            "{}: `[search]`: expected a table with lists of settings to try, found none; add, for example,\n\n\
             [search]\nlearning_rate = [3e-4, 1e-3, 3e-3]\ntoken_weight = [0.01, 0.1]\n\n\
             or another key of [search] in recipes/README.md",
            a.recipe.display()
        );
    }
    let hint = "choose one with `reptune select`, and name it as `offset`";
    one_place(&a.recipe, &recipe, hint)?;
    let planned = rungs(&recipe).with_context(place)?;
    let mut session = open(a)?;
    if let Some(model) = &a.model {
        session.recipe.model = model.clone();
    }
    let (recipe, spec) = (&session.recipe, session.llama.spec());
    let grid = SearchCandidate::grid(recipe)?;
    let layers = grid.iter().try_for_each(|c| spec.check_layers(&c.layers));
    layers.with_context(place)?;
    let stages = Stages::open(&directory(a, &session))?;
    let trials_in = stages.path("search");
    if trials_in.exists() {
        // Of another search: what is left of it would stand among the new trials.
        let io = |e| reptune_adapters::Error::write(&trials_in, e);
        std::fs::remove_dir_all(&trials_in).map_err(io)?;
    }
    let directions = directions(&session, &grid).with_context(place)?;

    let a_epoch = session.items.train.len().div_ceil(recipe.tuning.batch);
    let steps = |epochs: usize| epochs * a_epoch * recipe.tuning.modes.len();
    let all = planned.iter().map(|r| r.trials * steps(r.epochs)).sum();
    let bar = bar(all, "search");
    let (mut trials, mut done) = (0, 0);
    let start = Instant::now();
    let found = halve(recipe, &mut || start.elapsed(), &mut |tried, candidate| {
        trials += 1;
        bar.set_message(format!("trial {trials}, candidate {}", candidate.number));
        let epochs = tried.tuning.epochs;
        let place = trials_in.join(format!("candidate-{}/epochs-{epochs}", candidate.number));
        let set = &directions[&candidate.offset];
        let score = score(&session, tried, set, Some(&place), &mut || bar.inc(1));
        // A trial that ended early has done its part too.
        done += steps(epochs);
        bar.set_position(done as u64);
        score
    });
    let found = found.with_context(place)?;
    bar.finish_and_clear();

    let set = &directions[&found.best.candidate.offset];
    let untuned = score(&session, &found.recipe, set, None, &mut || {})?;
    let (file, best) = (stages.path(RESULT), stages.path(BEST));
    let text = found.recipe.to_toml()?;
    files::write_atomically(&best, |w| w.write_all(text.as_bytes()))?;
    let result = json!({
        "end": found.end, "best": found.best, "untuned": untuned, "recipe": best,
        "trials": found.trials,
    });
    write_json(&file, &result)?;
    if a.json {
        println!("{result}");
        return Ok(());
    }
    let modes: Vec<&str> = recipe.tuning.modes.iter().map(|m| m.name()).collect();
    println!(
        "Score: token loss plus representation loss on {} validation claims, averaged over\n\
         {}; lower is better.\n\n{found}\n",
        session.items.validation.len(),
        modes.join(", ")
    );
    if found.end == SearchEnd::OutOfTime {
        println!("The minutes of [search] ran out before every rung was climbed.\n");
    }
    println!(
        "best: candidate {}, {:.4} after {} epochs, untuned {untuned:.4}\n\n{}\n{}",
        found.best.candidate.number,
        found.best.score.unwrap_or(f64::NAN),
        found.best.epochs,
        file.display(),
        best.display()
    );
    Ok(())
}

/// The directions of every offset, so that a wrong one is told before the first trial.
fn directions(session: &Session, grid: &[SearchCandidate]) -> Result<Directions> {
    let mut directions = Directions::new();
    for candidate in grid {
        if directions.contains_key(&candidate.offset) {
            continue;
        }
        let what = candidate
            .offset
            .map_or_else(String::new, |o| format!(" at offset {o}"));
        let (bar, mut progress) = growing(&format!("extract{what}"));
        let recipe = candidate.recipe(&session.recipe, 1);
        let (llama, claims) = (&session.llama, &session.items.train);
        let found = extract(llama, &session.chat, &recipe, claims, &mut progress)?;
        bar.finish_and_clear();
        directions.insert(candidate.offset, found.directions);
    }
    Ok(directions)
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
        let items = &session.items;
        let tuner = Tuner::new(
            &session.llama,
            &session.chat,
            recipe,
            mode,
            directions,
            &items.train,
            &items.validation,
        )?
        .sharing(&session.trunks);
        let mut update = tuner.fresh()?;
        if let Some(place) = place {
            let place = place.join(mode.file_name());
            let io = |e| Error::from(reptune_adapters::Error::write(&place, e));
            std::fs::create_dir_all(&place).map_err(io)?;
            let metrics = place.join("metrics.jsonl");
            update = tuner.tune(update, &metrics, &mut |_| step())?;
        }
        sum += tuner.score(&update)?;
    }
    Ok(sum / recipe.tuning.modes.len() as f64)
}
