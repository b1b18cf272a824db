//! `reptune sweep`: sets of layers x doses x {+, -, ablate}, scored by the letters.

use super::opened::{directory, growing, inputs, one_place, open, share, signed};
use super::{bar, flags};
use crate::session::Session;
use crate::stages::Stages;
use anyhow::{Context, Result};
use reptune_adapters::{DirectionSet, Dose, HookedModel, open_directions};
use reptune_recipes::Recipe;
use reptune_recipes::data::claim_question;
use reptune_recipes::extract::extract;
use reptune_recipes::sweep::{Asked, Cell, Grid, Way, sweep as score};
use reptune_report::aligned;
use serde_json::json;
use std::path::PathBuf;

const CELLS: &str = "sweep.jsonl";
const DIRECTIONS: &str = "sweep.safetensors";

pub fn sweep(a: &flags::Sweep) -> Result<()> {
    let place = || a.recipe.recipe.display().to_string();
    if a.directions.is_none() {
        let hint =
            "choose one with `reptune select`, and give its selection.safetensors as --directions";
        one_place(&a.recipe.recipe, &Recipe::read(&a.recipe.recipe)?, hint)?;
    }
    let session = open(&a.recipe)?;
    let spec = session.llama.spec();
    let sets = flags::layer_sets(&a.layers, spec.layers)?;
    let loaded = a.directions.as_ref().map(|file| {
        let set = open_directions(file)?;
        set.check_model(file, spec)?;
        reptune_adapters::Result::Ok((set, file.clone()))
    });
    let loaded = loaded.transpose()?;
    let mut stages = Stages::open(&directory(&a.recipe, &session))?;
    let (set, source) = match loaded {
        Some(loaded) => loaded,
        None => extracted(a, &session, &mut stages).with_context(place)?,
    };
    let claims = match a.on {
        flags::Claims::Validation => &session.items.validation,
        flags::Claims::Test => &session.items.test,
    };
    let recipe = &session.recipe;
    let asked = claims.iter().map(|claim| {
        let question = claim_question(recipe, claim);
        Asked::new(&session.chat, recipe, &recipe.prompt.system, &question)
    });
    let asked = asked.collect::<reptune_recipes::Result<Vec<_>>>()?;
    let coeffs = a.coeffs.iter().copied().map(Dose::Total);
    let fractions = a.fractions.iter().copied().map(Dose::Fraction);
    let doses: Vec<Dose> = coeffs.chain(fractions).collect();
    let grid = Grid {
        directions: &set,
        layers: &sets,
        doses: &doses,
        ways: &[Way::Plus, Way::Minus, Way::Ablate],
        rows: &recipe.steering.rows,
        adapter: None,
    };
    let file = stages.path(CELLS);
    let bar = bar(1, "sweep");
    let cells = score(&session.llama, &grid, &asked, &file, &mut |done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    });
    let cells = cells.with_context(place)?;
    bar.finish_and_clear();
    let on = match a.on {
        flags::Claims::Validation => "validation",
        flags::Claims::Test => "test",
    };
    if a.recipe.json {
        let best = |way| best(&cells, way).map(|c| &c.key);
        println!(
            "{}",
            json!({
                "on": on, "n": asked.len(), "directions": source, "file": file,
                "best": {"plus": best(Way::Plus), "minus": best(Way::Minus)}, "cells": cells,
            })
        );
        return Ok(());
    }
    println!(
        "{} {on} claims, directions of {}\n",
        asked.len(),
        source.display()
    );
    println!("{}\n", table(&cells));
    for way in [Way::Plus, Way::Minus] {
        println!("{}", named(&cells, way));
    }
    let broken: usize = cells
        .iter()
        .map(|c| c.log_odds.iter().filter(|x| x.is_none()).count())
        .sum();
    if broken > 0 {
        println!("{broken} scores are no numbers, and count as neither answer: lower the doses.");
    }
    println!("\n{}", file.display());
    Ok(())
}

/// The directions of the recipe, as its `[steering]` changes them.
fn extracted(
    a: &flags::Sweep,
    session: &Session,
    stages: &mut Stages,
) -> Result<(DirectionSet, PathBuf)> {
    let (llama, recipe) = (&session.llama, &session.recipe);
    stages.run(DIRECTIONS, &[&inputs(&a.recipe, session)?], |path| {
        let (bar, mut progress) = growing("extract");
        let claims = &session.items.train;
        let found = extract(llama, &session.chat, recipe, claims, &mut progress)?;
        bar.finish_and_clear();
        Ok(found.directions.save(path)?)
    })?;
    let path = stages.path(DIRECTIONS);
    let set = DirectionSet::load(&path)?;
    Ok((recipe.steering.directions(&set, llama.spec())?, path))
}

/// The cell of `way` with most answers of its kind; of equal ones the smallest dose.
fn best(cells: &[Cell], way: Way) -> Option<&Cell> {
    let moved = |c: &Cell| if way == Way::Minus { c.lie } else { c.honest };
    let of_way = cells.iter().filter(|c| c.way == Some(way));
    of_way.min_by(|a, b| {
        let most = moved(b).cmp(&moved(a));
        most.then(a.coeff.abs().total_cmp(&b.coeff.abs()))
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
    let header = [
        "layers",
        "way",
        "coeff",
        "fraction",
        "honest by letters",
        "log-odds",
        "shift",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    let base = cells.first().map_or(0., |c| c.mean);
    for c in cells {
        let steered = matches!(c.way, Some(Way::Plus | Way::Minus));
        let only = |text: String| if steered { text } else { "-".to_owned() };
        rows.push(vec![
            if c.layers.is_empty() {
                "-".to_owned()
            } else {
                ranges(&c.layers)
            },
            match c.way {
                None => "unsteered",
                Some(Way::Plus) => "+",
                Some(Way::Minus) => "-",
                Some(Way::Ablate) => "ablate",
            }
            .to_owned(),
            only(signed(c.coeff)),
            only(
                c.fraction
                    .map_or_else(|| "?".into(), |f| format!("{f:+.3}")),
            ),
            share(c.honest, c.log_odds.len()),
            signed(c.mean),
            match c.way {
                Some(_) => signed(c.mean - base),
                None => String::new(),
            },
        ]);
    }
    aligned(&rows)
}

/// The best cell of a sign in a sentence.
fn named(cells: &[Cell], way: Way) -> String {
    let (Some(best), Some(base)) = (best(cells, way), cells.first()) else {
        return String::new();
    };
    let (what, with, without) = match way {
        Way::Minus => ("most lies", best.lie, base.lie),
        _ => ("most honest", best.honest, base.honest),
    };
    let n = best.log_odds.len();
    let several = if best.layers.len() > 1 { "s" } else { "" };
    let fraction = best
        .fraction
        .map_or_else(String::new, |f| format!(" ({f:+.3})"));
    format!(
        "{what}: layer{several} {}, coeff {}{fraction}: {}, unsteered {}{}",
        ranges(&best.layers),
        signed(best.coeff),
        share(with, n),
        share(without, n),
        if with > without {
            ""
        } else {
            "; no dose does better"
        }
    )
}
