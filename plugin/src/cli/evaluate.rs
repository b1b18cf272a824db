//! `reptune evaluate`: a model's answers to the test questions of a recipe.

use super::args::{RecipeArgs, SteeringArgs};
use super::output::{print, print_json};
use crate::pipeline;
use crate::progress::Progress;
use anyhow::Result;
use clap::Args;
use reptune_adapters::{HookedModel, lora::peft};
use std::path::PathBuf;

pub const EXAMPLES: &str = "\
Examples:
  reptune evaluate recipes/honesty-mini.toml
  reptune evaluate my.toml --adapter runs/my/tuned/in_minus_lie --json
  reptune evaluate my.toml --directions runs/my/directions.safetensors --layers 14-16 --total 19

Without --adapter and steering, the base model is asked.";

#[derive(Args)]
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
    let (llama, spec) = (&session.llama, session.llama.spec());
    let interventions: Vec<_> = a.steering.intervention(spec)?.into_iter().collect();
    let adapter = a.adapter.as_ref().map(|dir| peft::load(dir, spec));
    let adapter = adapter.transpose()?;
    let claims = session.probed()?;
    a.steering
        .check_effect(llama, &interventions, &claims, adapter.as_ref())?;
    let systems = match &a.system {
        Some(system) => vec![system.clone()],
        None => session.plain(),
    };
    let name = match (interventions.is_empty(), &adapter) {
        (true, None) => "base",
        (false, None) => "steered",
        (true, Some(_)) => "tuned",
        (false, Some(_)) => "tuned and steered",
    };
    let questions = session.items.test.len() + session.items.choices.len();
    let shown = Progress::new("evaluate", questions);
    let own = session.own(&interventions, adapter.as_ref());
    let measured = session.measure(name, &own, &systems, &mut |n| shown.set(n))?;
    drop(shown);
    let table = pipeline::table(&session, vec![measured.row]);
    match a.recipe.json {
        true => print_json(&table),
        false => print(table),
    }
}
