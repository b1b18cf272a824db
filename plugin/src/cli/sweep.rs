//! `reptune sweep`: layers, doses and signs of steering, compared, or one of them chosen.

use super::args::{self, RunArgs, number};
use super::output::{self, print, print_json, share, signed};
use crate::pipeline::{
    self, CHOICE_FILE, SELECTION, SWEEP_CELLS, SelectionOutcome, SweepCell as Cell,
};
use crate::progress;
use anyhow::{Context, Result};
use clap::{ArgGroup, Args};
use reptune_adapters::{Dose, HookedModel, Positions};
use reptune_recipes::select::{Selected, SelectionTable};
use reptune_recipes::{Recipe, grid::SteeringKind};
use serde_json::json;
use std::path::PathBuf;

#[derive(Args)]
#[command(after_help = "\
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
directions as selection.safetensors.")]
#[command(group = ArgGroup::new("doses").required(true))]
pub struct SweepArgs {
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
    #[arg(long, value_name = "CLAIMS", default_value = "validation", value_parser = ["validation", "test"])]
    pub on: String,
    #[command(flatten)]
    pub run: RunArgs,
}

fn positive(text: &str) -> Result<f64, String> {
    let expected = "a positive number; both signs are tried";
    number(text, |x| *x > 0. && x.is_finite(), expected)
}

pub fn sweep(a: &SweepArgs) -> Result<()> {
    let file = &a.run.recipe.recipe;
    let place = || file.display().to_string();
    let recipe = Recipe::read(file)?;
    recipe.steering.check_scored().with_context(place)?;
    let Some(layers) = &a.layers else {
        return select(&a.run).with_context(place);
    };
    if a.directions.is_none() {
        let hint = "choose one with `reptune sweep --select`, and give its selection.safetensors as --directions";
        pipeline::one_place(file, &recipe, hint)?;
    }
    let mut run = a.run.open()?;
    let spec = run.session.llama.spec();
    let sets = layers
        .split(';')
        .map(|set| args::layers(set.trim(), spec.layers));
    let sets: Vec<Vec<usize>> = sets.collect::<crate::Result<_>>()?;
    let loaded = a.directions.as_ref().map(|file| {
        let set = pipeline::direction_set(file, spec)?;
        crate::Result::Ok((set, file.clone()))
    });
    let loaded = loaded.transpose()?;
    let (directions, source) = match loaded {
        Some(loaded) => loaded,
        None => run.sweep_directions().with_context(place)?,
    };
    let doses = a.coeffs.iter().copied().map(Dose::Coeff);
    let totals = a.totals.iter().copied().map(Dose::Total);
    let fractions = a.fractions.iter().copied().map(Dose::Fraction);
    let doses: Vec<Dose> = doses.chain(totals).chain(fractions).collect();
    let (on, items) = (&a.on, &run.session.items);
    let claims = if on == "test" {
        &items.test
    } else {
        &items.validation
    };
    let cells = run.sweep(&directions, &sets, &doses, claims);
    let cells = cells.with_context(place)?;
    let (n, file) = (claims.len(), run.stages.path(SWEEP_CELLS));
    if a.run.recipe.json {
        let best = |kind| best(&cells, kind).map(|c| &c.key);
        return print_json(&json!({
            "on": on, "n": n, "directions": source, "file": file,
            "best": {"plus": best(SteeringKind::Plus), "minus": best(SteeringKind::Minus)}, "cells": cells,
        }));
    }
    let scores = cells.iter().flat_map(|c| &c.scores.log_odds);
    let not_finite = match scores.filter(|x| x.is_none()).count() {
        0 => String::new(),
        n => format!("{n} scores are not finite and count as neither answer; use smaller doses\n"),
    };
    print(format_args!(
        "{n} {on} claims, directions of {}\n\n{}\n\n{}\n{}\n{not_finite}\n{}",
        source.display(),
        table(&cells),
        sentence(&cells, SteeringKind::Plus),
        sentence(&cells, SteeringKind::Minus),
        file.display()
    ))
}

/// The answers of a cell that steering of `kind` should give.
fn moved(cell: &Cell, kind: SteeringKind) -> usize {
    match kind {
        SteeringKind::Minus => cell.scores.outcomes.negative,
        _ => cell.scores.outcomes.positive,
    }
}

/// The cell of `kind` with most answers of its sign; of equal ones the smallest dose.
fn best(cells: &[Cell], kind: SteeringKind) -> Option<&Cell> {
    let of_kind = cells.iter().filter(|c| c.cell.kind == Some(kind));
    of_kind.min_by(|a, b| {
        let most = moved(b, kind).cmp(&moved(a, kind));
        most.then(a.cell.total.abs().total_cmp(&b.cell.total.abs()))
    })
}

/// Layers as they are typed: `1-3,5`.
fn ranges(layers: &[usize]) -> String {
    let runs = layers.chunk_by(|a, b| a + 1 == *b).map(|run| match run {
        [from, .., to] => format!("{from}-{to}"),
        one => one[0].to_string(),
    });
    runs.collect::<Vec<_>>().join(",")
}

fn table(cells: &[Cell]) -> String {
    let head = "layers, sign, total, fraction, right answer likelier, log-odds, shift";
    let base = cells.first().map_or(0., |c| c.scores.mean);
    output::table(head, cells, |Cell { cell, scores, .. }| {
        let shift = signed(scores.mean - base);
        let fraction = cell.fraction.map_or("?".into(), |f| format!("{f:+.3}"));
        let (sign, total, fraction, shift) = match cell.kind {
            None => ("unsteered", "-".into(), "-".into(), String::new()),
            Some(SteeringKind::Plus) => ("+", signed(cell.total), fraction, shift),
            Some(SteeringKind::Minus) => ("-", signed(cell.total), fraction, shift),
            Some(SteeringKind::Ablate) => ("ablate", "-".into(), "-".into(), shift),
        };
        vec![
            cell.kind.map_or("-".into(), |_| ranges(&cell.layers)),
            sign.to_owned(),
            total,
            fraction,
            share(scores.outcomes.positive, scores.log_odds.len()),
            signed(scores.mean),
            shift,
        ]
    })
}

/// The best cell of a sign in a sentence.
fn sentence(cells: &[Cell], kind: SteeringKind) -> String {
    let (Some(best), Some(base)) = (best(cells, kind), cells.first()) else {
        return String::new();
    };
    let (with, without) = (moved(best, kind), moved(base, kind));
    let what = if kind == SteeringKind::Minus {
        "wrong"
    } else {
        "right"
    };
    let (cell, n) = (&best.cell, best.scores.log_odds.len());
    let several = if cell.layers.len() > 1 { "s" } else { "" };
    let fraction = cell.fraction.map(|f| format!(" ({f:+.3})"));
    let none = if with > without {
        ""
    } else {
        "; no dose does better"
    };
    format!(
        "most {what} answers: layer{several} {}, total {}{}: {}, unsteered {}{none}",
        ranges(&cell.layers),
        signed(cell.total),
        fraction.unwrap_or_default(),
        share(with, n),
        share(without, n)
    )
}

/// `--select`: what was measured, and what was chosen.
fn select(a: &RunArgs) -> Result<()> {
    let mut run = a.open()?;
    let places = run.session.recipe.extraction.positions.each();
    let selected = run.select(&mut |measured| {
        progress::line(format_args!("{}\n", candidates(measured, &places, None)));
    })?;
    if a.recipe.json {
        return print_json(&selected);
    }
    let ([[kept, all], [held_out, of]], c) =
        ([selected.pairs, selected.held_out], &selected.choice);
    print(format_args!(
        "Directions of {kept} of {all} training pairs, measured on {held_out} of {of} held-out pairs and on\n\
         the validation claims. Shift: change of the mean log-odds of the right answer, positive\n\
         if it has the sign of the dose. KL: from the unsteered model, on neutral text.\n\n{}\n",
        candidates(&selected.table, &places, Some(c))
    ))?;
    print(format_args!(
        "Chosen: layer {}, {}, coeff {:.2}, which is {} of the mean norm of the residual\n\
         stream. Of all doses whose KL is at most {} with both signs, it has the largest mean\n\
         shift, {:+.2}; its KL is {:.3}.\n\n{}\n\n{}\n{}",
        c.layer,
        places[c.place],
        c.coeff,
        c.fraction,
        selected.kl,
        c.effect,
        c.kl,
        tested(&selected),
        run.stages.path(CHOICE_FILE).display(),
        run.stages.path(SELECTION).display()
    ))
}

/// A row for each dose; layer and place stand on the first of them.
fn candidates(table: &SelectionTable, places: &[Positions], choice: Option<&Selected>) -> String {
    let head = "layer, place, ordered, cos +, cos -, fraction, coeff, shift +, shift -, KL +, KL -";
    let mut rows = Vec::new();
    for c in &table.candidates {
        let mut first = vec![
            c.layer.to_string(),
            places[c.place].to_string(),
            format!("{:.3}", c.ordered),
            format!("{:+.3}", c.positive),
            format!("{:+.3}", c.negative),
        ];
        let before = rows.len();
        for up in c.doses.iter().filter(|d| d.fraction > 0.) {
            let down = c.doses.iter().find(|d| d.fraction == -up.fraction);
            let Some(down) = down else { continue };
            let mut row = std::mem::replace(&mut first, vec![String::new(); 5]);
            row.push(up.fraction.to_string());
            row.push(format!("{:.2}", up.coeff));
            row.extend([up.shift, down.shift].map(signed));
            row.extend([up.kl, down.kl].map(|x| format!("{x:.3}")));
            let this =
                |t: &&Selected| (t.place, t.layer, t.fraction) == (c.place, c.layer, up.fraction);
            row.extend(choice.filter(this).map(|_| "<- chosen".to_owned()));
            rows.push(row);
        }
        if rows.len() == before {
            first.resize(head.split(", ").count(), "-".to_owned());
            first.push("not eligible".to_owned());
            rows.push(first);
        }
    }
    output::table(head, rows, |row| row)
}

fn tested(selected: &SelectionOutcome) -> String {
    let head = "on test claims, n, right answer likelier, log-odds, shift";
    let base = selected.test.first().map_or(0., |t| t.log_odds);
    output::table(head, &selected.test, |t| {
        let layer = selected.choice.layer;
        let (name, shift) = match t.coeff {
            0. => ("unsteered".to_owned(), String::new()),
            coeff => (
                format!("coeff {} at layer {layer}", signed(coeff)),
                signed(t.log_odds - base),
            ),
        };
        vec![
            name,
            t.n.to_string(),
            share(t.honest, t.n),
            signed(t.log_odds),
            shift,
        ]
    })
}
