//! Searching for settings of the tuning, by successive halving (K. Jamieson and
//! A. Talwalkar, arXiv 1502.07943) over a grid.
//!
//! Every candidate is tuned for a first share of the epochs; the better part goes on
//! to the next share, and so on. A candidate starts again on each rung, because a
//! learning rate that falls to zero over two epochs is not half of one over four.

#[cfg(test)]
mod tests;

use crate::error::{Error, Result};
use crate::recipe::{Recipe, Search};
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use reptune_adapters::Positions;
use reptune_report::aligned;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// Settings that are tried together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SearchCandidate {
    /// Place in the grid, from 0.
    pub number: usize,
    /// `tuning.layers`.
    pub layers: Vec<usize>,
    /// `tuning.positions`, and `extraction.positions` with it; none: as in the recipe.
    pub positions: Option<Positions>,
    /// `tuning.m`.
    pub m: f64,
    /// `tuning.token_weight`.
    pub token_weight: f64,
    /// `tuning.learning_rate`.
    pub learning_rate: f64,
}

/// One candidate on one rung.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SearchTrial {
    /// What was tried.
    pub candidate: SearchCandidate,
    /// Rung, from 0.
    pub rung: usize,
    /// Epochs it was tuned for.
    pub epochs: usize,
    /// Score on validation data, lower is better; none when its numbers were not finite.
    pub score: Option<f64>,
}

/// Why a search ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SearchEnd {
    /// Every rung was climbed.
    Complete,
    /// The minutes ran out.
    OutOfTime,
}

/// What a search found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Every trial, in the order in which they ran.
    pub trials: Vec<SearchTrial>,
    /// The best of the highest rung.
    pub best: SearchTrial,
    /// The recipe with the best settings, all epochs, and no `[search]`.
    pub recipe: Recipe,
    /// Why it ended.
    pub end: SearchEnd,
}

/// Searches as the `[search]` of `recipe` says.
///
/// `trial` tunes a recipe and measures it on validation data alone; lower is better.
/// A trial that ends in [`Error::NotFinite`], or gives such a score, is the worst of
/// its rung. `elapsed` is asked before each trial; the first always runs. Of equal
/// scores the earlier in the grid is better.
///
/// # Errors
/// When there is no `[search]`, its runs are too few for its rungs, no trial has a
/// finite score, and those of `trial`.
pub fn search(
    recipe: &Recipe,
    elapsed: &mut dyn FnMut() -> Duration,
    trial: &mut dyn FnMut(&Recipe, &SearchCandidate) -> Result<f64>,
) -> Result<Found> {
    let settings = settings(recipe)?;
    let mut candidates = drawn(recipe, settings)?;
    let mut trials: Vec<SearchTrial> = Vec::new();
    let mut end = SearchEnd::Complete;
    let late = |d: Duration| settings.minutes.is_some_and(|m| d.as_secs_f64() >= m * 60.);
    'rungs: for (rung, share) in settings.rungs.iter().enumerate() {
        let epochs = epochs(recipe, *share);
        let mut scored = Vec::new();
        for candidate in &candidates {
            if !trials.is_empty() && late(elapsed()) {
                end = SearchEnd::OutOfTime;
                break 'rungs;
            }
            let score = match trial(&candidate.recipe(recipe, epochs), candidate) {
                Ok(score) => Some(score).filter(|s| s.is_finite()),
                Err(Error::NotFinite(_)) => None,
                Err(error) => return Err(error),
            };
            trials.push(SearchTrial {
                candidate: candidate.clone(),
                rung,
                epochs,
                score,
            });
            scored.push((score.unwrap_or(f64::INFINITY), candidate.clone()));
        }
        // The best come first, so that a rung cut short has tried the likeliest.
        scored.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.number.cmp(&b.1.number)));
        scored.truncate(go_on(scored.len(), settings.keep));
        scored.retain(|(score, _)| score.is_finite());
        candidates = scored.into_iter().map(|(_, c)| c).collect();
    }
    let finite = trials.iter().filter_map(|t| Some((t, t.score?)));
    let best = finite.min_by(|(a, x), (b, y)| {
        let rungs = b.rung.cmp(&a.rung);
        let numbers = a.candidate.number.cmp(&b.candidate.number);
        rungs.then(x.total_cmp(y)).then(numbers)
    });
    let Some((best, _)) = best else {
        let (expected, found) = ("a trial with a finite score", trials.len());
        let (found, hint) = (format!("none among {found}"), "lower search.learning_rate");
        return Err(Error::input(&recipe.name, "search", expected, found, hint));
    };
    let best = best.clone();
    let mut found = best.candidate.recipe(recipe, recipe.tuning.epochs);
    found.search = None;
    Ok(Found {
        trials,
        best,
        recipe: found,
        end,
    })
}

fn settings(recipe: &Recipe) -> Result<&Search> {
    recipe.search.as_ref().ok_or_else(|| {
        let (expected, hint) = ("a table `[search]`", "see recipes/README.md");
        Error::input(&recipe.name, "search", expected, "none", hint)
    })
}

/// A rung of a search before it is climbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SearchRung {
    /// Candidates that are tried on it, unless a lower rung leaves fewer.
    pub trials: usize,
    /// Epochs that each of them is tuned for.
    pub epochs: usize,
}

/// The rungs that [`search`] would climb.
///
/// # Errors
/// When there is no `[search]`, or its runs are too few for its rungs.
pub fn rungs(recipe: &Recipe) -> Result<Vec<SearchRung>> {
    let settings = settings(recipe)?;
    let mut next = drawn(recipe, settings)?.len();
    let rung = |share: &f64| {
        let trials = next;
        next = go_on(next, settings.keep);
        let epochs = epochs(recipe, *share);
        SearchRung { trials, epochs }
    };
    Ok(settings.rungs.iter().map(rung).collect())
}

/// A share of the epochs of `recipe`, in whole ones.
fn epochs(recipe: &Recipe, share: f64) -> usize {
    (share * recipe.tuning.epochs as f64 - 1e-9).ceil().max(1.) as usize
}

/// How many of `n` go on.
fn go_on(n: usize, share: f64) -> usize {
    ((n as f64 * share - 1e-9).ceil() as usize).max(1).min(n)
}

/// The candidates of the first rung: the grid, or as many of it, drawn by the
/// recipe's seed, as the budget in runs can bring up all rungs.
fn drawn(recipe: &Recipe, settings: &Search) -> Result<Vec<SearchCandidate>> {
    let mut grid = SearchCandidate::grid(recipe)?;
    let Some(runs) = settings.runs else {
        return Ok(grid);
    };
    let needed = |first: usize| {
        let rest = 1..settings.rungs.len();
        rest.fold((first, first), |(sum, n), _| {
            let n = go_on(n, settings.keep);
            (sum + n, n)
        })
    };
    let Some(n) = (1..=grid.len()).rev().find(|&n| needed(n).0 <= runs) else {
        let expected = format!("{} or more, one per rung", settings.rungs.len());
        let (name, found) = (&recipe.name, runs.to_string());
        let hint = "give more runs or fewer rungs";
        return Err(Error::input(name, "search.runs", expected, found, hint));
    };
    if n < grid.len() {
        grid.shuffle(&mut ChaCha8Rng::seed_from_u64(recipe.seed));
        grid.truncate(n);
        grid.sort_by_key(|c| c.number);
    }
    Ok(grid)
}

impl SearchCandidate {
    /// Every combination of the values of `recipe`'s `[search]`, the learning rate
    /// changing fastest.
    ///
    /// # Errors
    /// When the recipe has no `[search]`.
    pub fn grid(recipe: &Recipe) -> Result<Vec<Self>> {
        let (search, t) = (settings(recipe)?, &recipe.tuning);
        let or = |list: &[f64], own: f64| match list.is_empty() {
            true => vec![own],
            false => list.to_vec(),
        };
        let layers = match search.layers.as_slice() {
            [] => std::slice::from_ref(&t.layers),
            listed => listed,
        };
        let places = match search.positions.as_slice() {
            [] => vec![None],
            listed => listed.iter().cloned().map(Some).collect(),
        };
        let mut grid = Vec::new();
        for layers in layers {
            for positions in &places {
                for m in or(&search.m, t.m) {
                    for token_weight in or(&search.token_weight, t.token_weight) {
                        for learning_rate in or(&search.learning_rate, t.learning_rate) {
                            grid.push(Self {
                                number: grid.len(),
                                layers: layers.clone(),
                                positions: positions.clone(),
                                m,
                                token_weight,
                                learning_rate,
                            });
                        }
                    }
                }
            }
        }
        Ok(grid)
    }

    /// `recipe` with these settings, tuned for `epochs`.
    pub fn recipe(&self, recipe: &Recipe, epochs: usize) -> Recipe {
        let mut recipe = recipe.clone();
        let t = &mut recipe.tuning;
        t.layers = self.layers.clone();
        if let Some(positions) = &self.positions {
            t.positions = positions.clone();
            recipe.extraction.positions = positions.clone();
        }
        (t.m, t.token_weight) = (self.m, self.token_weight);
        (t.learning_rate, t.epochs) = (self.learning_rate, epochs);
        recipe
    }
}

/// A table of all trials: rung by rung, the best first.
impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = [
            "rung",
            "epochs",
            "candidate",
            "layers",
            "positions",
            "m",
            "token weight",
            "learning rate",
            "score",
        ];
        let mut rows = vec![header.map(str::to_owned).to_vec()];
        let mut trials: Vec<&SearchTrial> = self.trials.iter().collect();
        let key = |t: &SearchTrial| t.score.unwrap_or(f64::INFINITY);
        trials.sort_by(|a, b| a.rung.cmp(&b.rung).then(key(a).total_cmp(&key(b))));
        for t in trials {
            let c = &t.candidate;
            let layers: Vec<String> = c.layers.iter().map(usize::to_string).collect();
            let positions = c.positions.as_ref().map(Positions::to_string);
            let score = t.score.map(|s| format!("{s:.4}"));
            rows.push(vec![
                t.rung.to_string(),
                t.epochs.to_string(),
                c.number.to_string(),
                layers.join(" "),
                positions.unwrap_or_else(|| "-".into()),
                c.m.to_string(),
                c.token_weight.to_string(),
                format!("{:e}", c.learning_rate),
                score.unwrap_or_else(|| "not finite".into()),
            ]);
        }
        write!(f, "{}", aligned(&rows))
    }
}
