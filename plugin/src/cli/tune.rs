//! `reptune tune`: directions tuned into weights.

mod plan;
mod search;

use super::args::{RecipeArgs, mode};
use super::output::{print, print_json};
use crate::pipeline::Rate;
use anyhow::Result;
use clap::Args;
use reptune_recipes::recipe::Mode;
use serde_json::json;
use std::path::PathBuf;

pub const EXAMPLES: &str = "\
Examples:
  reptune tune recipes/honesty-mini.toml
  reptune tune recipes/honesty-mini.toml --mode in_minus_lie
  reptune tune my.toml --mode truth --adapter-init runs/my/tuned/in_plus -o runs/second
  reptune tune my.toml --search
  reptune tune recipes/honesty-llama2-13b-chat.toml -m Llama-2-13b-chat-hf --plan --measure

Extracts the directions first if they are not there yet, and writes a PEFT adapter for
each mode. After Ctrl-C, run the same command again to continue.

--search tries the combinations of the recipe's [search] by successive halving. The score
is the token loss plus the representation loss on the validation claims, averaged over the
modes; lower is better. Writes search.json, best.toml, and the metrics of every trial.

--plan counts trained parameters, positions, bytes and operations from config.json and the
tokenizer; it reads no weights.";

#[derive(Args)]
pub struct TuneArgs {
    #[command(flatten)]
    pub recipe: RecipeArgs,
    /// Tune only this mode: truth, lie, in_plus, in_minus, in_plus_truth, in_minus_lie or out
    #[arg(long, value_parser = mode)]
    pub mode: Option<Mode>,
    /// Start from this PEFT adapter instead of zero
    #[arg(long, value_name = "DIR", conflicts_with_all = ["search", "plan"])]
    pub adapter_init: Option<PathBuf>,
    /// Search for the best settings instead
    #[arg(long, conflicts_with_all = ["plan", "mode"])]
    pub search: bool,
    /// Print what tuning needs instead
    #[arg(long)]
    pub plan: bool,
    /// With --plan: measure the speed of this machine, and estimate the time
    #[arg(long, requires = "plan")]
    pub measure: bool,
}

pub fn tune(a: &TuneArgs) -> Result<()> {
    if a.plan {
        let rate = match a.measure {
            true => Rate::Measured,
            false => Rate::Unknown,
        };
        return plan::plan(&a.recipe, a.mode, rate);
    }
    if a.search {
        return search::search(&a.recipe);
    }
    let mut run = a.recipe.run(a.recipe.session()?)?;
    let (directions, key) = run.directions()?;
    let modes = match a.mode {
        Some(mode) => vec![mode],
        None => run.session.recipe.tuning.modes.clone(),
    };
    for mode in modes {
        let (path, _) = run.tuned(mode, &directions, &key, a.adapter_init.as_deref())?;
        match a.recipe.json {
            true => print_json(&json!({"mode": mode.name(), "adapter": path}))?,
            false => print(format_args!("{mode}: {}", path.display()))?,
        }
    }
    Ok(())
}
