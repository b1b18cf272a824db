//! A whole recipe: directions, doses, tuned, merged and baked models, and the report on them.

use super::results::{self, RunModels};
use super::run::{Run, Tuned, tuned_name};
use super::{figures, merge};
use crate::bake::{self, BakePlan};
use crate::error::{Error, Result, caught};
use crate::model::{ModelDir, Source, open_checked, uqff::WeightType};
use crate::progress;
use crate::session::{Session, StageInput, Totals};
use crate::stages::write_json;
use reptune_adapters::{DirectionSet, HookedModel, files, lora::peft};
use reptune_recipes::{recipe::Mode, report::write_report};
use reptune_report::{ModelRow, QuantizedRow, Report, ResultTable, StageFailure};
use std::path::{Path, PathBuf};

/// What a run made.
pub struct RunOutcome {
    /// The answers of every model, and what failed.
    pub results: ResultTable,
    /// The quantized merges.
    pub quantized: Vec<QuantizedRow>,
    /// The page of the report.
    pub page: PathBuf,
}

/// Does everything that the recipe of `run` says. A stage that fails costs only what depends
/// on it; the report names both.
pub fn run(run: &mut Run) -> Result<RunOutcome> {
    let model = ModelDir::at(&run.session.directory)?;
    if model.is_quantized() {
        let (expected, found) = ("full weights, which a run merges and bakes", "a UQFF");
        let hint = "name a Hugging Face checkpoint with --model";
        return Err(Error::model(model.path(), "model", expected, found, hint));
    }
    let base = open_checked(&model)?;
    merge::check_retention(run)?;
    let directions = run.directions();
    let skipped = [
        "doses", "steering", "tuning", "merging", "baking", "figures",
    ];
    let directions = run.failures.keep("directions", skipped, directions);
    let mut made = RunModels::default();
    let (mut quantized, mut repeats) = (Vec::new(), Vec::new());
    if let Some((directions, key)) = &directions {
        let doses = doses(run, directions, key);
        let skipped = ["rows of steered and baked models"];
        made.steering = run.failures.keep("doses", skipped, doses);
        made.tuned = tune_and_merge(run, &base, directions, key);
        quantized = merge::retention(run, (directions, key), &made.tuned);
        repeats = results::repeats(run, directions, key);
        if let Some((steering, totals, key)) = &made.steering {
            made.baked = bake_doses(run, steering, totals, key);
        }
    }
    let rows = made.rows(run);
    let mut results = table(&run.session, rows);
    results.failures = run.failures.all().to_vec();

    let (session, r) = (&run.session, &run.session.recipe);
    let claims = r.study.iter().flat_map(|s| &s.claims);
    let findings = claims.map(|c| c.judge(&results, &repeats)).collect();
    let mut report = Report {
        findings,
        repeats,
        quantized,
        ..figures::report(session, &results)?
    };
    let totals = made.steering.as_ref().map(|(_, totals, _)| totals);
    let directions = directions.as_ref().map(|(directions, _)| directions);
    let adapter = |t: &Tuned| (t.mode, run.stages.path(&tuned_name(t.mode)));
    let adapters: Vec<(Mode, PathBuf)> = made.tuned.iter().map(adapter).collect();
    let keys = made.tuned.iter().map(|t| t.key.clone());
    let inputs = keys.chain([session.extraction_inputs(), totals.json(), report.json()]);
    let inputs: Vec<String> = inputs.collect();
    let written = run.stages.run("report", inputs, |path| {
        // With what can be drawn, before a failure to draw the rest is one of the run.
        let drawn = caught("figures", || match directions {
            None => Ok(()),
            Some(d) => figures::draw(session, d, totals, &adapters, &mut report),
        });
        if let Err(e) = &drawn {
            let (stage, error, skipped) = ("figures".to_owned(), e.to_string(), Vec::new());
            report.results.failures.push(StageFailure {
                stage,
                error,
                skipped,
            });
        }
        write_report(&report, path)?;
        drawn
    });
    run.failures.keep("figures", [""; 0], written);
    results.failures = run.failures.all().to_vec();
    let text = run.stages.path("report.txt");
    files::write_atomically(&text, |w| writeln!(w, "{results}"))?;
    write_json(&run.stages.path("report.json"), &results)?;
    if let Some(file) = run
        .session
        .recipe
        .study
        .as_ref()
        .and_then(|s| s.results.as_ref())
    {
        let report = Report {
            results: ResultTable {
                model: file_name(Path::new(&results.model)),
                ..results.clone()
            },
            findings: report.findings.clone(),
            repeats: report.repeats.clone(),
            quantized: report.quantized.clone(),
            ..Report::default()
        };
        let (recipe, text) = (file_name(&run.session.file), report.markdown());
        let head = format!("# Results\n\nWritten by `reptune run` of `{recipe}`.\n\n");
        files::write_atomically(file, |w| write!(w, "{head}{text}"))?;
    }
    Ok(RunOutcome {
        results,
        quantized: report.quantized,
        page: run.stages.path("report/index.html"),
    })
}

/// The directions that steer, with the totals of the run and the hash of their inputs.
fn doses(
    run: &mut Run,
    directions: &DirectionSet,
    key: &str,
) -> Result<(DirectionSet, Totals, String)> {
    let (settings, spec) = (&run.session.recipe.steering, run.session.llama.spec());
    let steering = settings.directions(directions, spec)?;
    let (totals, key) = run.totals(&steering, key)?;
    Ok((steering, totals, key))
}

/// Tunes and merges every mode.
fn tune_and_merge(
    run: &mut Run,
    base: &Source,
    directions: &DirectionSet,
    key: &str,
) -> Vec<Tuned> {
    let mut tuned = Vec::new();
    for mode in run.session.recipe.tuning.modes.clone() {
        let made = run.tuned(mode, None, directions, key, None);
        let made = made
            .and_then(|(adapter, key)| Ok((peft::load(&adapter, run.session.llama.spec())?, key)));
        let skipped = [format!("everything of the model `tuned {mode}`")];
        let made = run.failures.keep(&format!("tune {mode}"), skipped, made);
        let Some((update, key)) = made else { continue };
        let name = format!("merged/{}", mode.file_name());
        let merged = run.stages.run(&name, &[&key], |path| {
            let mut shown = progress::of(format!("merge {mode}"));
            let mut shown = |_: &Path, done, all| shown(done, all);
            base.merge(&update, path, &mut shown)?;
            Ok(())
        });
        let skipped = [format!("the row `merged {mode}, mistral.rs`")];
        let merged = run.failures.keep(&format!("merge {mode}"), skipped, merged);
        tuned.push(Tuned {
            mode,
            update,
            key,
            merged: merged.map(|_| run.stages.path(&name)),
        });
    }
    tuned
}

/// Bakes both doses where that is exact; returns each with its sign and its directory.
fn bake_doses(
    run: &mut Run,
    directions: &DirectionSet,
    totals: &Totals,
    key: &str,
) -> Vec<(&'static str, f64, PathBuf)> {
    let mut baked = Vec::new();
    for (sign, total) in [("plus", totals.positive), ("minus", totals.negative)] {
        let name = format!("baked/{sign}");
        let made = bake_dose(run, directions, total, (&name, key));
        let skipped = [format!("the row of the model baked with {total:+.1}")];
        let made = run.failures.keep(&format!("bake {sign}"), skipped, made);
        baked.extend(made.flatten().map(|path| (sign, total, path)));
    }
    baked
}

/// Bakes one dose; none where the weights cannot hold it exactly.
fn bake_dose(
    run: &mut Run,
    directions: &DirectionSet,
    total: f64,
    (name, key): (&str, &str),
) -> Result<Option<PathBuf>> {
    let session = &run.session;
    let interventions = [session.steering(directions, total)?];
    if BakePlan::of(session.llama.spec(), &interventions).is_err() {
        return Ok(None);
    }
    run.stages.run(name, &[key], |path| {
        let model = &session.directory;
        let mut shown = progress::of(format!("bake {total:+.1}"));
        bake::bake(model, &interventions, WeightType::F32, path, &mut shown)?;
        Ok(())
    })?;
    Ok(Some(run.stages.path(name)))
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
        failures: Vec::new(),
    }
}

/// The last part of a path: a file that travels does not say where it was made.
fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}
