//! `reptune run`, and its parts: `extract`, `tune`, `evaluate`.

mod models;
mod pipeline;
mod repeats;
mod study;
mod survival;

use super::opened::{open, write_json};
use super::{bar, flags, generate};
use crate::bake;
use crate::model::Checkpoint;
use crate::model::uqff::WeightType;
use crate::session::Session;
use anyhow::{Context, Result};
use pipeline::{DIRECTIONS, ORDERED, Run};
use reptune_adapters::{HookedModel, Operator, Positions, files, lora::peft};
use reptune_recipes::merge as fold;
use reptune_recipes::report::write_report;
use reptune_report::{ModelRow, Report, ResultTable, aligned, quantized_table};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;

pub fn extract(a: &flags::Recipe) -> Result<()> {
    let mut run = Run::open(a)?;
    let (set, _) = run.directions()?;
    let p = &set.provenance;
    if a.json {
        let norms: serde_json::Map<_, _> = set
            .layers
            .iter()
            .map(|(l, d)| (l.to_string(), json!(d.norm)))
            .collect();
        println!(
            "{}",
            json!({"directions": run.stages.path(DIRECTIONS), "pairs": p.pairs, "pairs_captured": p.pairs_captured, "norms": norms, "residual_norms": p.residual_norms})
        );
        return Ok(());
    }
    let ordered: BTreeMap<usize, f64> = run.read(ORDERED)?;
    let mut rows = vec![
        ["layer", "norm", "residual norm", "pairs ordered"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for (layer, d) in &set.layers {
        rows.push(vec![
            layer.to_string(),
            format!("{:.2}", d.norm),
            format!("{:.2}", p.residual_norms[layer]),
            format!("{:.3}", ordered[layer]),
        ]);
    }
    println!(
        "{}: {} of {} pairs kept\n\n{}",
        run.stages.path(DIRECTIONS).display(),
        p.pairs,
        p.pairs_captured,
        aligned(&rows)
    );
    Ok(())
}

pub fn tune(a: &flags::Tune) -> Result<()> {
    let mut run = Run::open(&a.recipe)?;
    let (directions, key) = run.directions()?;
    let modes = match a.mode {
        Some(mode) => vec![mode],
        None => run.session.recipe.tuning.modes.clone(),
    };
    for mode in modes {
        let (path, _) = run.tuned(mode, &directions, &key, a.adapter_init.as_deref())?;
        match a.recipe.json {
            true => println!("{}", json!({"mode": mode.name(), "adapter": path})),
            false => println!("{mode}: {}", path.display()),
        }
    }
    Ok(())
}

pub fn evaluate(a: &flags::Evaluate) -> Result<()> {
    let session = open(&a.recipe)?;
    let spec = session.llama.spec();
    let interventions: Vec<_> = generate::steering(&a.steering, spec)?.into_iter().collect();
    let adapter = generate::adapter(a.adapter.as_deref(), spec)?;
    generate::check_effect(
        &a.steering,
        &session.llama,
        &interventions,
        &session.probed()?,
        adapter.as_ref(),
    )?;
    let systems = a
        .system
        .clone()
        .map_or_else(|| session.plain(), |s| vec![s]);
    let bar = bar(
        session.items.test.len() + session.items.choices.len(),
        "evaluate",
    );
    let name = match (interventions.is_empty(), &adapter) {
        (true, None) => "base",
        (false, None) => "steered",
        (true, Some(_)) => "tuned",
        (false, Some(_)) => "tuned and steered",
    };
    let own = session.own(&interventions, adapter.as_ref());
    let measured = session.measure(name, &own, &systems, &mut |n| bar.set_position(n as u64))?;
    bar.finish_and_clear();
    print_report(&report(&session, vec![measured.row]), a.recipe.json)
}

fn report(session: &Session, rows: Vec<ModelRow>) -> ResultTable {
    ResultTable {
        recipe: session.recipe.name.clone(),
        recipe_hash: session.recipe.hash(),
        model: session.llama.spec().name.clone(),
        poles: session.recipe.behaviour.poles.clone(),
        sample_question: session
            .claim_questions()
            .first()
            .map(|q| q.text.clone())
            .unwrap_or_default(),
        rows,
    }
}

fn print_report(report: &ResultTable, json: bool) -> Result<()> {
    match json {
        true => println!("{}", serde_json::to_string(report)?),
        false => println!("{report}"),
    }
    Ok(())
}

pub fn run(a: &flags::Recipe) -> Result<()> {
    let mut run = Run::open(a)?;
    let checkpoint = Checkpoint::find(&run.session.directory);
    checkpoint.context("a run merges and bakes, which takes the full weights")?;
    survival::check(&run)?;
    let (directions, key) = run.directions()?;
    let steering = run.session.steering_directions(&directions)?;
    let (coeffs, steering_key) = run.coeffs(&steering, &key)?;
    let mut keys = vec![steering_key.clone()];
    let mut tuned = Vec::new();
    for mode in run.session.recipe.tuning.modes.clone() {
        let (adapter, key) = run.tuned(mode, &directions, &key, None)?;
        let update = peft::load(&adapter, run.session.llama.spec())?;
        let merged = format!("merged/{}", mode.file_name());
        let directory = run.session.directory.clone();
        run.stages.run(&merged, &[&key], |path| {
            fold::merge(&directory, &update, path, &mut |_, _, _| {})?;
            Ok(())
        })?;
        keys.push(key);
        tuned.push((mode, update, run.stages.path(&merged)));
    }
    let updates: Vec<_> = tuned.iter().map(|(m, u, _)| (*m, u.clone())).collect();
    let survived = survival::survival(&mut run, &directions, &updates, &keys)?;
    let repeats = repeats::repeats(&mut run, &directions, &key)?;
    let mut baked = Vec::new();
    for (sign, coeff) in [("plus", coeffs.positive), ("minus", coeffs.negative)] {
        let name = format!("baked/{sign}");
        let session = &run.session;
        let intervention = session.steering(&steering, coeff)?;
        let constant = intervention.operator() == Operator::Add && intervention.gate().is_none();
        if !constant || *intervention.rows() != Positions::All {
            continue;
        }
        run.stages.run(&name, &[&steering_key], |path| {
            bake::bake(
                &session.directory,
                &[intervention],
                WeightType::F32,
                path,
                &mut |_, _| {},
            )?;
            Ok(())
        })?;
        baked.push((coeff, run.stages.path(&name)));
    }
    let r = &run.session.recipe;
    let inputs = run.recipe(&[
        &r.seed,
        &r.behaviour,
        &r.prompt,
        &r.data,
        &r.evaluation,
        &r.steering,
        &r.study.as_ref().map(|s| &s.seeds),
    ]);
    let mut inputs: Vec<&str> = vec![&inputs];
    inputs.extend(keys.iter().map(String::as_str));
    let session = &run.session;
    let key = run.stages.run("report.json", &inputs, |path| {
        let models = models::Models {
            steering: &steering,
            coeffs: &coeffs,
            tuned: &tuned,
            baked: &baked,
        };
        let judge = path.with_file_name("judge.jsonl");
        let controls = match session.recipe.study {
            Some(_) => repeats::controls(session, &steering, &coeffs)?,
            None => Vec::new(),
        };
        let report = report(session, models.rows(session, controls, &judge)?);
        files::write_atomically(&path.with_file_name("report.txt"), |w| {
            writeln!(w, "{report}")
        })?;
        write_json(path, &report)
    })?;
    let report: ResultTable = run.read("report.json")?;
    let study = study::Inputs {
        directions: &directions,
        coeffs: &coeffs,
        results: &report,
        flags: a,
    };
    let text = files::read(&a.recipe)?;
    let hash = files::sha256([text.as_slice()]);
    let metrics: Vec<_> = tuned
        .iter()
        .map(|(mode, ..)| {
            (
                *mode,
                run.stages.path(&format!("tuned/{}", mode.file_name())),
            )
        })
        .collect();
    let repeated = serde_json::to_string(&(&repeats, &survived))?;
    let claims = session.recipe.study.iter().flat_map(|s| &s.claims);
    let findings: Vec<_> = claims.map(|c| c.judge(&report, &repeats)).collect();
    run.stages
        .run("report", &[&key, &hash, &repeated], |path| {
            let mut study = study.fill(session, &metrics)?;
            study.findings = findings.clone();
            study.repeats = repeats.clone();
            study.quantized = survived.clone();
            Ok(write_report(&study, path)?)
        })?;
    let results = session
        .recipe
        .study
        .as_ref()
        .and_then(|s| s.results.as_ref());
    if let Some(results) = results {
        let study = Report {
            results: ResultTable {
                model: name(&report.model),
                ..report.clone()
            },
            findings,
            repeats,
            quantized: survived.clone(),
            ..Report::default()
        };
        let recipe = name(&a.recipe.display().to_string());
        files::write_atomically(results, |w| {
            let text = study.markdown();
            write!(
                w,
                "# Results\n\nWritten by `reptune run` of `{recipe}`.\n\n{text}"
            )
        })?;
    }
    print_report(&report, a.json)?;
    if !a.json && !survived.is_empty() {
        println!("\n{}", quantized_table(&survived, &report.poles));
    }
    if !a.json {
        println!(
            "\nfigures: {}",
            run.stages.path("report/index.html").display()
        );
    }
    Ok(())
}

/// The last part of a path: where it lies is nobody's business in a file that travels.
fn name(path: &str) -> String {
    let last = Path::new(path).file_name();
    last.map_or_else(|| path.to_owned(), |n| n.to_string_lossy().into_owned())
}
