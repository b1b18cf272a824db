//! `reptune run` and its stages.

use super::{bar, flags, generate};
use crate::bake;
use crate::llama::{LoadOptions, parse_isq};
use crate::session::{Coeffs, Session, model_key};
use crate::stages::Stages;
use crate::stock::Stock;
use anyhow::{Context, Result};
use reptune_adapters::loss::Mode;
use reptune_adapters::{DirectionSet, Host, LowRankUpdate, Operator, artefact, peft};
use reptune_recipes::evaluate::Answerer;
use reptune_recipes::report::{Report, Row, aligned};
use reptune_recipes::tune::Tuner;
use reptune_recipes::{extract as find, merge as fold};
use serde_json::json;
use std::path::{Path, PathBuf};

const DIRECTIONS: &str = "directions.safetensors";

/// A run in its directory.
struct Run {
    session: Session,
    stages: Stages,
    model: String,
    isq: String,
}

impl Run {
    fn open(a: &flags::Recipe) -> Result<Self> {
        let isq = a.isq.as_deref().map(parse_isq).transpose()?;
        let session = Session::open(&a.recipe, a.model.as_deref(), LoadOptions { isq })?;
        let out = match &a.out {
            Some(out) => out.clone(),
            None => PathBuf::from("runs").join(&session.recipe.name),
        };
        let model = model_key(&session.directory)?;
        let stages = Stages::open(&out)?;
        Ok(Self {
            session,
            stages,
            model,
            isq: a.isq.clone().unwrap_or_default(),
        })
    }

    /// Parts of the recipe as inputs of a stage.
    fn recipe(&self, parts: &[&dyn erased::Json]) -> String {
        let parts: Vec<String> = parts.iter().map(|p| p.json()).collect();
        let data = self.session.recipe.data.claims.file.iter();
        let files: Vec<String> = data
            .filter_map(|f| artefact::read(f).ok())
            .map(|b| artefact::sha256([b.as_slice()]))
            .collect();
        format!("{} {} {} {files:?}", self.model, self.isq, parts.join(" "))
    }

    fn directions(&mut self) -> Result<(DirectionSet, String)> {
        let r = &self.session.recipe;
        let inputs = self.recipe(&[&r.seed, &r.behaviour, &r.prompt, &r.data, &r.extraction]);
        let session = &self.session;
        let key = self.stages.run(DIRECTIONS, &[&inputs], |path| {
            let bar = bar(1, "extract");
            let found = find::extract(
                &session.llama,
                &session.chat,
                &session.recipe,
                &session.items.train,
                &mut |done, total| {
                    bar.set_length(total as u64);
                    bar.set_position(done as u64);
                },
            )?;
            bar.finish_and_clear();
            found.directions.save(path)?;
            let ordered = serde_json::to_string_pretty(&found.ordered).unwrap_or_default();
            Ok(artefact::write_atomically(
                &path.with_file_name("ordered.json"),
                |w| writeln!(w, "{ordered}"),
            )?)
        })?;
        Ok((DirectionSet::load(&self.stages.path(DIRECTIONS))?, key))
    }

    fn coeffs(&mut self, directions: &DirectionSet, key: &str) -> Result<(Coeffs, String)> {
        let r = &self.session.recipe;
        let inputs = self.recipe(&[&r.steering, &r.evaluation.max_new_tokens]);
        let session = &self.session;
        let name = "steering.json";
        let key = self.stages.run(name, &[key, &inputs], |path| {
            let bar = bar(2 * session.recipe.steering.fractions.len(), "choose coeff");
            let coeffs = session.coeffs(directions, &mut |_| bar.inc(1))?;
            bar.finish_and_clear();
            write_json(path, &coeffs)
        })?;
        let coeffs =
            serde_json::from_slice(&artefact::read(&self.stages.path(name))?).context(name)?;
        Ok((coeffs, key))
    }

    fn tuned(
        &mut self,
        mode: Mode,
        directions: &DirectionSet,
        key: &str,
        from: Option<&Path>,
    ) -> Result<(PathBuf, String)> {
        let r = &self.session.recipe;
        let init = from
            .map(|d| artefact::read(&d.join("adapter_model.safetensors")))
            .transpose()?;
        let init = init
            .map(|bytes| artefact::sha256([bytes.as_slice()]))
            .unwrap_or_default();
        let inputs = self.recipe(&[&r.tuning]);
        let session = &self.session;
        let name = format!("tuned/{}", mode.file_name());
        let key = self
            .stages
            .run(&name, &[key, &inputs, mode.name(), &init], |path| {
                let io = |e| reptune_adapters::Error::write(path, e);
                std::fs::create_dir_all(path).map_err(io)?;
                let items = &session.items;
                let tuner = Tuner::new(
                    &session.llama,
                    &session.chat,
                    &session.recipe,
                    mode,
                    directions,
                    &items.train,
                    &items.validation,
                )?;
                let update = match from {
                    Some(directory) => peft::load(directory, session.llama.spec())?,
                    None => tuner.fresh()?,
                };
                let bar = bar(tuner.steps(), &format!("tune {mode}"));
                let update = tuner.tune(update, &path.join("metrics.jsonl"), &mut |m| {
                    bar.inc(1);
                    let representation = m
                        .representation_loss
                        .map_or_else(String::new, |r| format!(" rep {r:.3}"));
                    bar.set_message(format!(
                        "tune {mode}: tok {:.3}{representation}",
                        m.token_loss
                    ));
                })?;
                bar.finish_and_clear();
                Ok(peft::save(path, &update, &session.llama.spec().name)?)
            })?;
        Ok((self.stages.path(&name), key))
    }
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> crate::Result<()> {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    Ok(artefact::write_atomically(path, |w| writeln!(w, "{text}"))?)
}

/// Parts of a recipe of different types in one list.
mod erased {
    pub trait Json {
        fn json(&self) -> String;
    }
    impl<T: serde::Serialize> Json for T {
        fn json(&self) -> String {
            serde_json::to_string(self).unwrap_or_default()
        }
    }
}

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
    let ordered: std::collections::BTreeMap<usize, f64> =
        serde_json::from_slice(&artefact::read(&run.stages.path("ordered.json"))?)
            .context("ordered.json")?;
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
    let isq = a.recipe.isq.as_deref().map(parse_isq).transpose()?;
    let session = Session::open(
        &a.recipe.recipe,
        a.recipe.model.as_deref(),
        LoadOptions { isq },
    )?;
    let spec = session.llama.spec();
    let interventions: Vec<_> = generate::steering(&a.steering, spec)?.into_iter().collect();
    let low_rank = generate::adapter(a.adapter.as_deref(), spec)?;
    let systems = a
        .system
        .clone()
        .map_or_else(|| session.plain(), |s| vec![s]);
    let bar = bar(
        session.items.test.len() + session.items.choices.len(),
        "evaluate",
    );
    let name = match (interventions.is_empty(), &low_rank) {
        (true, None) => "base",
        (false, None) => "steered",
        (true, Some(_)) => "tuned",
        (false, Some(_)) => "tuned and steered",
    };
    let row = session.row(
        name,
        &session.own(&interventions, low_rank.as_ref()),
        &systems,
        &mut |n| bar.set_position(n as u64),
    )?;
    bar.finish_and_clear();
    print_report(&report(&session, vec![row]), a.recipe.json)
}

fn report(session: &Session, rows: Vec<Row>) -> Report {
    Report {
        recipe: session.recipe.name.clone(),
        recipe_hash: session.recipe.hash(),
        model: session.llama.spec().name.clone(),
        sample_question: session
            .claim_questions()
            .first()
            .map(|q| q.text.clone())
            .unwrap_or_default(),
        rows,
    }
}

fn print_report(report: &Report, json: bool) -> Result<()> {
    match json {
        true => println!("{}", serde_json::to_string(report)?),
        false => println!("{report}"),
    }
    Ok(())
}

pub fn run(a: &flags::Recipe) -> Result<()> {
    let mut run = Run::open(a)?;
    let (directions, key) = run.directions()?;
    let (coeffs, steering_key) = run.coeffs(&directions, &key)?;
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
    let mut baked = Vec::new();
    for (sign, coeff) in [("plus", coeffs.positive), ("minus", coeffs.negative)] {
        let name = format!("baked/{sign}");
        let session = &run.session;
        let intervention = session.steering(&directions, coeff, Operator::Add)?;
        if *intervention.rows() != reptune_adapters::RowRule::All {
            continue;
        }
        run.stages.run(&name, &[&steering_key], |path| {
            bake::bake(
                &session.directory,
                &[intervention],
                None,
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
    ]);
    let mut inputs: Vec<&str> = vec![&inputs];
    inputs.extend(keys.iter().map(String::as_str));
    let session = &run.session;
    run.stages.run("report.json", &inputs, |path| {
        let rows = rows(session, &directions, &coeffs, &tuned, &baked)?;
        let report = report(session, rows);
        artefact::write_atomically(&path.with_file_name("report.txt"), |w| {
            writeln!(w, "{report}")
        })?;
        write_json(path, &report)
    })?;
    let report: Report = serde_json::from_slice(&artefact::read(&run.stages.path("report.json"))?)
        .context("report.json")?;
    print_report(&report, a.json)
}

type Tuned = (Mode, LowRankUpdate, PathBuf);

/// Asks every model of the run the test questions.
fn rows(
    session: &Session,
    directions: &DirectionSet,
    coeffs: &Coeffs,
    tuned: &[Tuned],
    baked: &[(f64, PathBuf)],
) -> crate::Result<Vec<Row>> {
    let behaviour = &session.recipe.behaviour;
    let questions = session.items.test.len() + session.items.choices.len();
    let models = 5 + 2 * tuned.len() + baked.len();
    let bar = bar(questions * models, "evaluate");
    let mut rows: Vec<Row> = Vec::new();
    let mut ask = |name: &str, answerer: &dyn Answerer, systems: &[String]| -> crate::Result<()> {
        let from = (rows.len() * questions) as u64;
        bar.set_message(format!("evaluate {name}"));
        rows.push(session.row(name, answerer, systems, &mut |done| {
            bar.set_position(from + done as u64)
        })?);
        Ok(())
    };
    let plain = session.plain();
    let own = session.own(&[], None);
    ask("base", &own, &plain)?;
    ask("prompted, positive", &own, &behaviour.positive)?;
    ask("prompted, negative", &own, &behaviour.negative)?;
    for coeff in [coeffs.positive, coeffs.negative] {
        let steering = [session.steering(directions, coeff, Operator::Add)?];
        ask(
            &format!("steered {coeff:+.1}"),
            &session.own(&steering, None),
            &plain,
        )?;
    }
    for (mode, update, merged) in tuned {
        ask(
            &format!("tuned {mode}"),
            &session.own(&[], Some(update)),
            &plain,
        )?;
        ask(
            &format!("merged {mode}, stock mistral.rs"),
            &Stock::load(merged, None)?,
            &plain,
        )?;
    }
    for (coeff, directory) in baked {
        ask(
            &format!("baked {coeff:+.1}, stock mistral.rs"),
            &Stock::load(directory, None)?,
            &plain,
        )?;
    }
    bar.finish_and_clear();
    Ok(rows)
}
