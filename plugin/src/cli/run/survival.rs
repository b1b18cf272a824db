//! What a run adds for quantized weights: merges of every type and way, measured.

use super::pipeline::Run;
use crate::cli::bar;
use crate::cli::opened::write_json;
use crate::decoder::{Llama, LoadOptions};
use crate::model::Source;
use crate::model::uqff::WeightType;
use crate::quantize::{QuantizedReport, Survey, Ways, calibration};
use anyhow::{Context, Result, bail};
use reptune_adapters::lora::loss::Mode;
use reptune_adapters::{Adapter, DirectionSet, HookedModel};
use reptune_recipes::recipe::{MergeRounding, Survival};
use reptune_recipes::tune::Tuner;
use reptune_report::QuantizedRow;

const NAME: &str = "survival.json";

/// Makes and measures the merges that the recipe's `[survival]` names; `tuned` are the
/// updates of the run, with the hashes of their inputs.
pub fn survival(
    run: &mut Run,
    directions: &DirectionSet,
    tuned: &[(Mode, Adapter)],
    keys: &[String],
) -> Result<Vec<QuantizedRow>> {
    let Some(wanted) = run.session.recipe.survival.clone() else {
        return Ok(Vec::new());
    };
    let types = wanted.types.iter().map(|t| WeightType::parse(t));
    let types: Vec<WeightType> = types.collect::<crate::Result<_>>()?;
    let r = &run.session.recipe;
    let inputs = run.recipe(&[&r.survival, &r.prompt, &r.data, &r.evaluation, &r.tuning]);
    let mut inputs: Vec<&str> = vec![&inputs];
    inputs.extend(keys.iter().map(String::as_str));
    let session = &run.session;
    run.stages.run(NAME, &inputs, |path| {
        let merges = Merges {
            wanted: &wanted,
            source: Source::open(&session.directory)?,
            calibration: calibration(session)?,
            survey: Survey::new(session, Some(directions))?,
            session,
            directions,
        };
        write_json(path, &merges.rows(&types, tuned)?)
    })?;
    run.read(NAME)
}

/// Refuses a `[survival]` that cannot be carried out, before anything is computed.
pub fn check(run: &Run) -> Result<()> {
    let Some(survival) = &run.session.recipe.survival else {
        return Ok(());
    };
    for name in &survival.types {
        WeightType::parse(name).context("key `survival.types`")?;
    }
    let modes = &run.session.recipe.tuning.modes;
    if let Some(mode) = survival.modes.iter().find(|m| !modes.contains(m)) {
        bail!("key `survival.modes`: expected modes of `tuning.modes`, found \"{mode}\"");
    }
    Ok(())
}

struct Merges<'a> {
    wanted: &'a Survival,
    source: Source,
    calibration: Vec<Vec<u32>>,
    survey: Survey<'a>,
    session: &'a crate::session::Session,
    directions: &'a DirectionSet,
}

impl Merges<'_> {
    fn rows(
        &self,
        types: &[WeightType],
        tuned: &[(Mode, Adapter)],
    ) -> crate::Result<Vec<QuantizedRow>> {
        let (ways, modes) = (&self.wanted.ways, &self.wanted.modes);
        let bar = bar(
            types.len() * (1 + ways.len() * modes.len()),
            "quantized merges",
        );
        let mut rows = vec![self.survey.unquantized("base", None)?];
        for (mode, update) in tuned.iter().filter(|(m, _)| modes.contains(m)) {
            rows.push(self.survey.unquantized(mode.name(), Some(update))?);
        }
        let none = Adapter::default();
        for stored in types {
            let (host, report) =
                self.merged((MergeRounding::Nearest, *stored), (Mode::Truth, &none))?;
            let row = self.survey.quantized("base", &host, None, &report)?;
            rows.push(labelled(row, MergeRounding::Nearest, *stored));
            bar.inc(1);
            for (mode, update) in tuned.iter().filter(|(m, _)| modes.contains(m)) {
                for way in ways {
                    bar.set_message(format!("{mode}, {stored}, {way}"));
                    let (host, report) = self.merged((*way, *stored), (*mode, update))?;
                    let name = mode.name();
                    let row = self.survey.quantized(name, &host, Some(update), &report)?;
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
        let ways = Ways {
            source: &self.source,
            update,
            calibration: &self.calibration,
            growth: self.wanted.growth,
            retuner: Some(&retune),
        };
        let out = room.path().join("merged");
        let report = ways.write(way, Some(stored), &out, &mut |_, _| {})?;
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
