//! `reptune tune --plan`: what tuning needs.

use crate::cli::args::RecipeArgs;
use crate::cli::output::{bytes, facts, print, print_json};
use crate::pipeline::{self, ModePlan, Planned, Rate};
use anyhow::Result;
use reptune_recipes::recipe::Mode;
use serde_json::{Value, json};

pub fn plan(recipe: &RecipeArgs, mode: Option<Mode>, rate: Rate) -> Result<()> {
    let (model, quantize) = (recipe.model.as_deref(), recipe.loading.quantize.as_deref());
    let planned = pipeline::plan(&recipe.recipe, model, mode, quantize, rate)?;
    if recipe.json {
        let modes: Vec<Value> = planned.modes.iter().map(|m| as_json(m, &planned)).collect();
        return print_json(&json!({
            "model": planned.spec.name, "parameters": planned.parameters,
            "weights": planned.weights, "operations_per_second": planned.rate, "modes": modes,
        }));
    }
    print(format_args!(
        "{}: {} parameters, {} layers of width {}",
        planned.spec.name,
        count(planned.parameters as f64),
        planned.spec.layers,
        planned.spec.hidden
    ))?;
    if let Some(rate) = planned.rate {
        print(format_args!(
            "{}FLOP/s, measured on this machine",
            count(rate)
        ))?;
    }
    let mut modes = planned.modes.iter();
    modes.try_for_each(|mode| print(format_args!("\n{}", facts("", &rows(mode, &planned)))))
}

fn as_json(m: &ModePlan, planned: &Planned) -> Value {
    json!({
        "mode": m.mode, "plan": m.plan, "cache_on_disk": m.cache_on_disk,
        "gradient_checkpointing": m.checkpointing,
        "seconds": planned.rate.map(|rate| m.plan.work.total() / rate),
    })
}

fn rows(m: &ModePlan, planned: &Planned) -> Vec<(String, String)> {
    let (plan, memory) = (&m.plan, &m.plan.memory);
    let share = 100. * plan.positions as f64 / plan.tokens.max(1) as f64;
    let cache = match (plan.cache_layer, m.cache_on_disk) {
        (None, _) => "none: block 0 is tuned or read".to_owned(),
        (Some(l), true) => format!("on disk, {} positions of layer {l}", plan.distinct),
        (Some(l), false) => {
            let cached = bytes(memory.cache);
            format!("{cached}, {} positions of layer {l}", plan.distinct)
        }
    };
    let again = match m.checkpointing {
        true => ", with gradient checkpointing",
        false => "",
    };
    let step = plan.work.steps / plan.steps.max(1) as f64;
    let flop = |work: f64| match planned.rate {
        Some(rate) => format!("{}FLOP, {}", count(work), time(work / rate)),
        None => format!("{}FLOP", count(work)),
    };
    let total = planned.weights + memory.total();
    let rows = [
        ("mode", m.mode.to_string()),
        ("trained parameters", count(plan.trained as f64)),
        ("steps", plan.steps.to_string()),
        (
            "positions",
            format!(
                "{} for {} tokens ({share:.0} %), at most {} in a forward pass",
                plan.positions, plan.tokens, plan.largest
            ),
        ),
        ("memory", bytes(total)),
        ("  weights", bytes(planned.weights)),
        ("  activation cache", cache),
        (
            "  activations",
            format!("{}{again}", bytes(memory.activations)),
        ),
        ("  backward pass", bytes(memory.backward)),
        ("  optimizer", bytes(memory.optimizer)),
        ("operations", flop(plan.work.total())),
        ("  activation cache", flop(plan.work.cache)),
        ("  a step", flop(step)),
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
