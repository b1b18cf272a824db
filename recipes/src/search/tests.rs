//! The search on objectives that are known.

use super::*;
use crate::error::Error;
use crate::recipe::Without;
use std::path::Path;

const SEARCH: &str = "[search]\nlayers = [[1], [2], [1, 2]]\npositions = [\"at:-1\", \"at:-4\"]\n\
    learning_rate = [1e-4, 1e-3, 1e-2]\n";

fn recipe(search: &str) -> Result<Recipe> {
    let room = tempfile::tempdir().expect("room");
    let path = room.path().join("r.toml");
    write(&path, search);
    Recipe::read(&path)
}

fn write(path: &Path, search: &str) {
    let text = format!(
        "name = \"toy\"\nmodel = \"toy\"\nseed = 3\n\
         [behaviour]\nname = \"x\"\npositive = [\"p\"]\nnegative = [\"n\"]\n\
         [prompt]\nclaim = \"{{claim}}?\"\n\
         [data]\nclaims = {{ file = \"c.csv\" }}\n\
         [steering]\nlayers = [1]\ncoeff = 1.0\n\
         [tuning]\nmodes = [\"in+ & truth\"]\nlayers = [5]\nlearning_rate = 0.01\nepochs = 3\n\
         early_stop = {{ patience = 3 }}\n\
         [[tuning.groups]]\ntarget_modules = [\"v_proj\"]\nlearning_rate = 0.5\n{search}"
    );
    std::fs::write(path, text).expect("a recipe");
}

/// Best at layers 1 2, position -4 and rate 1e-3; early epochs only blur it.
fn objective(recipe: &Recipe) -> f64 {
    let t = &recipe.tuning;
    let layers = if t.layers == [1, 2] { 0. } else { 1. };
    let offset = if t.offsets() == [3] { 0. } else { 0.5 };
    (t.learning_rate.log10() + 3.).abs() + layers + offset + 1. / t.epochs as f64
}

fn run(recipe: &Recipe, objective: &dyn Fn(&Recipe) -> Result<f64>) -> Result<Found> {
    search(recipe, &mut || Duration::ZERO, &mut |recipe, _| {
        objective(recipe)
    })
}

#[test]
fn the_best_of_the_grid_is_found_rung_by_rung() -> Result<()> {
    let recipe = recipe(SEARCH)?;
    let found = run(&recipe, &|r| Ok(objective(r)))?;
    let per_rung = |rung| found.trials.iter().filter(|t| t.rung == rung).count();
    assert_eq!((per_rung(0), per_rung(1)), (18, 6));
    let planned: Vec<(usize, usize)> = rungs(&recipe)?
        .iter()
        .map(|r| (r.trials, r.epochs))
        .collect();
    assert_eq!(planned, [(18, 1), (6, 3)]);
    assert_eq!(found.end, SearchEnd::Complete);
    let epochs: Vec<usize> = found.trials.iter().map(|t| t.epochs).collect();
    assert_eq!(epochs, [vec![1; 18], vec![3; 6]].concat());
    let t = &found.recipe.tuning;
    assert_eq!(
        (t.layers.as_slice(), t.offsets(), t.learning_rate),
        (&[1, 2][..], vec![3], 1e-3)
    );
    assert_eq!(t.epochs, 3);
    assert_eq!(found.recipe.extraction.positions, t.positions);
    assert_eq!(
        (t.m, t.token_weight),
        (recipe.tuning.m, recipe.tuning.token_weight)
    );
    assert_eq!(found.best.rung, 1);
    assert_eq!(
        found,
        run(&recipe, &|r| Ok(objective(r)))?,
        "a search has one outcome"
    );
    let table = found.to_string();
    assert_eq!(
        table
            .trim_end()
            .lines()
            .filter(|l| l.contains("1e-3"))
            .count(),
        10,
        "{table}"
    );
    Ok(())
}

#[test]
fn the_best_recipe_is_a_file_that_can_be_read_anywhere() -> Result<()> {
    let others = "[evaluation]\nneutral = { file = \"n.txt\" }\n[extraction]\nwithout = \"w\"\n";
    let mut recipe = recipe(&format!("{others}{SEARCH}"))?;
    // As if the recipe had been read by a relative path.
    recipe.extraction.without = Some(Without::File("w".into()));
    recipe.evaluation.neutral.as_mut().expect("texts").file = "n.txt".into();
    let found = run(&recipe, &|r| Ok(objective(r)))?;
    let room = tempfile::tempdir().expect("room");
    let path = room.path().join("best.toml");
    std::fs::write(&path, found.recipe.to_toml()?).expect("write");
    let back = Recipe::read(&path)?;
    let here = std::path::absolute(".").expect("a directory");
    let without = Some(Without::File(here.join("w")));
    assert_eq!(back.extraction.without, without);
    let neutral = back.evaluation.neutral.expect("texts");
    assert_eq!(neutral.file, here.join("n.txt"));
    assert_eq!(back.tuning, found.recipe.tuning);
    assert_eq!(back.search, None);
    assert!(back.data.claims.file.is_absolute());
    Ok(())
}

#[test]
fn a_budget_in_runs_draws_some_of_the_grid() -> Result<()> {
    let found = run(&recipe(&format!("{SEARCH}runs = 8\nkeep = 0.5"))?, &|r| {
        Ok(objective(r))
    })?;
    assert_eq!(found.trials.len(), 8, "5 and 3");
    let numbers: Vec<usize> = found.trials[..5]
        .iter()
        .map(|t| t.candidate.number)
        .collect();
    assert!(
        numbers.is_sorted() && numbers.last() > Some(&5),
        "{numbers:?}"
    );
    let one = recipe(&format!("{SEARCH}runs = 1"))?;
    let message = run(&one, &|r| Ok(objective(r)))
        .expect_err("one for two rungs")
        .to_string();
    assert!(
        message.contains("search.runs: expected 2 or more"),
        "{message}"
    );
    Ok(())
}

#[test]
fn when_time_is_up_the_best_of_the_highest_rung_is_kept() -> Result<()> {
    let recipe = recipe(&format!("{SEARCH}minutes = 20.0"))?;
    let at = |minutes: u64| Duration::from_secs(60 * minutes);
    for (trials, rung) in [(7, 0), (19, 1)] {
        let mut minute = 20 - trials;
        let found = search(
            &recipe,
            &mut || {
                minute += 1;
                at(minute)
            },
            &mut |r, _| Ok(objective(r)),
        )?;
        assert_eq!(found.trials.len() as u64, trials);
        assert_eq!((found.end, found.best.rung), (SearchEnd::OutOfTime, rung));
    }
    let mut calls = 0;
    let found = search(&recipe, &mut || at(99), &mut |r, _| {
        calls += 1;
        Ok(objective(r))
    })?;
    assert_eq!((calls, found.trials.len()), (1, 1), "the first always runs");
    Ok(())
}

#[test]
fn a_trial_that_is_not_finite_is_the_worst_and_other_errors_end_the_search() -> Result<()> {
    let recipe = recipe(SEARCH)?;
    let not_finite = |r: &Recipe| match r.tuning.learning_rate {
        1e-3 => Err(Error::NotFinite(reptune_adapters::Error::content(
            "m", "step 1", "", "", "",
        ))),
        1e-2 => Ok(f64::NAN),
        _ => Ok(objective(r)),
    };
    let found = run(&recipe, &not_finite)?;
    assert_eq!(found.recipe.tuning.learning_rate, 1e-4);
    assert_eq!(found.trials.len(), 24);
    assert!(found.to_string().contains("not finite"));
    let message = run(&recipe, &|_| Ok(f64::NAN))
        .expect_err("none")
        .to_string();
    assert!(message.contains("none among 18"), "{message}");
    let other = |_: &Recipe| Err(Error::input("data", "line 3", "x", "y", "z"));
    let message = run(&recipe, &other).expect_err("broken").to_string();
    assert!(message.contains("data: line 3"), "{message}");
    Ok(())
}

#[test]
fn searches_that_cannot_be_name_the_key() {
    let cases = [
        ("[search]\nrungs = [0.5, 0.2]", "key `search.rungs`"),
        ("[search]\nkeep = 1.0", "key `search.keep`"),
        (
            "[search]\nm = [0.0]",
            "key `search.m`: expected positive numbers, found 0",
        ),
        (
            "[search]\ntoken_weight = [-1.0]",
            "key `search.token_weight`",
        ),
        ("[search]\nlayers = [[]]", "key `search.layers`"),
        ("[search]\nruns = 0", "key `search.runs`"),
        ("[search]\nminutes = 0.0", "key `search.minutes`"),
        ("[search]\nminuts = 1.0", "did you mean `minutes`?"),
        (
            "layers = [5]\n[search]\nlayers = [[1]]",
            "key `search.layers`: expected groups without",
        ),
        (
            "[search]\npositions = [\"last:2\"]",
            "key `search.positions`: expected one position per value",
        ),
    ];
    for (text, expected) in cases {
        let message = recipe(text).expect_err(text).to_string();
        assert!(message.contains(expected), "{text}: {message}");
    }
}
