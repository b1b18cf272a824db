//! Adapters merged into quantized weights, with a measurement of how much of their effect is
//! left: one merge of the command line, or all that the `[retention]` of a recipe names.

use super::evaluator::MergeEvaluator;
use super::run::{Run, Tuned, direction_set};
use crate::decoder::{Llama, LoadOptions};
use crate::error::{Error, Result};
use crate::model::{ModelDir, Source, open_checked, uqff::WeightType};
use crate::progress::{self, Progress};
use crate::quantize::{
    Merger, QuantizedReport, RetentionCheck, Retuner, SmallestMerge, TriedMerge, candidates,
};
use crate::session::Session;
use reptune_adapters::{Adapter, DirectionSet, Error as Fault, HookedModel, files, lora::peft};
use reptune_recipes::merge::check_not_merged;
use reptune_recipes::recipe::{MergeRounding, Mode};
use reptune_report::QuantizedRow;
use std::cell::OnceCell;
use std::path::Path;

/// A merge into quantized weights.
pub struct QuantizedMerging<'a> {
    settings: MergeSettings<'a>,
    source: Source,
    update: Adapter,
    measured: Option<Measuring>,
}

/// What to merge, and how.
pub struct MergeSettings<'a> {
    /// The model as it was named.
    pub name: &'a str,
    pub model: &'a Path,
    pub adapter: &'a Path,
    /// The recipe that calibrates and measures.
    pub recipe: Option<&'a Path>,
    /// Directions to which cosines are measured, and which retuning uses.
    pub directions: Option<&'a Path>,
    pub mode: Option<Mode>,
    /// Share by which mixed types may make the file larger.
    pub growth: f64,
    /// Whether an adapter that the model holds is merged once more.
    pub again: bool,
    pub out: &'a Path,
}

/// What was written.
pub struct MergeOutcome {
    pub rounding: MergeRounding,
    pub report: QuantizedReport,
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
    pub fn open(settings: MergeSettings<'a>) -> Result<Self> {
        let source = open_checked(&ModelDir::at(settings.model)?)?;
        let (update, notes) = peft::load_noted(settings.adapter, &source.spec)?;
        notes.iter().for_each(progress::line);
        if !settings.again {
            check_not_merged(settings.model, &source.provenance()?.updates, &update)?;
        }
        let measured = settings.recipe;
        let measured = measured.map(|recipe| Measuring::open(&settings, recipe, &source));
        Ok(Self {
            measured: measured.transpose()?,
            settings,
            source,
            update,
        })
    }

    /// The session that measures.
    pub fn session(&self) -> Option<&Session> {
        self.measured.as_ref().map(|m| &m.session)
    }

    /// Merges into one type, or into those that are there. The rounding is `gptq` with a
    /// recipe, else `nearest`, if none is given.
    pub fn typed(
        &self,
        wanted: Option<WeightType>,
        rounding: Option<MergeRounding>,
    ) -> Result<MergeOutcome> {
        let rounding = rounding.unwrap_or(match self.measured {
            Some(_) => MergeRounding::Gptq,
            None => MergeRounding::Nearest,
        });
        let retune = |model: &dyn HookedModel| self.tune(model);
        let report = {
            let mut shown = progress::of("merge");
            let merger = self.merger(&retune);
            merger.write(rounding, wanted, self.settings.out, &mut shown)?
        };
        self.outcome((rounding, wanted), report, Vec::new())
    }

    /// Merges into the smallest file that keeps a share of `least` of the tuned effect, with
    /// each of `roundings` (nearest, gptq and mixed if there is none); `Err` in the result
    /// holds what was tried where none does.
    pub fn auto(
        &self,
        least: f64,
        roundings: &[MergeRounding],
    ) -> Result<std::result::Result<MergeOutcome, Vec<TriedMerge>>> {
        use MergeRounding::{Gptq, Mixed, Nearest};
        let Some(measuring) = &self.measured else {
            let (place, expected) = ("--quantize auto", "--recipe RECIPE.toml");
            let hint = "the validation claims of a recipe measure the effect of each merge";
            return Err(Fault::value(place, expected, "none", hint).into());
        };
        let (session, directions) = (&measuring.session, measuring.directions.as_ref());
        let (chat, recipe, claims) = (&session.chat, &session.recipe, &session.items.validation);
        let check = RetentionCheck::new(chat, recipe, claims, directions)?;
        let roundings = match roundings {
            [] => &[Nearest, Gptq, Mixed],
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
        let (tried, taken) = search.write(self.settings.out, &mut |done, next| {
            shown.set(done);
            shown.message(next);
        })?;
        drop(shown);
        let Some(taken) = taken.and_then(|i| tried.get(i)) else {
            return Ok(Err(tried));
        };
        let (target, report) = ((taken.rounding, Some(taken.wanted)), taken.report.clone());
        Ok(Ok(self.outcome(target, report, tried)?))
    }

    fn merger<'b>(&'b self, retune: Retuner<'b>) -> Merger<'b> {
        let calibration = self.measured.as_ref().map(|m| m.calibration.as_slice());
        Merger {
            source: &self.source,
            update: &self.update,
            calibration: calibration.unwrap_or_default(),
            growth: self.settings.growth,
            retuner: self.settings.mode.map(|_| retune),
        }
    }

    /// Tunes the recipe's mode on `model`.
    fn tune(&self, model: &dyn HookedModel) -> Result<Adapter> {
        let measured = self.measured.as_ref();
        let directions = measured.and_then(|m| Some((&m.session, m.directions.as_ref()?)));
        let (Some((session, directions)), Some(mode)) = (directions, self.settings.mode) else {
            let expected = "--mode, --recipe and --directions, to tune on the quantized weights";
            let hint = "add them, or choose nearest, bias-corrected, gptq or mixed";
            return Err(Fault::value("--rounding", expected, "none", hint).into());
        };
        let mut shown = progress::of(format!("tune {mode}"));
        retuned(session, model, mode, directions, &mut shown)
    }

    /// What was written, with the rows of base, tuned, base quantized and merged quantized.
    fn outcome(
        &self,
        (rounding, wanted): Target,
        report: QuantizedReport,
        tried: Vec<TriedMerge>,
    ) -> Result<MergeOutcome> {
        let mut rows = Vec::new();
        if let Some(measuring) = &self.measured {
            let directions = measuring.directions.as_ref();
            let shown = Progress::new("measure", 4);
            let evaluator = MergeEvaluator::new(&measuring.session, directions)?;
            rows.push(evaluator.unquantized("base", None)?);
            shown.step();
            let tuned = Some(&self.update);
            rows.push(evaluator.unquantized("tuned", tuned)?);
            shown.step();
            let retune = |model: &dyn HookedModel| self.tune(model);
            let mut merger = self.merger(&retune);
            let none = Adapter::default();
            merger.update = &none;
            let target = (MergeRounding::Nearest, wanted);
            let mut none = |_, _| {};
            rows.push(merged_row(&evaluator, &merger, "base", target, &mut none)?);
            shown.step();
            let (target, written) = ((rounding, wanted), (self.settings.out, &report));
            rows.push(row(&evaluator, "tuned", tuned, target, written)?);
            shown.step();
        }
        Ok(MergeOutcome {
            rounding,
            report,
            tried,
            rows,
        })
    }
}

impl Measuring {
    /// Opens the recipe on the unquantized model: the one that is merged into, or where that
    /// is quantized the recipe's own.
    fn open(settings: &MergeSettings, recipe: &Path, source: &Source) -> Result<Self> {
        let model = (!source.is_quantized()).then_some(settings.name);
        let session = Session::open(recipe, model, LoadOptions::default())?;
        let spec = session.llama.spec();
        let wrong = |expected: &str, found, hint| {
            Err(Error::model(recipe, "key `model`", expected, found, hint))
        };
        if ModelDir::at(&session.directory)?.is_quantized() {
            let expected = "an unquantized model, to which the quantized one is compared";
            let found = format!("the UQFF {}", session.directory.display());
            return wrong(expected, found, "name the full checkpoint");
        }
        if spec.fingerprint != source.spec.fingerprint {
            let expected = format!("the model that {} was quantized from", settings.name);
            let found = format!("{}, with another configuration or tokenizer", spec.name);
            return wrong(&expected, found, "name the right one");
        }
        let directions = settings.directions;
        let directions = directions.map(|file| direction_set(file, spec));
        Ok(Self {
            calibration: session.calibration()?,
            directions: directions.transpose()?,
            session,
        })
    }
}

/// Makes and measures the merges of `tuned` that the recipe's `[retention]` names. Each is a
/// stage, so that one that fails costs no other.
pub(super) fn retention(
    run: &mut Run,
    (directions, key): (&DirectionSet, &str),
    tuned: &[Tuned],
) -> Vec<QuantizedRow> {
    let Run {
        session,
        stages,
        failures,
    } = run;
    let session = &*session;
    let Some(wanted) = &session.recipe.retention else {
        return Vec::new();
    };
    let tuned = tuned.iter().filter(|t| wanted.modes.contains(&t.mode));
    let models: Vec<Option<&Tuned>> = std::iter::once(None).chain(tuned.map(Some)).collect();
    let mut targets = vec![None];
    for name in &wanted.types {
        targets.extend(WeightType::parse(name).ok().map(Some)); // which was checked
    }
    let mut tuning = session.recipe.tuning.clone();
    tuning.modes.clear(); // each has rows of its own
    let own = session.inputs(&[&wanted.growth, &tuning]);
    let inputs = [key.to_owned(), own, session.evaluation_inputs()];
    let (measuring, mut rows) = (OnceCell::new(), Vec::new());
    let merges = targets
        .iter()
        .flat_map(|target| models.iter().map(move |m| (target, m)));
    for (target, model) in merges {
        let name = model.map_or("base", |t| t.mode.name());
        let file = model.map_or_else(|| "base".to_owned(), |t| t.mode.file_name());
        let roundings: &[MergeRounding] = match (target, model) {
            (Some(_), Some(_)) => &wanted.rounding,
            _ => &[MergeRounding::Nearest],
        };
        for rounding in roundings {
            let (kind, shown) = match target {
                None => ("unquantized".to_owned(), format!("{name}, unquantized")),
                Some(t) => (
                    format!("{t}-{rounding}"),
                    format!("{name}, {t}, {rounding}"),
                ),
            };
            let key = model.map_or("", |t| &t.key);
            let inputs = inputs.iter().map(String::as_str).chain([key]);
            let made = stages.json(&format!("retention/{file}-{kind}.json"), inputs, || {
                let measuring = match measuring.get() {
                    Some(made) => made,
                    None => {
                        let made = RetentionRun::new(session, directions)?;
                        measuring.get_or_init(|| made)
                    }
                };
                measuring.row(name, *model, target.map(|t| (*rounding, Some(t))))
            });
            let stage = format!("quantized merge {shown}");
            let skipped = [format!("the row `{shown}` of the quantized models")];
            rows.extend(failures.keep(&stage, skipped, made).map(|(row, _)| row));
        }
    }
    rows
}

/// What the merges of a run are made and measured with.
struct RetentionRun<'a> {
    session: &'a Session,
    directions: &'a DirectionSet,
    source: Source,
    calibration: Vec<Vec<u32>>,
    evaluator: MergeEvaluator<'a>,
}

impl<'a> RetentionRun<'a> {
    fn new(session: &'a Session, directions: &'a DirectionSet) -> Result<Self> {
        Ok(Self {
            session,
            directions,
            source: Source::open(&session.directory)?,
            calibration: session.calibration()?,
            evaluator: MergeEvaluator::new(session, Some(directions))?,
        })
    }

    /// The row of a tuned model, or of the base: merged as `target` says, or as it is.
    fn row(
        &self,
        name: &str,
        model: Option<&Tuned>,
        target: Option<Target>,
    ) -> Result<QuantizedRow> {
        let update = model.map(|t| &t.update);
        let Some(target) = target else {
            return self.evaluator.unquantized(name, update);
        };
        let mut shown = progress::of(format!("quantized merge {name}"));
        let mode = model.map_or(Mode::Truth, |t| t.mode);
        let (session, directions) = (self.session, self.directions);
        let retune =
            |model: &dyn HookedModel| retuned(session, model, mode, directions, &mut |_, _| {});
        let none = Adapter::default();
        let merger = Merger {
            source: &self.source,
            update: update.unwrap_or(&none),
            calibration: &self.calibration,
            growth: session.recipe.retention.as_ref().map_or(0., |r| r.growth),
            retuner: Some(&retune),
        };
        merged_row(&self.evaluator, &merger, name, target, &mut shown)
    }
}

/// Refuses a `[retention]` that cannot be carried out, before anything is computed.
pub(super) fn check_retention(run: &Run) -> Result<()> {
    let Some(retention) = &run.session.recipe.retention else {
        return Ok(());
    };
    let wrong = |key, expected, found: &dyn std::fmt::Display, hint: String| {
        Error::model(&run.session.file, key, expected, format!("`{found}`"), hint)
    };
    for name in &retention.types {
        WeightType::parse(name).map_err(|e| {
            let expected = "types of mistral.rs";
            wrong("key `retention.types`", expected, name, e.to_string())
        })?;
    }
    let modes = &run.session.recipe.tuning.modes;
    if let Some(mode) = retention.modes.iter().find(|m| !modes.contains(m)) {
        let (expected, hint) = ("modes of `tuning.modes`", "add it to `tuning.modes`");
        return Err(wrong("key `retention.modes`", expected, mode, hint.into()));
    }
    Ok(())
}

/// How weights are rounded, and the type that is wanted.
type Target = (MergeRounding, Option<WeightType>);

/// Merges into a temporary directory, and measures the result.
fn merged_row(
    evaluator: &MergeEvaluator,
    merger: &Merger,
    name: &str,
    target: Target,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<QuantizedRow> {
    let directory = temporary()?;
    let out = directory.path().join("merged");
    let report = merger.write(target.0, target.1, &out, progress)?;
    let tuned = (!merger.update.modules.is_empty()).then_some(merger.update);
    row(evaluator, name, tuned, target, (&out, &report))
}

/// Measures a merged model in its directory; `tuned` is the update in it.
fn row(
    evaluator: &MergeEvaluator,
    name: &str,
    tuned: Option<&Adapter>,
    (rounding, wanted): Target,
    (directory, report): (&Path, &QuantizedReport),
) -> Result<QuantizedRow> {
    let model = Llama::load(directory, LoadOptions::default())?;
    Ok(QuantizedRow {
        rounding: rounding.name().into(),
        wanted: wanted.map_or("as it was".to_owned(), |t| t.to_string()),
        ..evaluator.quantized(name, &model, tuned, report)?
    })
}

/// Tunes `mode` of the recipe on another `model`, from zero.
fn retuned(
    session: &Session,
    model: &dyn HookedModel,
    mode: Mode,
    directions: &DirectionSet,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Adapter> {
    let tuner = session.tuner(model, &session.recipe, mode, directions)?;
    let (directory, all) = (temporary()?, tuner.steps());
    let metrics = directory.path().join("metrics.jsonl");
    Ok(tuner.tune(tuner.fresh()?, &metrics, &mut |m| progress(m.step, all))?)
}

/// A directory that is removed when it is dropped.
fn temporary() -> Result<tempfile::TempDir> {
    Ok(files::temporary_directory(&std::env::temp_dir())?)
}
