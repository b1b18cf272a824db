//! `reptune tune`: directions tuned into weights.

use super::args::{RunArgs, mode};
use super::output::{bytes, facts, print, print_json};
use crate::pipeline::{self, ModePlan, Planned};
use anyhow::{Context, Result};
use clap::Args;
use reptune_recipes::{recipe::Mode, search::SearchEnd};
use serde_json::json;
use std::path::PathBuf;

#[derive(Args)]
#[command(after_help = "\
Examples:
  reptune tune recipes/honesty-mini.toml
  reptune tune recipes/honesty-mini.toml --mode in_minus_lie
  reptune tune my.toml --mode truth --adapter-init runs/my/tuned/in_plus -o runs/second
  reptune tune my.toml --search
  reptune tune recipes/honesty-llama2-13b-chat.toml -m Llama-2-13b-chat-hf \\
      --plan --measure

Extracts the directions first if they are not there yet, and writes a PEFT adapter for
each mode. After Ctrl-C, run the same command again to continue.

--search tries the combinations of the recipe's [search] by successive halving. The score
is the token loss plus the representation loss on the validation claims, averaged over the
modes; lower is better. Writes search.json, best.toml, and the metrics of every trial.

--plan counts trained parameters, tokens, bytes and operations from config.json and the
tokenizer; it reads no weights.")]
pub struct TuneArgs {
    /// Tune only this mode: truth, lie, in_plus, in_minus, in_plus_truth, in_minus_lie or out
    #[arg(long, value_parser = mode)]
    pub mode: Option<Mode>,
    /// Start from this PEFT adapter instead of from zero
    #[arg(long, value_name = "DIR", conflicts_with_all = ["search", "plan"])]
    pub adapter_init: Option<PathBuf>,
    /// Search for the best settings instead of tuning
    #[arg(long, conflicts_with_all = ["plan", "mode"])]
    pub search: bool,
    /// Estimate memory and operations instead of tuning
    #[arg(long, conflicts_with_all = ["out", "device", "dtype"])]
    pub plan: bool,
    /// With --plan: measure the speed of this machine, and estimate the time
    #[arg(long, requires = "plan")]
    pub measure: bool,
    #[command(flatten)]
    pub run: RunArgs,
}

pub fn tune(a: &TuneArgs) -> Result<()> {
    if a.plan {
        return plan(a);
    }
    if a.search {
        return search(&a.run);
    }
    let mut run = a.run.open()?;
    let (directions, key) = run.directions()?;
    let modes = match a.mode {
        Some(mode) => vec![mode],
        None => run.session.recipe.tuning.modes.clone(),
    };
    for mode in modes {
        let from = a.adapter_init.as_deref();
        let (path, _) = run.tuned(mode, None, &directions, &key, from)?;
        match a.run.recipe.json {
            true => print_json(&json!({"mode": mode.name(), "adapter": path}))?,
            false => print(format_args!("{mode}: {}", path.display()))?,
        }
    }
    Ok(())
}

/// The trials, and the best settings.
fn search(a: &RunArgs) -> Result<()> {
    pipeline::check_search(&a.recipe.recipe)?;
    let mut run = a.open()?;
    let a = &a.recipe;
    let place = || a.recipe.display().to_string();
    let result = pipeline::search(&mut run, a.model.as_deref()).with_context(place)?;
    if a.json {
        return print_json(&result.json());
    }
    let modes = run.session.recipe.tuning.modes.iter();
    let modes: Vec<&str> = modes.map(|m| m.name()).collect();
    let (found, best) = (&result.found, &result.found.best);
    let late = match found.end {
        SearchEnd::OutOfTime => "The search stopped early: the minutes of [search] ran out.\n\n",
        SearchEnd::Complete => "",
    };
    print(format_args!(
        "Score: token loss plus representation loss on {} validation claims, averaged over\n\
         {}; lower is better.\n\n{found}\n\n{late}\
         best: candidate {}, {:.4} after {} epochs, untuned {:.4}\n\n{}\n{}",
        run.session.items.validation.len(),
        modes.join(", "),
        best.candidate.number,
        best.score.unwrap_or(f64::NAN),
        best.epochs,
        result.untuned,
        result.file.display(),
        result.best.display()
    ))
}

/// What tuning needs.
fn plan(a: &TuneArgs) -> Result<()> {
    let recipe = &a.run.recipe;
    let (model, quantize) = (recipe.model.as_deref(), recipe.loading.quantize.as_deref());
    let planned = pipeline::plan(&recipe.recipe, model, a.mode, quantize, a.measure)?;
    if recipe.json {
        return print_json(&planned);
    }
    let (name, layers, hidden) = (&planned.model, planned.spec.layers, planned.spec.hidden);
    let parameters = count(planned.parameters as f64);
    print(format_args!(
        "{name}: {parameters} parameters, {layers} layers of width {hidden}"
    ))?;
    if let Some(rate) = planned.rate.map(count) {
        print(format_args!("{rate}FLOP/s, measured on this machine"))?;
    }
    let mut modes = planned.modes.iter();
    modes.try_for_each(|mode| print(format_args!("\n{}", facts("", &rows(mode, &planned)))))
}

fn rows(m: &ModePlan, planned: &Planned) -> Vec<(String, String)> {
    let (plan, memory) = (&m.plan, &m.plan.memory);
    let share = 100. * plan.positions as f64 / plan.tokens.max(1) as f64;
    let cache = match (plan.cache_layer, m.cache_on_disk) {
        (None, _) => "none: block 0 is tuned".to_owned(),
        (Some(l), true) => format!("on disk, {} positions of layer {l}", plan.distinct),
        (Some(l), false) => {
            let cached = bytes(memory.cache);
            format!("{cached}, {} positions of layer {l}", plan.distinct)
        }
    };
    let again = match m.gradient_checkpointing {
        true => ", with gradient checkpointing",
        false => "",
    };
    let positions = format!(
        "{} for {} tokens ({share:.0} %), at most {} in a forward pass",
        plan.positions, plan.tokens, plan.largest
    );
    let flop = |work: f64| match planned.rate {
        Some(rate) => format!("{}FLOP, {}", count(work), time(work / rate)),
        None => format!("{}FLOP", count(work)),
    };
    let rows = [
        ("mode", m.mode.to_string()),
        ("trained parameters", count(plan.trained as f64)),
        ("steps", plan.steps.to_string()),
        ("positions", positions),
        ("memory", bytes(planned.weights + memory.total())),
        ("  weights", bytes(planned.weights)),
        ("  activation cache", cache),
        ("  activations", bytes(memory.activations) + again),
        ("  backward pass", bytes(memory.backward)),
        ("  optimizer", bytes(memory.optimizer)),
        ("operations", flop(plan.work.total())),
        ("  activation cache", flop(plan.work.cache)),
        ("  a step", flop(plan.work.steps / plan.steps.max(1) as f64)),
        ("  validation", flop(plan.work.validation)),
    ];
    rows.map(|(name, value)| (name.to_owned(), value)).into()
}

/// `1.30 M`, to be followed by a unit.
fn count(n: f64) -> String {
    let units = [(1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    match units.into_iter().find(|(size, _)| n >= *size) {
        Some((size, unit)) => format!("{:.2} {unit}", n / size),
        None => format!("{n:.0} "),
    }
}

/// `1 h 20 min`, `3 min 5 s`, `2.25 s`, `3.3 ms`.
fn time(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0 if seconds < 0.5 => format!("{:.1} ms", 1e3 * seconds),
        0..60 => format!("{seconds:.2} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}
