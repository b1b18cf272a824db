//! What a run adds for quantized weights: merges of every type and way, measured.

use super::evaluator::{MergeEvaluator, calibration};
use super::merge::{retuned, temporary};
use super::run::{Run, Tuned, write_json};
use crate::decoder::{Llama, LoadOptions};
use crate::error::{Error, Result};
use crate::model::Source;
use crate::model::uqff::WeightType;
use crate::progress::Progress;
use crate::quantize::{Merger, QuantizedReport};
use reptune_adapters::{Adapter, DirectionSet, HookedModel};
use reptune_recipes::recipe::{MergeRounding, Mode, Retention};
use reptune_report::QuantizedRow;

const NAME: &str = "survival.json";

/// Makes and measures the merges that the recipe's `[retention]` names; `tuned` are the
/// updates of the run, with the hashes of their inputs.
pub fn retention(
    run: &mut Run,
    directions: &DirectionSet,
    tuned: &[Tuned],
    keys: &[String],
) -> Result<Vec<QuantizedRow>> {
    let Some(wanted) = run.session.recipe.retention.clone() else {
        return Ok(Vec::new());
    };
    let types = wanted.types.iter().map(|t| WeightType::parse(t));
    let types: Vec<WeightType> = types.collect::<Result<_>>()?;
    let r = &run.session.recipe;
    let inputs = run
        .session
        .inputs(&[&r.retention, &r.prompt, &r.data, &r.evaluation, &r.tuning]);
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
    let file = &run.session.file;
    for name in &survival.types {
        WeightType::parse(name).map_err(|e| {
            Error::model(
                file,
                "key `retention.types`",
                "types of mistral.rs",
                format!("`{name}`"),
                e.to_string(),
            )
        })?;
    }
    let modes = &run.session.recipe.tuning.modes;
    if let Some(mode) = survival.modes.iter().find(|m| !modes.contains(m)) {
        let hint = "add it to `tuning.modes`";
        let found = format!("`{mode}`");
        return Err(Error::model(
            file,
            "key `retention.modes`",
            "modes of `tuning.modes`",
            found,
            hint,
        ));
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
    fn rows(&self, types: &[WeightType], tuned: &[Tuned]) -> Result<Vec<QuantizedRow>> {
        let (ways, modes) = (&self.wanted.rounding, &self.wanted.modes);
        let merges = types.len() * (1 + ways.len() * modes.len());
        let shown = Progress::new("quantized merges", merges);
        let mut rows = vec![self.evaluator.unquantized("base", None)?];
        for (mode, update, _) in tuned.iter().filter(|(m, ..)| modes.contains(m)) {
            rows.push(self.evaluator.unquantized(mode.name(), Some(update))?);
        }
        let none = Adapter::default();
        for stored in types {
            let (host, report) =
                self.merged((MergeRounding::Nearest, *stored), (Mode::Truth, &none))?;
            let row = self.evaluator.quantized("base", &host, None, &report)?;
            rows.push(labelled(row, MergeRounding::Nearest, *stored));
            shown.step();
            for (mode, update, _) in tuned.iter().filter(|(m, ..)| modes.contains(m)) {
                for way in ways {
                    shown.message(format!("{mode}, {stored}, {way}"));
                    let (host, report) = self.merged((*way, *stored), (*mode, update))?;
                    let name = mode.name();
                    let row = self
                        .evaluator
                        .quantized(name, &host, Some(update), &report)?;
                    rows.push(labelled(row, *way, *stored));
                    shown.step();
                }
            }
        }
        Ok(rows)
    }

    fn merged(
        &self,
        (way, stored): (MergeRounding, WeightType),
        (mode, update): (Mode, &Adapter),
    ) -> Result<(Llama, QuantizedReport)> {
        let room = temporary()?;
        let retune = |model: &dyn HookedModel| {
            let directions = self.directions;
            retuned(self.session, model, mode, directions, &mut |_, _| {})
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
