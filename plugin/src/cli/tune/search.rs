//! `reptune tune --search`: the trials, and the best settings.

use crate::cli::args::RecipeArgs;
use crate::cli::output::{print, print_json};
use crate::pipeline;
use anyhow::{Context, Result};
use reptune_recipes::search::SearchEnd;

pub fn search(a: &RecipeArgs) -> Result<()> {
    let place = || a.recipe.display().to_string();
    pipeline::check_search(&a.recipe)?;
    let mut run = a.run(a.session()?)?;
    let result = pipeline::search(&mut run, a.model.as_deref()).with_context(place)?;
    if a.json {
        return print_json(&result.json());
    }
    let recipe = &run.session.recipe;
    let modes: Vec<&str> = recipe.tuning.modes.iter().map(|m| m.name()).collect();
    let found = &result.found;
    print(format_args!(
        "Score: token loss plus representation loss on {} validation claims, averaged over\n\
         {}; lower is better.\n\n{found}\n",
        run.session.items.validation.len(),
        modes.join(", ")
    ))?;
    if found.end == SearchEnd::OutOfTime {
        print("The search stopped early: the minutes of [search] ran out.\n")?;
    }
    print(format_args!(
        "best: candidate {}, {:.4} after {} epochs, untuned {:.4}\n\n{}\n{}",
        found.best.candidate.number,
        found.best.score.unwrap_or(f64::NAN),
        found.best.epochs,
        result.untuned,
        result.file.display(),
        result.best.display()
    ))
}
