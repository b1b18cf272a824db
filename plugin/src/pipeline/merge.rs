//! An adapter merged into quantized weights, with proof of what is left of it.

use super::evaluator::{MergeEvaluator, calibration};
use super::run::direction_set;
use crate::decoder::{Llama, LoadOptions};
use crate::error::{Error, Result};
use crate::model::uqff::WeightType;
use crate::model::{ModelDir, Source};
use crate::progress::Progress;
use crate::quantize::{
    Merger, QuantizedReport, RetentionCheck, Retuner, SmallestMerge, TriedMerge, candidates,
};
use crate::session::Session;
use reptune_adapters::{Adapter, DirectionSet, Error as Fault, HookedModel, lora::peft};
use reptune_recipes::recipe::MergeRounding;
use reptune_recipes::recipe::Mode;
use reptune_recipes::tune::Tuner;
use reptune_report::QuantizedRow;
use std::path::Path;

/// A merge into quantized weights.
pub struct QuantizedMerging<'a> {
    out: &'a Path,
    growth: f64,
    mode: Option<Mode>,
    source: Source,
    update: Adapter,
    measured: Option<Measuring>,
}

/// What to merge, and how.
pub struct MergeSettings<'a> {
    /// The model as it was named.
    pub name: &'a str,
    /// Its directory or file.
    pub model: &'a Path,
    /// The PEFT adapter.
    pub adapter: &'a Path,
    /// The recipe that calibrates and measures.
    pub recipe: Option<&'a Path>,
    /// Directions to which cosines are measured, and which retuning uses.
    pub directions: Option<&'a Path>,
    /// The mode that retuning tunes.
    pub mode: Option<Mode>,
    /// Share by which mixed types may make the file larger.
    pub growth: f64,
    /// The directory to write.
    pub out: &'a Path,
}

/// What was written.
pub struct Merged {
    /// How it was rounded.
    pub rounding: MergeRounding,
    /// The weights.
    pub report: QuantizedReport,
    /// The merges that were tried before.
    pub tried: Vec<TriedMerge>,
    /// The model and its references on test claims; empty without a recipe.
    pub rows: Vec<QuantizedRow>,
}

/// The recipe that measures and calibrates, with its model.
struct Measuring {
    session: Session,
    calibration: Vec<Vec<u32>>,
    directions: Option<DirectionSet>,
}

impl<'a> QuantizedMerging<'a> {
    /// Reads the model and the adapter, and loads the recipe's model.
    ///
    /// # Errors
    /// When they do not fit each other.
    pub fn open(settings: &MergeSettings<'a>) -> Result<Self> {
        let source = Source::open(settings.model)?;
        let update = peft::load(settings.adapter, &source.spec)?;
        let measured = settings.recipe;
        let measured = measured.map(|recipe| Measuring::open(settings, recipe, &source));
        Ok(Self {
            out: settings.out,
            growth: settings.growth,
            mode: settings.mode,
            update,
            measured: measured.transpose()?,
            source,
        })
    }

    /// The session that measures.
    pub fn session(&self) -> Option<&Session> {
        self.measured.as_ref().map(|m| &m.session)
    }

    /// Merges into one type, or into those that are there. The rounding is `gptq` with a
    /// recipe, else `nearest`, if none is given.
    ///
    /// # Errors
    /// When the merge fails.
    pub fn typed(
        &self,
        wanted: Option<WeightType>,
        rounding: Option<MergeRounding>,
    ) -> Result<Merged> {
        let rounding = rounding.unwrap_or(match self.measured {
            Some(_) => MergeRounding::Gptq,
            None => MergeRounding::Nearest,
        });
        let retune = |model: &dyn HookedModel| self.tune(model);
        let shown = Progress::new("merge", self.source.spec.layers);
        let mut progress = |done, _| shown.set(done);
        let report = self
            .merger(&retune)
            .write(rounding, wanted, self.out, &mut progress)?;
        drop(shown);
        Ok(Merged {
            rounding,
            rows: self.rows(rounding, wanted, &report)?,
            report,
            tried: Vec::new(),
        })
    }

    /// Merges into the smallest file that keeps a share of `least` of the tuned effect, with
    /// each of `roundings` (nearest, gptq and mixed if there is none); `Err` in the result
    /// holds what was tried where none does.
    ///
    /// # Errors
    /// When a merge fails, or there is no recipe to measure with.
    pub fn auto(
        &self,
        least: f64,
        roundings: &[MergeRounding],
    ) -> Result<std::result::Result<Merged, Vec<TriedMerge>>> {
        let Some(measuring) = &self.measured else {
            let hint = "its validation claims show how much of the effect is kept";
            return Err(Fault::value("--quantize auto", "--recipe RECIPE", "none", hint).into());
        };
        let (session, directions) = (&measuring.session, measuring.directions.as_ref());
        let (chat, recipe, claims) = (&session.chat, &session.recipe, &session.items.validation);
        let check = RetentionCheck::new(chat, recipe, claims, directions)?;
        let roundings = match roundings {
            [] => &[
                MergeRounding::Nearest,
                MergeRounding::Gptq,
                MergeRounding::Mixed,
            ],
            named => named,
        };
        let all = candidates(self.source.spec.hidden, roundings);
        let shown = Progress::new("try", all.len());
        let retune = |model: &dyn HookedModel| self.tune(model);
        let search = SmallestMerge {
            merger: &self.merger(&retune),
            candidates: &all,
            model: &session.llama,
            check: &check,
            least,
        };
        let (tried, taken) = search.write(self.out, &mut |done, next| {
            shown.set(done);
            shown.message(next);
        })?;
        drop(shown);
        let Some(taken) = taken.and_then(|i| tried.get(i)) else {
            return Ok(Err(tried));
        };
        let (rounding, report) = (taken.rounding, taken.report.clone());
        let rows = self.rows(rounding, Some(taken.wanted), &report)?;
        Ok(Ok(Merged {
            rounding,
            report,
            rows,
            tried,
        }))
    }

    fn merger<'b>(&'b self, retune: Retuner<'b>) -> Merger<'b> {
        let calibration = self.measured.as_ref().map(|m| m.calibration.as_slice());
        Merger {
            source: &self.source,
            update: &self.update,
            calibration: calibration.unwrap_or_default(),
            growth: self.growth,
            retuner: self.mode.map(|_| retune),
        }
    }

    /// Tunes the recipe's mode on `model`.
    fn tune(&self, model: &dyn HookedModel) -> Result<Adapter> {
        let (Some(measured), Some(mode)) = (&self.measured, self.mode) else {
            return Err(missing("--mode and --recipe"));
        };
        let Some(directions) = &measured.directions else {
            return Err(missing("--directions"));
        };
        let session = &measured.session;
        let shown = Progress::unknown(format!("tune {mode}"));
        let mut progress = |done, all| shown.set_of(done, all);
        retuned(session, model, mode, directions, &mut progress)
    }

    /// Base, tuned, base quantized, merged quantized.
    fn rows(
        &self,
        rounding: MergeRounding,
        wanted: Option<WeightType>,
        report: &QuantizedReport,
    ) -> Result<Vec<QuantizedRow>> {
        let Some(measuring) = &self.measured else {
            return Ok(Vec::new());
        };
        let shown = Progress::new("measure", 4);
        let evaluator = MergeEvaluator::new(&measuring.session, measuring.directions.as_ref())?;
        let mut rows = vec![evaluator.unquantized("base", None)?];
        shown.step();
        rows.push(evaluator.unquantized("tuned", Some(&self.update))?);
        shown.step();
        let name = wanted.map_or("as it was".to_owned(), |t| t.to_string());
        let room = temporary()?;
        let base = room.path().join("base");
        let none = Adapter::default();
        let retune = |model: &dyn HookedModel| self.tune(model);
        let plain = Merger {
            update: &none,
            ..self.merger(&retune)
        };
        let nearest = MergeRounding::Nearest;
        let quantized = plain.write(nearest, wanted, &base, &mut |_, _| {})?;
        for (model, path, update, rounding, report) in [
            ("base", base.as_path(), None, nearest, &quantized),
            ("tuned", self.out, Some(&self.update), rounding, report),
        ] {
            let host = Llama::load(path, LoadOptions::default())?;
            let row = evaluator.quantized(model, &host, update, report)?;
            rows.push(QuantizedRow {
                rounding: rounding.name().into(),
                wanted: name.clone(),
                ..row
            });
            shown.step();
        }
        Ok(rows)
    }
}

impl Measuring {
    /// Opens the recipe on the unquantized model: the one that is merged into, or where that
    /// is quantized the recipe's own.
    fn open(settings: &MergeSettings, recipe: &Path, source: &Source) -> Result<Self> {
        let model = (!source.is_quantized()).then_some(settings.name);
        let session = Session::open(recipe, model, LoadOptions::default())?;
        let spec = session.llama.spec();
        if ModelDir::at(&session.directory)?.is_quantized() {
            return Err(Error::model(
                recipe,
                "key `model`",
                "an unquantized model, to which the quantized one is compared",
                format!("the UQFF {}", session.directory.display()),
                "name the full checkpoint",
            ));
        }
        if spec.fingerprint != source.spec.fingerprint {
            return Err(Error::model(
                recipe,
                "key `model`",
                format!("the model that {} was quantized from", settings.name),
                format!("{}, with another configuration or tokenizer", spec.name),
                "name the right one",
            ));
        }
        let directions = settings.directions;
        let directions = directions.map(|file| direction_set(file, spec));
        Ok(Self {
            calibration: calibration(&session)?,
            directions: directions.transpose()?,
            session,
        })
    }
}

/// Tunes `mode` of the recipe on another `model`, from zero.
pub(super) fn retuned(
    session: &Session,
    model: &dyn HookedModel,
    mode: Mode,
    directions: &DirectionSet,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Adapter> {
    let (chat, recipe, items) = (&session.chat, &session.recipe, &session.items);
    let (train, validation) = (&items.train, &items.validation);
    let tuner = Tuner::new(model, chat, recipe, mode, directions, train, validation)?;
    let (room, all) = (temporary()?, tuner.steps());
    let metrics = room.path().join("metrics.jsonl");
    Ok(tuner.tune(tuner.fresh()?, &metrics, &mut |m| progress(m.step, all))?)
}

/// A directory that is removed when it is dropped.
pub(super) fn temporary() -> Result<tempfile::TempDir> {
    Ok(tempfile::tempdir().map_err(|e| Fault::write(std::env::temp_dir(), e))?)
}

fn missing(flags: &str) -> Error {
    let expected = format!("{flags}, to tune on the quantized weights");
    let hint = "add them, or choose nearest, bias-corrected, gptq or mixed";
    Fault::value("--rounding", expected, "none", hint).into()
}
