//! Commands that take a recipe: `reptune run`, `reptune extract` and `reptune evaluate`.

use super::args::{RecipeArgs, RunArgs, SteeringArgs};
use super::output::{print, print_json, table};
use crate::pipeline::{self, DIRECTIONS, ORDERED, RunOutcome};
use crate::progress;
use anyhow::{Result, bail};
use clap::Args;
use reptune_report::quantized_table;
use serde_json::json;
use std::{collections::BTreeMap, path::PathBuf};

pub const RUN: &str = "\
Examples:
  reptune run recipes/honesty-mini.toml
  reptune run recipes/honesty-llama2-13b-chat.toml \\
      -m /models/Llama-2-13b-chat-hf -o runs/13b

Prints a table of all models: base, prompted, steered, tuned, merged and baked. The
directory of the run also gets a report with figures. A stage whose inputs have not
changed is skipped: after Ctrl-C, run the same command again. A stage that fails costs only
what depends on it: the report names the failure, the exit code is 1, and the same command
tries only what failed again.";

pub fn run(a: &RunArgs) -> Result<()> {
    let mut run = a.open()?;
    let RunOutcome {
        results,
        quantized,
        page,
    } = pipeline::run(&mut run)?;
    if a.recipe.json {
        print_json(&results)?;
    } else {
        print(&results)?;
        if !quantized.is_empty() {
            let table = quantized_table(&quantized, &results.poles);
            print(format_args!("\n{table}"))?;
        }
        print(format_args!("\nreport: {}", page.display()))?;
    }
    let failed: Vec<&str> = results.failures.iter().map(|f| f.stage.as_str()).collect();
    if !failed.is_empty() {
        bail!(
            "{}: failed: {}; {} has all that succeeded and every error; \
             the same command tries only what failed again",
            a.recipe.recipe.display(),
            failed.join(", "),
            page.display()
        );
    }
    Ok(())
}

pub const EXTRACT: &str = "\
Examples:
  reptune extract recipes/honesty-mini.toml
  reptune extract my.toml -m meta-llama/Llama-3.2-1B-Instruct -o runs/direction

Runs the recipe's contrastive prompts and writes directions.safetensors, with one
direction for each layer. Prints for each layer the norm of the direction, the mean norm
of the residual stream, and the share of training pairs that the direction orders correctly.";

pub fn extract(a: &RunArgs) -> Result<()> {
    let mut run = a.open()?;
    let (set, _) = run.directions()?;
    let (p, file) = (&set.provenance, run.stages.path(DIRECTIONS));
    if a.recipe.json {
        let norms = set.layers.iter().map(|(l, d)| (l.to_string(), d.norm));
        let norms: BTreeMap<String, f64> = norms.collect();
        return print_json(&json!({
            "directions": file, "pairs": p.pairs, "pairs_captured": p.pairs_captured,
            "norms": norms, "residual_norms": p.residual_norms,
        }));
    }
    let ordered: BTreeMap<usize, f64> = run.stages.read(ORDERED)?;
    let head = "layer, norm, residual norm, pairs ordered";
    let table = table(head, &set.layers, |(layer, d)| {
        vec![
            layer.to_string(),
            format!("{:.2}", d.norm),
            format!("{:.2}", p.residual_norms[layer]),
            format!("{:.3}", ordered[layer]),
        ]
    });
    let (file, kept, all) = (file.display(), p.pairs, p.pairs_captured);
    print(format_args!(
        "{file}: {kept} of {all} pairs kept\n\n{table}"
    ))
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  reptune evaluate recipes/honesty-mini.toml
  reptune evaluate my.toml --adapter runs/my/tuned/in_minus_lie --json
  reptune evaluate my.toml --directions runs/my/directions.safetensors \\
      --layers 14-16 --total 19

Without --adapter and steering, the base model is asked.")]
pub struct EvaluateArgs {
    /// System prompt, instead of the recipe's
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    #[command(flatten)]
    pub recipe: RecipeArgs,
    /// PEFT adapter to apply
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    pub adapter: Option<PathBuf>,
    #[command(flatten)]
    pub steering: SteeringArgs,
}

pub fn evaluate(a: &EvaluateArgs) -> Result<()> {
    let session = a.recipe.session()?;
    let (llama, claims) = (&session.llama, session.effect_prompts()?);
    let adapter = a.adapter.as_deref();
    let (steering, adapter) = a.steering.with_adapter(adapter, llama, &claims)?;
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
