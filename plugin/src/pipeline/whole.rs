//! A whole recipe: directions, doses, tuned, merged and baked models, and the report on them.

use super::run::{Run, Tuned, tuned_name, write_json};
use super::{controls, figures, results, retention};
use crate::bake;
use crate::error::{Error, Result};
use crate::model::uqff::WeightType;
use crate::session::{Coeffs, Session};
use reptune_adapters::formats::safetensors::shards;
use reptune_adapters::{DirectionSet, HookedModel, Operator, Positions, files, lora::peft};
use reptune_recipes::merge as fold;
use reptune_recipes::recipe::Mode;
use reptune_recipes::report::write_report;
use reptune_report::{ModelRow, QuantizedRow, Report, ResultTable};
use std::path::{Path, PathBuf};

/// What a run found.
pub struct Finished {
    /// Every model and what it answered.
    pub results: ResultTable,
    /// The quantized merges that were measured.
    pub quantized: Vec<QuantizedRow>,
    /// The report with figures.
    pub page: PathBuf,
}

/// Does everything that the recipe of `run` says.
///
/// # Errors
/// When a stage fails; earlier stages are not done again.
pub fn run(run: &mut Run) -> Result<Finished> {
    shards(&run.session.directory).map_err(|e| {
        let (expected, found) = ("full weights, which a run merges and bakes", e.to_string());
        let hint = "name a Hugging Face checkpoint with --model";
        Error::model(&run.session.directory, "model", expected, found, hint)
    })?;
    retention::check(run)?;
    let (directions, key) = run.directions()?;
    let steering = run.session.steering_directions(&directions)?;
    let (coeffs, steering_key) = run.coeffs(&steering, &key)?;
    let mut keys = vec![steering_key.clone()];
    let tuned = tune_and_merge(run, &directions, &key, &mut keys)?;
    let quantized = retention::retention(run, &directions, &tuned, &keys)?;
    let repeats = controls::repeats(run, &directions, &key)?;
    let baked = bake_doses(run, &steering, &coeffs, &steering_key)?;

    let r = &run.session.recipe;
    let seeds = r.study.as_ref().map(|s| &s.seeds);
    let inputs = run.session.inputs(&[
        &r.seed,
        &r.behaviour,
        &r.prompt,
        &r.data,
        &r.evaluation,
        &r.steering,
        &seeds,
    ]);
    let mut inputs: Vec<&str> = vec![&inputs];
    inputs.extend(keys.iter().map(String::as_str));
    let session = &run.session;
    let key = run.stages.run("report.json", &inputs, |path| {
        let models = results::Models {
            steering: &steering,
            coeffs: &coeffs,
            tuned: &tuned,
            baked: &baked,
        };
        let judge = path.with_file_name("judge.jsonl");
        let controls = match session.recipe.study {
            Some(_) => controls::controls(session, &steering, &coeffs)?,
            None => Vec::new(),
        };
        let table = table(session, models.rows(session, controls, &judge)?);
        let text = path.with_file_name("report.txt");
        files::write_atomically(&text, |w| writeln!(w, "{table}"))?;
        write_json(path, &table)
    })?;
    let results: ResultTable = run.read("report.json")?;

    let claims = session.recipe.study.iter().flat_map(|s| &s.claims);
    let findings: Vec<_> = claims.map(|c| c.judge(&results, &repeats)).collect();
    let figures = figures::Inputs {
        directions: &directions,
        coeffs: &coeffs,
        results: &results,
    };
    let recipe = files::sha256([files::read(&session.file)?.as_slice()]);
    let adapters: Vec<(Mode, PathBuf)> = tuned
        .iter()
        .map(|(mode, ..)| (*mode, run.stages.path(&tuned_name(*mode))))
        .collect();
    let repeated = serde_json::to_string(&(&repeats, &quantized)).unwrap_or_default();
    run.stages
        .run("report", &[&key, &recipe, &repeated], |path| {
            let report = Report {
                findings: findings.clone(),
                repeats: repeats.clone(),
                quantized: quantized.clone(),
                ..figures.fill(session, &adapters)?
            };
            Ok(write_report(&report, path)?)
        })?;
    let study = session.recipe.study.as_ref();
    if let Some(file) = study.and_then(|s| s.results.as_ref()) {
        let report = Report {
            results: ResultTable {
                model: file_name(Path::new(&results.model)),
                ..results.clone()
            },
            findings,
            repeats,
            quantized: quantized.clone(),
            ..Report::default()
        };
        write_results(file, &session.file, &report)?;
    }
    Ok(Finished {
        results,
        quantized,
        page: run.stages.path("report/index.html"),
    })
}

/// Tunes and merges every mode; adds the keys of the adapters to `keys`.
fn tune_and_merge(
    run: &mut Run,
    directions: &DirectionSet,
    key: &str,
    keys: &mut Vec<String>,
) -> Result<Vec<Tuned>> {
    let mut tuned = Vec::new();
    for mode in run.session.recipe.tuning.modes.clone() {
        let (adapter, key) = run.tuned(mode, directions, key, None)?;
        let update = peft::load(&adapter, run.session.llama.spec())?;
        let merged = format!("merged/{}", mode.file_name());
        let directory = &run.session.directory;
        run.stages.run(&merged, &[&key], |path| {
            fold::merge(directory, &update, path, &mut |_, _, _| {})?;
            Ok(())
        })?;
        keys.push(key);
        tuned.push((mode, update, run.stages.path(&merged)));
    }
    Ok(tuned)
}

/// Bakes both doses where that is exact; returns each with its directory.
fn bake_doses(
    run: &mut Run,
    directions: &DirectionSet,
    coeffs: &Coeffs,
    key: &str,
) -> Result<Vec<(f64, PathBuf)>> {
    let mut baked = Vec::new();
    for (sign, coeff) in [("plus", coeffs.positive), ("minus", coeffs.negative)] {
        let name = format!("baked/{sign}");
        let session = &run.session;
        let intervention = session.steering(directions, coeff)?;
        let constant = intervention.operator() == Operator::Add && intervention.gate().is_none();
        if !constant || *intervention.rows() != Positions::All {
            continue;
        }
        run.stages.run(&name, &[key], |path| {
            let (model, interventions) = (&session.directory, [intervention]);
            bake::bake(model, &interventions, WeightType::F32, path, &mut |_, _| {})?;
            Ok(())
        })?;
        baked.push((coeff, run.stages.path(&name)));
    }
    Ok(baked)
}

/// `rows` as the table of a recipe.
pub fn table(session: &Session, rows: Vec<ModelRow>) -> ResultTable {
    let questions = session.claim_questions();
    ResultTable {
        recipe: session.recipe.name.clone(),
        recipe_hash: session.recipe.hash(),
        model: session.llama.spec().name.clone(),
        poles: session.recipe.behaviour.poles.clone(),
        sample_question: questions
            .first()
            .map(|q| q.text.clone())
            .unwrap_or_default(),
        rows,
    }
}

fn write_results(file: &Path, recipe: &Path, report: &Report) -> Result<()> {
    let (recipe, text) = (file_name(recipe), report.markdown());
    Ok(files::write_atomically(file, |w| {
        write!(
            w,
            "# Results\n\nWritten by `reptune run` of `{recipe}`.\n\n{text}"
        )
    })?)
}

/// The last part of a path: a file that travels does not say where it was made.
fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}
