//! `reptune merge`: an adapter folded into full weights, or into quantized ones with
//! proof of what survived.

use super::{bar, flags};
use crate::decoder::{Llama, LoadOptions};
use crate::error::Error;
use crate::model::Source;
use crate::model::hub;
use crate::model::uqff::{UqffFile, WeightType};
use crate::model::{LlamaConfig, model_spec};
use crate::quantize::{
    Candidate, Exam, QuantizedReport, Retuner, Survey, Ways, auto, calibration, candidates,
};
use crate::session::Session;
use anyhow::{Result, bail};
use reptune_adapters::{
    Adapter, DirectionSet, HookedModel, TargetModule, lora::peft, open_directions,
};
use reptune_recipes::merge::{self as fold, MergedSite};
use reptune_recipes::recipe::MergeRounding;
use reptune_recipes::tune::Tuner;
use reptune_report::{QuantizedRow, aligned, quantized_table};
use serde_json::{Value, json};
use std::path::Path;

pub fn merge(a: &flags::Merge) -> Result<()> {
    let model = hub::resolve(&a.model)?;
    let full = UqffFile::files(&model)?.is_empty();
    match &a.quantize {
        None if full => whole(a, &model),
        None => Quantized::open(a, &model)?.typed(None),
        Some(flags::Quantize::Type(t)) => Quantized::open(a, &model)?.typed(Some(*t)),
        Some(flags::Quantize::Auto) if full => Quantized::open(a, &model)?.auto(),
        Some(flags::Quantize::Auto) => bail!(
            "--quantize auto: expected a full checkpoint as --model, found the UQFF {}; \
             a type can be chosen where nothing is rounded yet; name a type, or none to keep those that are there",
            model.display()
        ),
    }
}

/// Into a full checkpoint, which stays one.
fn whole(a: &flags::Merge, model: &Path) -> Result<()> {
    if let Some(flag) = a.measuring() {
        bail!(
            "{flag}: expected --quantize beside it, found a merge into full weights, which loses nothing to be measured"
        );
    }
    let spec = model_spec(&LlamaConfig::read(model)?, model)?;
    let update = peft::load(&a.adapter, &spec)?;
    let bar = bar(1, "merge");
    let report = fold::merge(model, &update, &a.out, &mut |_, done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    if a.json {
        let module = |(module, m): (&TargetModule, &MergedSite)| json!({"module": module.to_string(), "delta_norm": m.delta_norm, "weight_norm": m.weight_norm, "changed": m.changed});
        let modules: Vec<_> = report.modules.iter().map(module).collect();
        println!(
            "{}",
            json!({"out": a.out, "files": report.files, "modules": modules})
        );
        return Ok(());
    }
    println!(
        "{}: {} files, {} weights changed",
        a.out.display(),
        report.files,
        report.modules.len()
    );
    if let Some((module, ratio)) = report.largest() {
        println!(
            "largest change: {module}, {:.2} % of its norm",
            100. * ratio
        );
    }
    Ok(())
}

/// A merge into quantized weights as it was asked for.
struct Quantized<'a> {
    a: &'a flags::Merge,
    source: Source,
    update: Adapter,
    measured: Option<Measured>,
}

/// What measures and calibrates.
struct Measured {
    session: Session,
    calibration: Vec<Vec<u32>>,
    directions: Option<DirectionSet>,
}

impl<'a> Quantized<'a> {
    fn open(a: &'a flags::Merge, model: &Path) -> Result<Self> {
        let source = Source::open(model)?;
        let update = peft::load(&a.adapter, &source.spec)?;
        let measured = match &a.recipe {
            Some(recipe) => Some(Measured::open(a, recipe, &source)?),
            None => None,
        };
        Ok(Self {
            a,
            source,
            update,
            measured,
        })
    }

    /// Into one type, or for none into those that are there.
    fn typed(&self, wanted: Option<WeightType>) -> Result<()> {
        let way = match self.a.way.as_slice() {
            [] if self.measured.is_some() => MergeRounding::Gptq,
            [] => MergeRounding::Nearest,
            [way] => *way,
            several => bail!(
                "--way: expected one for one type, found {}; --quantize auto tries several",
                several.len()
            ),
        };
        let retune = |host: &dyn HookedModel| self.tune(host);
        let shown = bar(self.source.spec.layers, "merge");
        let report = self
            .ways(&retune)
            .write(way, wanted, &self.a.out, &mut |done, _| {
                shown.set_position(done as u64);
            })?;
        shown.finish_and_clear();
        self.told((way, wanted), &report, &[])
    }

    /// Into the smallest file that keeps enough.
    fn auto(&self) -> Result<()> {
        let Some(Measured {
            session,
            directions,
            ..
        }) = &self.measured
        else {
            bail!(
                "--quantize auto: expected --recipe RECIPE beside it, found none; its validation claims tell what is kept"
            );
        };
        let exam = Exam::new(session, &session.items.validation, directions.as_ref())?;
        let ways = match self.a.way.as_slice() {
            [] => &[
                MergeRounding::Nearest,
                MergeRounding::Gptq,
                MergeRounding::Mixed,
            ],
            named => named,
        };
        let all = candidates(self.source.spec.hidden, ways);
        let shown = bar(all.len(), "try");
        let retune = |host: &dyn HookedModel| self.tune(host);
        let (tried, taken) = auto(
            (&self.ways(&retune), &all),
            (&session.llama, &exam),
            self.a.least,
            &self.a.out,
            &mut |done, next| {
                shown.set_position(done as u64);
                shown.set_message(next.to_owned());
            },
        )?;
        shown.finish_and_clear();
        let Some(taken) = taken.and_then(|i| tried.get(i)) else {
            bail!(
                "--quantize auto: expected a merge that keeps {:.3} of the tuned effect on the validation claims, found none:\n\n{}\n\n\
                 try other ways (--way retuned,unquantized), more growth (--growth), or ask for less (--least)",
                self.a.least,
                tried_table(&tried)
            );
        };
        self.told((taken.way, Some(taken.wanted)), &taken.report, &tried)
    }

    fn ways<'b>(&'b self, retune: Retuner<'b>) -> Ways<'b> {
        let calibration = self.measured.as_ref().map(|m| m.calibration.as_slice());
        Ways {
            source: &self.source,
            update: &self.update,
            calibration: calibration.unwrap_or_default(),
            growth: self.a.growth,
            retuner: self.a.mode.map(|_| retune),
        }
    }

    /// Tunes the recipe's mode on `host`.
    fn tune(&self, host: &dyn HookedModel) -> crate::Result<Adapter> {
        let (Some(measured), Some(mode)) = (&self.measured, self.a.mode) else {
            return Err(missing("--mode and --recipe"));
        };
        let Some(directions) = &measured.directions else {
            return Err(missing("--directions"));
        };
        let session = &measured.session;
        let (chat, recipe, items) = (&session.chat, &session.recipe, &session.items);
        let (train, validation) = (&items.train, &items.validation);
        let tuner = Tuner::new(host, chat, recipe, mode, directions, train, validation)?;
        let room =
            tempfile::tempdir().map_err(|e| reptune_adapters::Error::write("temporary", e))?;
        let metrics = room.path().join("metrics.jsonl");
        let shown = bar(tuner.steps(), &format!("tune {mode}"));
        let update = tuner.tune(tuner.fresh()?, &metrics, &mut |m| {
            shown.set_position(m.step as u64);
        })?;
        shown.finish_and_clear();
        Ok(update)
    }

    /// Prints what was written, and with a recipe what it does beside its references.
    fn told(
        &self,
        (way, wanted): (MergeRounding, Option<WeightType>),
        report: &QuantizedReport,
        tried: &[Candidate],
    ) -> Result<()> {
        let rows = self.rows((way, wanted), report)?;
        if self.a.json {
            let modules: Vec<Value> = report
                .modules
                .iter()
                .map(|(s, v)| {
                    json!({
                        "module": s.to_string(), "type": v.stored.to_string(), "bits": v.bits,
                        "delta_norm": v.delta_norm, "step_norm": v.step_norm,
                        "cosine": v.cosine, "share": v.share, "noise": v.noise,
                    })
                })
                .collect();
            let tried: Vec<Value> = tried
                .iter()
                .map(|c| {
                    json!({
                        "type": c.wanted.to_string(), "way": c.way.name(), "bytes": c.report.bytes,
                        "bits": c.report.bits, "kept": c.kept, "divergence": c.grade.divergence,
                    })
                })
                .collect();
            println!(
                "{}",
                json!({"out": self.a.out, "way": way.name(), "bytes": report.bytes, "bits": report.bits,
                    "types": report.types, "modules": modules, "tried": tried, "models": rows})
            );
            return Ok(());
        }
        if !tried.is_empty() {
            println!("On the validation claims:\n\n{}\n", tried_table(tried));
        }
        let types = report.types.iter().map(|(t, n)| format!("{n} in {t}"));
        println!(
            "{}: {way}, {} bytes, {:.2} bits a weight, {}\n\n{}",
            self.a.out.display(),
            report.bytes,
            report.bits,
            types.collect::<Vec<_>>().join(", "),
            site_table(report)
        );
        match &self.measured {
            None => println!("\nWith --recipe, what the model still does is measured too."),
            Some(measured) => {
                let poles = &measured.session.recipe.behaviour.poles;
                println!("\nOn the test claims:\n\n{}", quantized_table(&rows, poles));
            }
        }
        Ok(())
    }

    /// Base, tuned, base quantized, merged quantized.
    fn rows(
        &self,
        (way, wanted): (MergeRounding, Option<WeightType>),
        report: &QuantizedReport,
    ) -> Result<Vec<QuantizedRow>> {
        let Some(Measured {
            session,
            directions,
            ..
        }) = &self.measured
        else {
            return Ok(Vec::new());
        };
        let shown = bar(4, "measure");
        let survey = Survey::new(session, directions.as_ref())?;
        let mut rows = vec![survey.unquantized("base", None)?];
        shown.inc(1);
        rows.push(survey.unquantized("tuned", Some(&self.update))?);
        shown.inc(1);
        let name = wanted.map_or("as it was".to_owned(), |t| t.to_string());
        let room = tempfile::tempdir()?;
        let base = room.path().join("base");
        let none = Adapter::default();
        let retune = |host: &dyn HookedModel| self.tune(host);
        let plain = Ways {
            update: &none,
            ..self.ways(&retune)
        };
        let quantized = plain.write(MergeRounding::Nearest, wanted, &base, &mut |_, _| {})?;
        for (model, path, update, way, report) in [
            (
                "base",
                base.as_path(),
                None,
                MergeRounding::Nearest,
                &quantized,
            ),
            ("tuned", &self.a.out, Some(&self.update), way, report),
        ] {
            let host = Llama::load(path, LoadOptions::default())?;
            let row = survey.quantized(model, &host, update, report)?;
            rows.push(QuantizedRow {
                rounding: way.name().into(),
                wanted: name.clone(),
                ..row
            });
            shown.inc(1);
        }
        shown.finish_and_clear();
        Ok(rows)
    }
}

impl Measured {
    /// Opens the recipe on the unquantized model: what is merged into, or where that is
    /// quantized the recipe's own.
    fn open(a: &flags::Merge, recipe: &Path, source: &Source) -> Result<Self> {
        let model = (!source.is_quantized()).then_some(a.model.as_str());
        let session = Session::open(recipe, model, LoadOptions::default())?;
        let spec = session.llama.spec();
        if !UqffFile::files(&session.directory)?.is_empty() {
            bail!(
                "{}: key `model`: expected an unquantized model, to which a quantized one is compared, found the UQFF {}; name the full checkpoint there",
                recipe.display(),
                session.directory.display()
            );
        }
        if spec.fingerprint != source.spec.fingerprint {
            bail!(
                "{}: key `model`: expected the model that {} was quantized from, found {} with another configuration or tokenizer; name the right one there",
                recipe.display(),
                a.model,
                spec.name
            );
        }
        let directions = match &a.directions {
            Some(file) => {
                let set = open_directions(file)?;
                set.check_model(file, spec)?;
                Some(set)
            }
            None => None,
        };
        Ok(Self {
            calibration: calibration(&session)?,
            session,
            directions,
        })
    }
}

fn missing(flags: &str) -> Error {
    reptune_adapters::Error::value(
        "way",
        format!("{flags} beside a way that tunes on quantized weights"),
        "none",
        "give them, or choose nearest, bias-corrected, gptq or mixed",
    )
    .into()
}

fn site_table(report: &QuantizedReport) -> String {
    let head = [
        "module", "type", "bits", "delta", "step", "cosine", "norm", "noise",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for (module, s) in &report.modules {
        rows.push(vec![
            module.to_string(),
            s.stored.to_string(),
            format!("{:.2}", s.bits),
            format!("{:.4}", s.delta_norm),
            format!("{:.4}", s.step_norm),
            format!("{:.3}", s.cosine),
            format!("{:.2}", s.share),
            s.noise.map_or("-".into(), |n| format!("{n:.2}")),
        ]);
    }
    aligned(&rows)
}

fn tried_table(tried: &[Candidate]) -> String {
    let head = ["type", "merged", "bits", "bytes", "effect retained", "KL"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for c in tried {
        rows.push(vec![
            c.wanted.to_string(),
            c.way.to_string(),
            format!("{:.2}", c.report.bits),
            c.report.bytes.to_string(),
            format!("{:.3}", c.kept),
            c.grade.divergence.map_or("-".into(), |x| format!("{x:.4}")),
        ]);
    }
    aligned(&rows)
}
