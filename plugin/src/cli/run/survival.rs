//! What a run adds for quantized weights: merges of every type and way, measured.

use super::pipeline::Run;
use crate::cli::bar;
use crate::cli::opened::write_json;
use crate::decoder::{Llama, LoadOptions};
use crate::model::Source;
use crate::model::uqff::WeightType;
use crate::quantize::{MergeEvaluator, Merger, QuantizedReport, calibration};
use anyhow::{Context, Result, bail};
use reptune_adapters::{Adapter, DirectionSet, HookedModel};
use reptune_recipes::recipe::Mode;
use reptune_recipes::recipe::{MergeRounding, Retention};
use reptune_recipes::tune::Tuner;
use reptune_report::QuantizedRow;

const NAME: &str = "survival.json";

/// Makes and measures the merges that the recipe's `[retention]` names; `tuned` are the
/// updates of the run, with the hashes of their inputs.
pub fn survival(
    run: &mut Run,
    directions: &DirectionSet,
    tuned: &[(Mode, Adapter)],
    keys: &[String],
) -> Result<Vec<QuantizedRow>> {
    let Some(wanted) = run.session.recipe.retention.clone() else {
        return Ok(Vec::new());
    };
    let types = wanted.types.iter().map(|t| WeightType::parse(t));
    let types: Vec<WeightType> = types.collect::<crate::Result<_>>()?;
    let r = &run.session.recipe;
    let inputs = run.recipe(&[&r.retention, &r.prompt, &r.data, &r.evaluation, &r.tuning]);
    let mut inputs: Vec<&str> = vec![&inputs];
    inputs.extend(keys.iter().map(String::as_str));
    let session = &run.session;
    run.stages.run(NAME, &inputs, |path| {
        let merges = Merges {
            wanted: &wanted,
            source: Source::open(&session.directory)?,
            calibration: calibration(session)?,
            evaluator: MergeEvaluator::new(session, Some(directions))?,
            session,
            directions,
        };
        write_json(path, &merges.rows(&types, tuned)?)
    })?;
    run.read(NAME)
}

/// Refuses a `[retention]` that cannot be carried out, before anything is computed.
pub fn check(run: &Run) -> Result<()> {
    let Some(survival) = &run.session.recipe.retention else {
        return Ok(());
    };
    for name in &survival.types {
        WeightType::parse(name).context("key `retention.types`")?;
    }
    let modes = &run.session.recipe.tuning.modes;
    if let Some(mode) = survival.modes.iter().find(|m| !modes.contains(m)) {
        bail!("key `retention.modes`: expected modes of `tuning.modes`, found \"{mode}\"");
    }
    Ok(())
}

struct Merges<'a> {
    wanted: &'a Retention,
    source: Source,
    calibration: Vec<Vec<u32>>,
    evaluator: MergeEvaluator<'a>,
    session: &'a crate::session::Session,
    directions: &'a DirectionSet,
}

impl Merges<'_> {
    fn rows(
        &self,
        types: &[WeightType],
        tuned: &[(Mode, Adapter)],
    ) -> crate::Result<Vec<QuantizedRow>> {
        let (ways, modes) = (&self.wanted.rounding, &self.wanted.modes);
        let bar = bar(
            types.len() * (1 + ways.len() * modes.len()),
            "quantized merges",
        );
        let mut rows = vec![self.evaluator.unquantized("base", None)?];
        for (mode, update) in tuned.iter().filter(|(m, _)| modes.contains(m)) {
            rows.push(self.evaluator.unquantized(mode.name(), Some(update))?);
        }
        let none = Adapter::default();
        for stored in types {
            let (host, report) =
                self.merged((MergeRounding::Nearest, *stored), (Mode::Truth, &none))?;
            let row = self.evaluator.quantized("base", &host, None, &report)?;
            rows.push(labelled(row, MergeRounding::Nearest, *stored));
            bar.inc(1);
            for (mode, update) in tuned.iter().filter(|(m, _)| modes.contains(m)) {
                for way in ways {
                    bar.set_message(format!("{mode}, {stored}, {way}"));
                    let (host, report) = self.merged((*way, *stored), (*mode, update))?;
                    let name = mode.name();
                    let row = self
                        .evaluator
                        .quantized(name, &host, Some(update), &report)?;
                    rows.push(labelled(row, *way, *stored));
                    bar.inc(1);
                }
            }
        }
        bar.finish_and_clear();
        Ok(rows)
    }

    fn merged(
        &self,
        (way, stored): (MergeRounding, WeightType),
        (mode, update): (Mode, &Adapter),
    ) -> crate::Result<(Llama, QuantizedReport)> {
        let room =
            tempfile::tempdir().map_err(|e| reptune_adapters::Error::write("temporary", e))?;
        let (session, metrics) = (self.session, room.path().join("metrics.jsonl"));
        let retune = |host: &dyn HookedModel| -> crate::Result<Adapter> {
            let (chat, recipe, items) = (&session.chat, &session.recipe, &session.items);
            let (train, validation) = (&items.train, &items.validation);
            let d = self.directions;
            let tuner = Tuner::new(host, chat, recipe, mode, d, train, validation)?;
            Ok(tuner.tune(tuner.fresh()?, &metrics, &mut |_| {})?)
        };
        let merger = Merger {
            source: &self.source,
            update,
            calibration: &self.calibration,
            growth: self.wanted.growth,
            retuner: Some(&retune),
        };
        let out = room.path().join("merged");
        let report = merger.write(way, Some(stored), &out, &mut |_, _| {})?;
        Ok((Llama::load(&out, LoadOptions::default())?, report))
    }
}

fn labelled(row: QuantizedRow, way: MergeRounding, wanted: WeightType) -> QuantizedRow {
    QuantizedRow {
        rounding: way.name().into(),
        wanted: wanted.to_string(),
        ..row
    }
}
