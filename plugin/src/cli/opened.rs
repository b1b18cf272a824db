//! What a command on a recipe starts from: the recipe with its model, and its directory.

use super::{bar, flags};
use crate::model::ModelDir;
use crate::session::Session;
use anyhow::{Result, bail};
use indicatif::ProgressBar;
use reptune_adapters::files;
use reptune_recipes::Recipe;
use reptune_recipes::recipe::Without;
use reptune_report::wilson;
use std::path::{Path, PathBuf};

/// Opens the recipe that was typed with the model that was typed.
pub fn open(a: &flags::Recipe) -> Result<Session> {
    let options = a.loading.options()?;
    Ok(Session::open(&a.recipe, a.model.as_deref(), options)?)
}

/// Refuses `recipe`, read from `file`, if directions would be made at several places.
pub fn one_place(file: &Path, recipe: &Recipe, hint: &str) -> Result<()> {
    match recipe.extraction.places().len() {
        1 => Ok(()),
        several => bail!(
            "{}: `extraction`: expected one place, found {several}; {hint}",
            file.display()
        ),
    }
}

/// The directory of the run.
pub fn directory(a: &flags::Recipe, session: &Session) -> PathBuf {
    let own = || PathBuf::from("runs").join(&session.recipe.name);
    a.out.clone().unwrap_or_else(own)
}

/// A hash of all that a stage on the whole recipe depends on.
pub fn inputs(a: &flags::Recipe, session: &Session) -> Result<String> {
    let recipe = &session.recipe;
    let nuisance = match &recipe.extraction.without {
        Some(Without::File(path)) => files::read(path)?,
        _ => Vec::new(),
    };
    let parts = [
        ModelDir::at(&session.directory)?.key()?,
        format!("{:?}", a.loading),
        recipe.hash(),
        format!("{:?}", session.items),
    ];
    let parts = parts.iter().map(String::as_bytes);
    Ok(files::sha256(parts.chain([nuisance.as_slice()])))
}

/// Writes `value` to `path`, whole or not at all.
pub fn write_json(path: &Path, value: &impl serde::Serialize) -> crate::Result<()> {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    Ok(files::write_atomically(path, |w| writeln!(w, "{text}"))?)
}

/// A bar of what tells its length as it goes.
pub fn growing(what: &str) -> (ProgressBar, impl FnMut(usize, usize) + use<>) {
    let shown = bar(1, what);
    let moved = shown.clone();
    (shown, move |done, all| {
        moved.set_length(all as u64);
        moved.set_position(done as u64);
    })
}

/// A share with its Wilson interval, as tables show it.
pub fn share(successes: usize, n: usize) -> String {
    let (low, high) = wilson(successes, n);
    let share = successes as f64 / n.max(1) as f64;
    format!("{share:.3} [{low:.3}, {high:.3}]")
}

/// A number with its sign and two decimals, and no minus before a zero.
pub fn signed(x: f64) -> String {
    format!("{:+.2}", (x * 100.).round() / 100. + 0.)
}
