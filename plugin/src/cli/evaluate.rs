//! `reptune evaluate`: a model's answers to the test questions of a recipe.

use super::args::{RecipeArgs, SteeringArgs};
use super::output::{print, print_json};
use crate::{pipeline, progress};
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
#[command(after_help = "\
Examples:
  reptune evaluate recipes/honesty-mini.toml
  reptune evaluate my.toml --adapter runs/my/tuned/in_minus_lie --json
  reptune evaluate my.toml --directions runs/my/directions.safetensors --layers 14-16 --total 19

Without --adapter and steering, the base model is asked.")]
pub struct EvaluateArgs {
    #[command(flatten)]
    pub recipe: RecipeArgs,
    /// PEFT adapter to apply
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    pub adapter: Option<PathBuf>,
    /// System prompt, instead of the recipe's
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    #[command(flatten)]
    pub steering: SteeringArgs,
}

pub fn evaluate(a: &EvaluateArgs) -> Result<()> {
    let session = a.recipe.session()?;
    let (llama, claims) = (&session.llama, session.effect_prompts()?);
    let (steering, adapter) = a
        .steering
        .with_adapter(a.adapter.as_deref(), llama, &claims)?;
    let systems = match &a.system {
        Some(system) => vec![system.clone()],
        None => session.plain(),
    };
    let name = match (steering.is_empty(), &adapter) {
        (true, None) => "base",
        (false, None) => "steered",
        (true, Some(_)) => "tuned",
        (false, Some(_)) => "tuned and steered",
    };
    let measured = {
        let mut shown = progress::steps("evaluate", session.test_questions());
        let own = session.own(&steering, adapter.as_ref());
        session.measure(name, &own, &systems, &mut shown)?
    };
    let table = pipeline::table(&session, vec![measured.row]);
    match a.recipe.json {
        true => print_json(&table),
        false => print(table),
    }
}
