//! Sweeps over layers and coefficients, by scored answers or by generated texts.

use crate::peak_bytes;
use crate::workload::{
    DeviceArgs, LABELS, SweepWork, WorkArgs, WorkCell, WorkOperator, WorkQuestion, directions,
    range, read_or_make,
};
use anyhow::{Context, Result};
use clap::Args;
use reptune::Llama;
use reptune_adapters::{
    DirectionSet, Dose, HookedModel, Intervention, ModelSpec, Operator, Positions,
};
use reptune_recipes::activation_cache::ActivationCache;
use reptune_recipes::generate::{Generation, generate_variants};
use reptune_recipes::grid::{SteeringGrid, SteeringKind};
use reptune_recipes::score::{Choice, ModelVariant};
use reptune_recipes::sweep::sweep;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Instant;

/// A sweep takes the first few of these coefficients.
const COEFFS: [f64; 8] = [2., 4., 8., 12., 16., 24., 32., 48.];

#[derive(Args)]
pub struct SweepArgs {
    #[command(flatten)]
    work: WorkArgs,
    #[command(flatten)]
    place: DeviceArgs,
    /// Questions with two answers
    #[arg(long, default_value_t = 50)]
    questions: usize,
    /// Number of coefficients, each added and subtracted; ablation is one more cell
    #[arg(long, default_value_t = 6)]
    coeffs: usize,
    /// Layers such as 3-5 [default: all]
    #[arg(long, value_parser = range)]
    layers: Option<(usize, usize)>,
    /// Generate this many tokens instead of scoring the answers
    #[arg(long, value_name = "TOKENS")]
    generate: Option<usize>,
}

pub fn run(a: &SweepArgs) -> Result<Value> {
    let (llama, load_seconds) = a.place.load(&a.work.model)?;
    let (work, directions) = read_or_make(&a.work.work, |_| {
        let set = directions(llama.spec(), a.work.seed)?;
        Ok((make(llama.spec(), a), Some(set)))
    })?;
    let directions = directions.context("the workload holds no directions")?;
    let started = Instant::now();
    let (key, result) = match a.generate {
        None => ("log_odds", json!(answers(&llama, &work, &directions)?)),
        Some(_) => ("tokens", json!(texts(&llama, &work, &directions)?)),
    };
    let seconds = started.elapsed().as_secs_f64();
    Ok(json!({
        "work": "sweep", "seconds": seconds, "cells": work.cells.len(),
        "cells_per_second": work.cells.len() as f64 / seconds, "load_seconds": load_seconds,
        "peak_bytes": peak_bytes(), key: result,
    }))
}

/// Log-odds by cell and question.
fn answers(llama: &Llama, work: &SweepWork, set: &DirectionSet) -> Result<Vec<Vec<Option<f32>>>> {
    let choices = work.questions.iter().map(|q| Choice {
        prompt: q.ids.clone(),
        responses: q.labels.map(|label| vec![label]).to_vec(),
        positive: q.right,
    });
    let choices: Vec<Choice> = choices.collect();
    let mut layers: Vec<Vec<usize>> = work.cells.iter().map(|c| vec![c.layer]).collect();
    layers.dedup();
    let doses: Vec<Dose> = work.coeffs.iter().map(|c| Dose::Total(*c)).collect();
    let grid = SteeringGrid {
        directions: &[set],
        layers: &layers,
        doses: &doses,
        kinds: &[
            SteeringKind::Plus,
            SteeringKind::Minus,
            SteeringKind::Ablate,
        ],
        positions: &Positions::All,
    };
    let room = tempfile::tempdir()?;
    let file = room.path().join("sweep.jsonl");
    let base = ModelVariant::base(llama);
    let cells = sweep(&base, &choices, &grid, &file, &mut |_, _| {})?;
    // the first cell is the unsteered model
    Ok(cells
        .into_iter()
        .skip(1)
        .map(|c| c.scores.log_odds)
        .collect())
}

/// Generated tokens by cell and question.
fn texts(llama: &Llama, work: &SweepWork, set: &DirectionSet) -> Result<Vec<Vec<Vec<u32>>>> {
    let prompts: Vec<Vec<u32>> = work.questions.iter().map(|q| q.ids.clone()).collect();
    let layers: BTreeSet<usize> = work.cells.iter().map(|c| c.layer).collect();
    let layers: Vec<usize> = layers.into_iter().collect();
    let cache = ActivationCache::for_generation(llama, &prompts, &layers, None)?;
    let steering = |cell: &WorkCell| {
        let operator = match cell.operator {
            WorkOperator::Ablate => Operator::Ablate,
            WorkOperator::Add => Operator::Add,
        };
        Ok(vec![Intervention::new(
            set,
            &[cell.layer],
            Dose::Total(cell.coeff),
            operator,
        )?])
    };
    let variants: Vec<_> = work.cells.iter().map(steering).collect::<Result<_>>()?;
    let how = Generation {
        max_new_tokens: work.max_new_tokens,
        cache: Some(&cache),
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

fn make(spec: &ModelSpec, a: &SweepArgs) -> SweepWork {
    let prompts = a.work.prompts(spec, a.questions).into_iter();
    let questions = prompts.enumerate().map(|(i, ids)| WorkQuestion {
        ids,
        labels: LABELS,
        right: i % 2,
    });
    let coeffs = &COEFFS[..a.coeffs.min(COEFFS.len())];
    let (first, last) = a.layers.unwrap_or((0, spec.layers - 1));
    let mut cells = Vec::new();
    for layer in first..=last {
        for sign in [1., -1.] {
            cells.extend(coeffs.iter().map(|c| WorkCell {
                layer,
                operator: WorkOperator::Add,
                coeff: sign * c,
            }));
        }
        cells.push(WorkCell {
            layer,
            operator: WorkOperator::Ablate,
            coeff: 0.,
        });
    }
    SweepWork {
        kind: "sweep".into(),
        questions: questions.collect(),
        cells,
        coeffs: coeffs.to_vec(),
        max_new_tokens: a.generate.unwrap_or(30),
    }
}
