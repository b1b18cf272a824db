//! A whole recipe: directions, doses, tuned, merged and baked models, and the report on them.

use super::results::{RunModels, repeats};
use super::run::{Run, Tuned, tuned_name};
use super::{figures, merge};
use crate::bake;
use crate::error::{Error, Result};
use crate::model::{ModelDir, Source, open_checked, uqff::WeightType};
use crate::session::{Coeffs, Session, StageInput};
use reptune_adapters::{DirectionSet, HookedModel, Operator, Positions, files, lora::peft};
use reptune_recipes::{recipe::Mode, report::write_report};
use reptune_report::{ModelRow, QuantizedRow, Report, ResultTable};
use std::path::{Path, PathBuf};

/// Does everything that the recipe of `run` says; returns the answers of every model, the
/// quantized merges, and the page of the report.
pub fn run(run: &mut Run) -> Result<(ResultTable, Vec<QuantizedRow>, PathBuf)> {
    let model = ModelDir::at(&run.session.directory)?;
    if model.is_quantized() {
        let (expected, found) = ("full weights, which a run merges and bakes", "a UQFF");
        let hint = "name a Hugging Face checkpoint with --model";
        return Err(Error::model(model.path(), "model", expected, found, hint));
    }
    let base = open_checked(&model)?;
    merge::check_retention(run)?;
    let (directions, key) = run.directions()?;
    let (settings, spec) = (&run.session.recipe.steering, run.session.llama.spec());
    let steering = settings.directions(&directions, spec)?;
    let (coeffs, steering_key) = run.coeffs(&steering, &key)?;
    let mut keys = vec![steering_key.clone()];
    let tuned = tune_and_merge(run, &base, &directions, &key, &mut keys)?;
    let quantized = merge::retention(run, &directions, &tuned, &keys)?;
    let repeats = repeats(run, &directions, &key)?;
    let baked = bake_doses(run, &steering, &coeffs, &steering_key)?;

    let (session, r) = (&run.session, &run.session.recipe);
    let inputs = session.inputs(&[
        &r.seed,
        &r.behaviour,
        &r.prompt,
        &r.data,
        &r.evaluation,
        &r.steering,
        &r.study.as_ref().map(|s| &s.seeds),
    ]);
    let inputs = [&inputs].into_iter().chain(&keys);
    let [judge, text] = ["judge.jsonl", "report.txt"].map(|name| run.stages.path(name));
    let (results, key) = run.stages.json("report.json", inputs, || {
        let models = RunModels {
            session,
            steering: &steering,
            coeffs: &coeffs,
            tuned: &tuned,
            baked: &baked,
        };
        let table = table(session, models.rows(&judge)?);
        files::write_atomically(&text, |w| writeln!(w, "{table}"))?;
        Ok(table)
    })?;

    let claims = r.study.iter().flat_map(|s| &s.claims);
    let findings: Vec<_> = claims.map(|c| c.judge(&results, &repeats)).collect();
    let recipe = files::sha256([files::read(&session.file)?.as_slice()]);
    let adapter = |(mode, ..): &Tuned| (*mode, run.stages.path(&tuned_name(*mode)));
    let adapters: Vec<(Mode, PathBuf)> = tuned.iter().map(adapter).collect();
    let inputs = [key, recipe, (&repeats, &quantized).json()];
    run.stages.run("report", inputs, |path| {
        let report = Report {
            findings: findings.clone(),
            repeats: repeats.clone(),
            quantized: quantized.clone(),
            ..figures::report(session, &directions, &coeffs, &results, &adapters)?
        };
        Ok(write_report(&report, path)?)
    })?;
    if let Some(file) = r.study.as_ref().and_then(|s| s.results.as_ref()) {
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
        let (recipe, text) = (file_name(&session.file), report.markdown());
        let head = format!("# Results\n\nWritten by `reptune run` of `{recipe}`.\n\n");
        files::write_atomically(file, |w| write!(w, "{head}{text}"))?;
    }
    Ok((results, quantized, run.stages.path("report/index.html")))
}

/// Tunes and merges every mode; adds the keys of the adapters to `keys`.
fn tune_and_merge(
    run: &mut Run,
    base: &Source,
    directions: &DirectionSet,
    key: &str,
    keys: &mut Vec<String>,
) -> Result<Vec<Tuned>> {
    let mut tuned = Vec::new();
    for mode in run.session.recipe.tuning.modes.clone() {
        let (adapter, key) = run.tuned(mode, None, directions, key, None)?;
        let update = peft::load(&adapter, run.session.llama.spec())?;
        let merged = format!("merged/{}", mode.file_name());
        run.stages.run(&merged, &[&key], |path| {
            base.merge(&update, path, &mut |_, _, _| {})?;
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
        let (session, name) = (&run.session, format!("baked/{sign}"));
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
    let first = session.questions(&session.items.test).into_iter().next();
    ResultTable {
        recipe: session.recipe.name.clone(),
        recipe_hash: session.recipe.hash(),
        model: session.llama.spec().name.clone(),
        poles: session.recipe.behaviour.poles.clone(),
        sample_question: first.map_or(String::new(), |q| q.text),
        rows,
    }
}

/// The last part of a path: a file that travels does not say where it was made.
fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}
