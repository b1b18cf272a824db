//! `reptune sweep`: layers, doses and signs of steering, compared.

mod select;

use super::args::{RecipeArgs, layer_sets};
use super::output::{print, print_json, share, signed};
use crate::pipeline::{self, Run, SWEEP_CELLS, Sweep, SweepCell as Cell};
use crate::progress::Progress;
use anyhow::{Context, Result};
use clap::{ArgGroup, Args, ValueEnum};
use reptune_adapters::{Dose, HookedModel};
use reptune_recipes::Recipe;
use reptune_recipes::grid::SteeringKind;
use reptune_report::aligned;
use serde_json::json;
use std::path::PathBuf;

pub const EXAMPLES: &str = "\
Examples:
  reptune sweep recipes/honesty-mini.toml --layers \"1;2;3;1-3\" --fractions 0.5,1
  reptune sweep my.toml --layers \"12;14-16\" --totals 5,12,19 --on test
  reptune sweep my.toml --select
  reptune sweep my.toml --directions runs/my/selection.safetensors --layers 3 --coeffs 9

Every set of layers is steered with + and - of every dose, and once with the direction
ablated. The table shows how often the right answer is likelier, and the mean log-odds.
Cells that are in sweep.jsonl already are not computed again.

With --select, layer, place and dose are chosen on the validation claims, as the recipe's
[selection] says, and tested on the test claims. Writes selection.json, and the chosen
directions as selection.safetensors.";

#[derive(Args)]
#[command(group = ArgGroup::new("doses").required(true))]
pub struct SweepArgs {
    #[command(flatten)]
    pub recipe: RecipeArgs,
    /// Choose one layer, place and dose as the recipe's [selection] says
    #[arg(long, group = "doses", conflicts_with_all = ["layers", "directions", "on"])]
    pub select: bool,
    /// Sets of layers, separated by `;`; the layers of a set are steered together
    #[arg(long, value_name = "SETS", required_unless_present = "select")]
    pub layers: Option<String>,
    /// Coefficients that each layer gets
    #[arg(long, value_name = "C,..", value_delimiter = ',', value_parser = positive, group = "doses")]
    pub coeffs: Vec<f64>,
    /// Coefficients that are divided by the number of layers
    #[arg(long, value_name = "C,..", value_delimiter = ',', value_parser = positive, group = "doses")]
    pub totals: Vec<f64>,
    /// Coefficients relative to the mean norm of the residual stream
    #[arg(long, value_name = "F,..", value_delimiter = ',', value_parser = positive, group = "doses")]
    pub fractions: Vec<f64>,
    /// Direction file [default: directions are extracted as the recipe says]
    #[arg(long, value_name = "FILE")]
    pub directions: Option<PathBuf>,
    /// Claims that are asked
    #[arg(long, value_name = "CLAIMS", default_value = "validation")]
    pub on: Claims,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Claims {
    Validation,
    Test,
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.trim().parse::<f64>().ok();
    let positive = number.filter(|x| *x > 0. && x.is_finite());
    positive.ok_or_else(|| "expected a positive number; both signs are tried".into())
}

pub fn sweep(a: &SweepArgs) -> Result<()> {
    let file = &a.recipe.recipe;
    let place = || file.display().to_string();
    let Some(layers) = &a.layers else {
        return select::select(&a.recipe).with_context(place);
    };
    if a.directions.is_none() {
        let hint = "choose one with `reptune sweep --select`, and give its selection.safetensors as --directions";
        pipeline::one_place(file, &Recipe::read(file)?, hint)?;
    }
    let session = a.recipe.session()?;
    let spec = session.llama.spec();
    let sets = layer_sets(layers, spec.layers)?;
    let loaded = a.directions.as_ref().map(|file| {
        let set = pipeline::direction_set(file, spec)?;
        crate::Result::Ok((set, file.clone()))
    });
    let loaded = loaded.transpose()?;
    let mut run = a.recipe.run(session)?;
    let (directions, source) = match loaded {
        Some(loaded) => loaded,
        None => run.sweep_directions().with_context(place)?,
    };
    let doses = a.coeffs.iter().copied().map(Dose::Coeff);
    let totals = a.totals.iter().copied().map(Dose::Total);
    let fractions = a.fractions.iter().copied().map(Dose::Fraction);
    let doses: Vec<Dose> = doses.chain(totals).chain(fractions).collect();
    let sweep = Sweep {
        directions: &directions,
        layers: &sets,
        doses: &doses,
        claims: match a.on {
            Claims::Validation => &run.session.items.validation,
            Claims::Test => &run.session.items.test,
        },
    };
    let shown = Progress::unknown("sweep");
    let cells = run.sweep(&sweep, &mut |done, all| shown.set_of(done, all));
    let cells = cells.with_context(place)?;
    drop(shown);
    told(a, &run, sweep.claims.len(), &source, &cells)
}

fn told(a: &SweepArgs, run: &Run, n: usize, source: &PathBuf, cells: &[Cell]) -> Result<()> {
    let file = run.stages.path(SWEEP_CELLS);
    let on = match a.on {
        Claims::Validation => "validation",
        Claims::Test => "test",
    };
    if a.recipe.json {
        let best = |kind| best(cells, kind).map(|c| &c.key);
        return print_json(&json!({
            "on": on, "n": n, "directions": source, "file": file,
            "best": {"plus": best(SteeringKind::Plus), "minus": best(SteeringKind::Minus)}, "cells": cells,
        }));
    }
    let source = source.display();
    print(format_args!("{n} {on} claims, directions of {source}\n"))?;
    print(format_args!("{}\n", table(cells)))?;
    for kind in [SteeringKind::Plus, SteeringKind::Minus] {
        print(sentence(cells, kind))?;
    }
    let scores = cells.iter().flat_map(|c| &c.scores.log_odds);
    let broken = scores.filter(|x| x.is_none()).count();
    if broken > 0 {
        print(format_args!(
            "{broken} scores are not finite and count as neither answer; use smaller doses"
        ))?;
    }
    print(format_args!("\n{}", file.display()))
}

/// The cell of `kind` with most answers of its kind; of equal ones the smallest dose.
fn best(cells: &[Cell], kind: SteeringKind) -> Option<&Cell> {
    let moved = |c: &Cell| match kind {
        SteeringKind::Minus => c.scores.outcomes.negative,
        _ => c.scores.outcomes.positive,
    };
    let of_kind = cells.iter().filter(|c| c.cell.kind == Some(kind));
    of_kind.min_by(|a, b| {
        let most = moved(b).cmp(&moved(a));
        most.then(a.cell.coeff.abs().total_cmp(&b.cell.coeff.abs()))
    })
}

/// Layers as they are typed: `1-3,5`.
fn ranges(layers: &[usize]) -> String {
    let mut runs: Vec<[usize; 2]> = Vec::new();
    for &layer in layers {
        match runs.last_mut() {
            Some(run) if run[1] + 1 == layer => run[1] = layer,
            _ => runs.push([layer, layer]),
        }
    }
    let run = |[from, to]: &[usize; 2]| match from == to {
        true => from.to_string(),
        false => format!("{from}-{to}"),
    };
    runs.iter().map(run).collect::<Vec<_>>().join(",")
}

fn table(cells: &[Cell]) -> String {
    let head = [
        "layers",
        "sign",
        "total",
        "fraction",
        "right answer likelier",
        "log-odds",
        "shift",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let base = cells.first().map_or(0., |c| c.scores.mean);
    for c in cells {
        let added = matches!(c.cell.kind, Some(SteeringKind::Plus | SteeringKind::Minus));
        let only = |text: String| if added { text } else { "-".to_owned() };
        let fraction = c.cell.fraction.map_or("?".into(), |f| format!("{f:+.3}"));
        let (layers, sign) = match c.cell.kind {
            None => ("-".to_owned(), "unsteered"),
            Some(SteeringKind::Plus) => (ranges(&c.cell.layers), "+"),
            Some(SteeringKind::Minus) => (ranges(&c.cell.layers), "-"),
            Some(SteeringKind::Ablate) => (ranges(&c.cell.layers), "ablate"),
        };
        rows.push(vec![
            layers,
            sign.to_owned(),
            only(signed(c.cell.coeff)),
            only(fraction),
            share(c.scores.outcomes.positive, c.scores.log_odds.len()),
            signed(c.scores.mean),
            c.cell
                .kind
                .map_or(String::new(), |_| signed(c.scores.mean - base)),
        ]);
    }
    aligned(&rows)
}

/// The best cell of a sign in a sentence.
fn sentence(cells: &[Cell], kind: SteeringKind) -> String {
    let (Some(best), Some(base)) = (best(cells, kind), cells.first()) else {
        return String::new();
    };
    let (with, without) = (best.scores.outcomes, base.scores.outcomes);
    let (what, with, without) = match kind {
        SteeringKind::Minus => ("most wrong answers", with.negative, without.negative),
        _ => ("most right answers", with.positive, without.positive),
    };
    let n = best.scores.log_odds.len();
    let several = if best.cell.layers.len() > 1 { "s" } else { "" };
    let fraction = best
        .cell
        .fraction
        .map_or(String::new(), |f| format!(" ({f:+.3})"));
    format!(
        "{what}: layer{several} {}, total {}{fraction}: {}, unsteered {}{}",
        ranges(&best.cell.layers),
        signed(best.cell.coeff),
        share(with, n),
        share(without, n),
        if with > without {
            ""
        } else {
            "; no dose does better"
        }
    )
}
