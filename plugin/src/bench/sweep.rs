//! Sweeps, scored by letters or by what is generated.

use super::work::{self, Cell, LABELS, Lengths, Questions, SweepWork};
use super::{loaded, peak_bytes};
use crate::error::Result;
use crate::llama::{Llama, LoadOptions};
use reptune_adapters::{DirectionSet, Error, HookedModel, Intervention, Operator, Positions};
use reptune_recipes::generate::{Generation, Prefilled, generate_variants};
use reptune_recipes::sweep::{Asked, Dose, Grid, Way, sweep as score};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

/// Doses of which a sweep takes the first few.
const COEFFS: [f64; 8] = [2., 4., 8., 12., 16., 24., 32., 48.];

/// What a sweep is made of, where its directory does not hold it yet.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Number of questions.
    pub questions: usize,
    /// Lengths of their prompts.
    pub lengths: Lengths,
    /// Number of doses.
    pub coeffs: usize,
    /// Layers that are steered; none: all.
    pub layers: Option<Vec<usize>>,
    /// Tokens that are generated; none: letters are scored.
    pub generate: Option<usize>,
    /// Of prompts and directions.
    pub seed: u64,
}

/// Steers every layer with + and - of every dose, and ablates once.
///
/// # Errors
/// When the model cannot be loaded, or the workload is of another kind.
pub fn sweep(
    model: &Path,
    options: LoadOptions,
    directory: &Path,
    settings: &Settings,
) -> Result<Value> {
    let (llama, load_seconds) = loaded(model, options)?;
    let (work, directions) = work::read_or_make(directory, |_| {
        let set = work::directions(llama.spec(), settings.seed)?;
        Ok((make(&llama, settings), Some(set)))
    })?;
    let Some(directions) = directions else {
        let hint = "name another directory, and a workload is made there";
        let name = "directions.safetensors";
        return Err(Error::content(directory, name, "a file", "nothing", hint).into());
    };
    let begun = Instant::now();
    let (key, result) = match settings.generate {
        None => ("log_odds", json!(letters(&llama, &work, &directions)?)),
        Some(_) => ("tokens", json!(texts(&llama, &work, &directions)?)),
    };
    let seconds = begun.elapsed().as_secs_f64();
    Ok(json!({
        "work": "sweep", "seconds": seconds, "cells": work.cells.len(),
        "cells_per_second": work.cells.len() as f64 / seconds, "load_seconds": load_seconds,
        "peak_bytes": peak_bytes(), key: result,
    }))
}

/// Log-odds by cell and question.
fn letters(llama: &Llama, work: &SweepWork, set: &DirectionSet) -> Result<Vec<Vec<Option<f32>>>> {
    let asked = work.questions.iter().map(|q| Asked {
        prompt: q.ids.clone(),
        labels: q.labels,
        right: q.right,
    });
    let asked: Vec<Asked> = asked.collect();
    let mut layers: Vec<Vec<usize>> = work.cells.iter().map(|c| vec![c.layer]).collect();
    layers.dedup();
    let doses: Vec<Dose> = work.coeffs.iter().map(|c| Dose::Coeff(*c)).collect();
    let grid = Grid {
        directions: set,
        layers: &layers,
        doses: &doses,
        ways: &[Way::Plus, Way::Minus, Way::Ablate],
        rows: &Positions::All,
        adapter: None,
    };
    let room = tempfile::tempdir().map_err(|e| Error::write("temporary directory", e))?;
    let file = room.path().join("sweep.jsonl");
    let cells = score(llama, &grid, &asked, &file, &mut |_, _| {})?;
    // the first is the unsteered model
    Ok(cells.into_iter().skip(1).map(|c| c.log_odds).collect())
}

/// Generated tokens by cell and question.
fn texts(llama: &Llama, work: &SweepWork, set: &DirectionSet) -> Result<Vec<Vec<Vec<u32>>>> {
    let prompts: Vec<Vec<u32>> = work.questions.iter().map(|q| q.ids.clone()).collect();
    let layers: BTreeSet<usize> = work.cells.iter().map(|c| c.layer).collect();
    let layers: Vec<usize> = layers.into_iter().collect();
    let prefilled = Prefilled::of(llama, &prompts, &layers, None)?;
    let steering = |cell: &Cell| {
        let operator = match cell.way {
            Way::Ablate => Operator::Ablate,
            Way::Plus | Way::Minus => Operator::Add,
        };
        Ok(vec![Intervention::new(
            set,
            &[cell.layer],
            cell.coeff,
            operator,
        )?])
    };
    let variants: Vec<_> = work.cells.iter().map(steering).collect::<Result<_>>()?;
    let how = Generation {
        max_new_tokens: work.max_new_tokens,
        prefilled: Some(&prefilled),
        ..Generation::default()
    };
    Ok(generate_variants(
        llama,
        &prompts,
        &variants,
        &how,
        &mut |_| {},
    )?)
}

fn make(llama: &Llama, s: &Settings) -> SweepWork {
    let spec = llama.spec();
    let prompts = work::prompts(spec, s.questions, s.lengths, s.seed);
    let questions = prompts.into_iter().enumerate().map(|(i, ids)| Questions {
        ids,
        labels: LABELS,
        right: i % 2,
    });
    let coeffs = &COEFFS[..s.coeffs.min(COEFFS.len())];
    let mut cells = Vec::new();
    for layer in s
        .layers
        .clone()
        .unwrap_or_else(|| (0..spec.layers).collect())
    {
        for (way, sign) in [(Way::Plus, 1.), (Way::Minus, -1.)] {
            let cell = |c: &f64| Cell {
                layer,
                way,
                coeff: sign * c,
            };
            cells.extend(coeffs.iter().map(cell));
        }
        cells.push(Cell {
            layer,
            way: Way::Ablate,
            coeff: 0.,
        });
    }
    SweepWork {
        kind: "sweep".into(),
        questions: questions.collect(),
        cells,
        coeffs: coeffs.to_vec(),
        max_new_tokens: s.generate.unwrap_or(30),
    }
}
