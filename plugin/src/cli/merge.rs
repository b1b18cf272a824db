//! `reptune merge`: an adapter merged into full or quantized weights.

use super::args::{mode, number};
use super::output::{print, print_json, table};
use crate::model::{ModelDir, open_checked, uqff::WeightType};
use crate::pipeline::{MergeOutcome, MergeSettings, QuantizedMerging};
use crate::progress;
use crate::quantize::{QuantizedReport, TriedMerge};
use anyhow::{Result, anyhow, bail};
use clap::Args;
use reptune_adapters::lora::peft;
use reptune_recipes::merge::check_not_merged;
use reptune_recipes::recipe::{MergeRounding, Mode};
use reptune_report::quantized_table;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

#[derive(Args)]
#[command(after_help = "\
Examples:
  reptune merge -m DIR --adapter runs/my/tuned/in_minus_lie -o merged
  reptune merge -m DIR --adapter runs/my/tuned/in_minus_lie \\
      --quantize q4k --recipe my.toml -o q4k
  reptune merge -m DIR --adapter runs/my/tuned/in_minus_lie \\
      --quantize auto --recipe my.toml -o small
  reptune merge -m quantized/model.uqff --adapter runs/my/tuned/in_minus_lie -o merged

A tuned change of a weight is often smaller than a quantization step, and rounding loses
it. For each tuned module the table shows the norm of the change (delta), of the rounding
error (step), cosine and norm of what is left of the change, and the rounding error at the
outputs relative to the change there (noise). With --recipe, the training claims calibrate
the rounding, and the test claims compare the result with the base and the unquantized
tuned model.

Roundings:
  nearest         round every weight to the nearest value
  bias-corrected  nearest; a bias adds back the mean error of each layer's outputs
  gptq            round with GPTQ's error feedback on calibration prompts, plus the bias
  mixed           gptq with finer types for the tuned modules, within --growth
  retuned         tune again on the quantized weights, then gptq
  unquantized     retuned; the tuned modules stay unquantized")]
pub struct MergeArgs {
    /// Model directory, .uqff or .gguf file, or Hugging Face id
    #[arg(short, long)]
    pub model: String,
    /// PEFT adapter
    #[arg(long, value_name = "DIR")]
    pub adapter: PathBuf,
    /// Directory to write
    #[arg(short, long, value_name = "DIR")]
    pub out: PathBuf,
    /// Type of the merged weights, such as q4k, or auto for the smallest that keeps the tuned
    /// behaviour [default: full weights stay full, a UQFF keeps its types]
    #[arg(long, value_name = "TYPE", value_parser = quantize)]
    pub quantize: Option<Quantize>,
    /// How weights are rounded; a list with --quantize auto [default: gptq with --recipe, else
    /// nearest; nearest,gptq,mixed with auto]
    #[arg(long, value_delimiter = ',', value_parser = rounding)]
    pub rounding: Vec<MergeRounding>,
    /// Recipe with the claims for calibration, choice and measurement
    #[arg(long, value_name = "RECIPE.toml")]
    pub recipe: Option<PathBuf>,
    /// Share by which mixed may make the file larger
    #[arg(long, value_name = "SHARE", default_value_t = 0.05, value_parser = share)]
    pub growth: f64,
    /// Share of the tuned effect that auto must keep
    #[arg(long, value_name = "SHARE", default_value_t = 0.95, value_parser = share)]
    pub least: f64,
    /// Mode for tuning again, with the roundings retuned and unquantized
    #[arg(long, value_parser = mode, requires_all = ["recipe", "directions"])]
    pub mode: Option<Mode>,
    /// Direction file: the table shows the cosine to it, and the roundings retuned and
    /// unquantized tune with it
    #[arg(long, value_name = "FILE", requires = "recipe")]
    pub directions: Option<PathBuf>,
    /// Merge the adapter although the model holds it already
    #[arg(long)]
    pub again: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// What merged weights become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantize {
    /// The smallest type that keeps enough of the behaviour.
    Auto,
    /// This one.
    Type(WeightType),
}

fn quantize(text: &str) -> Result<Quantize, String> {
    if text == "auto" {
        return Ok(Quantize::Auto);
    }
    WeightType::parse(text).map(Quantize::Type).map_err(|_| {
        let names = WeightType::ALL.map(|(name, _)| name).join(", ");
        format!("expected auto or one of {names}")
    })
}

fn rounding(text: &str) -> Result<MergeRounding, String> {
    let all = MergeRounding::ALL;
    let found = all.into_iter().find(|r| r.name() == text.trim());
    found.ok_or_else(|| format!("expected one of {}", all.map(|r| r.name()).join(", ")))
}

fn share(text: &str) -> Result<f64, String> {
    number(text, |x| (0. ..=1.).contains(x), "a number from 0 to 1")
}

pub fn merge(a: &MergeArgs) -> Result<()> {
    let found = ModelDir::resolve(&a.model)?;
    let (model, full) = (found.path(), !found.is_quantized());
    let wanted = match a.quantize {
        None if full => return into_full(a, &found),
        None => None,
        Some(Quantize::Type(t)) => Some(t),
        Some(Quantize::Auto) if full => None,
        Some(Quantize::Auto) => bail!(
            "--quantize auto: expected a full checkpoint as --model, found the UQFF {}; \
             name a type, or leave out --quantize to keep the types of the file",
            model.display()
        ),
    };
    let auto = a.quantize == Some(Quantize::Auto);
    let n = a.rounding.len();
    if n > 1 && !auto {
        bail!("--rounding: expected one, found {n}; only --quantize auto tries several");
    }
    let merging = QuantizedMerging::open(MergeSettings {
        name: &a.model,
        model,
        adapter: &a.adapter,
        recipe: a.recipe.as_deref(),
        directions: a.directions.as_deref(),
        mode: a.mode,
        growth: a.growth,
        again: a.again,
        out: &a.out,
    })?;
    let merged = match auto {
        false => merging.typed(wanted, a.rounding.first().copied())?,
        true => merging.auto(a.least, &a.rounding)?.map_err(|tried| {
            anyhow!(
                "--quantize auto: no merge keeps {:.3} of the tuned effect on the validation claims:\n\n{}\n\n\
                 try --rounding retuned,unquantized, a larger --growth or a smaller --least",
                a.least,
                tried_table(&tried)
            )
        })?,
    };
    if a.json {
        return print_json(&as_json(a, &merged));
    }
    if !merged.tried.is_empty() {
        let table = tried_table(&merged.tried);
        print(format_args!("On the validation claims:\n\n{table}\n"))?;
    }
    let (out, report) = (a.out.display(), &merged.report);
    let types = report.types.iter().map(|(t, n)| format!("{n} in {t}"));
    print(format_args!(
        "{out}: {}, {} bytes, {:.2} bits a weight, {}\n\n{}",
        merged.rounding,
        report.bytes,
        report.bits,
        types.collect::<Vec<_>>().join(", "),
        module_table(report)
    ))?;
    let Some(session) = merging.session() else {
        return print("\nWith --recipe, the behaviour of the merged model is measured too.");
    };
    let table = quantized_table(&merged.rows, &session.recipe.behaviour.poles);
    print(format_args!("\nOn the test claims:\n\n{table}"))
}

fn into_full(a: &MergeArgs, model: &ModelDir) -> Result<()> {
    let flag = match (&a.recipe, a.rounding.as_slice()) {
        (Some(_), _) => Some("--recipe"),
        (None, [_, ..]) => Some("--rounding"),
        (None, []) => None,
    };
    if let Some(flag) = flag {
        bail!("{flag} requires --quantize: a merge into full weights rounds nothing away");
    }
    let source = open_checked(model)?;
    let (update, notes) = peft::load_noted(&a.adapter, &source.spec)?;
    notes.iter().for_each(progress::line);
    if !a.again {
        check_not_merged(model.path(), &source.provenance()?.updates, &update)?;
    }
    let report = {
        let mut shown = progress::of("merge");
        let mut progress = |_: &Path, done, total| shown(done, total);
        source.merge(&update, &a.out, &mut progress)?
    };
    if a.json {
        let modules = report.modules.iter().map(|(module, m)| {
            json!({
                "module": module.to_string(), "delta_norm": m.delta_norm,
                "weight_norm": m.weight_norm, "changed": m.changed,
            })
        });
        let modules: Vec<Value> = modules.collect();
        return print_json(&json!({"out": a.out, "files": report.files, "modules": modules}));
    }
    let (out, files, n) = (a.out.display(), report.files, report.modules.len());
    let largest = report.largest().map(|(module, ratio)| {
        let share = 100. * ratio;
        format!("\nlargest change: {module}, {share:.2} % of its norm")
    });
    let largest = largest.unwrap_or_default();
    let changed = format!("{n} weights changed");
    print(format_args!("{out}: {files} files, {changed}{largest}"))
}

fn as_json(a: &MergeArgs, merged: &MergeOutcome) -> Value {
    let report = &merged.report;
    let modules = report.modules.iter().map(|(module, v)| {
        json!({
            "module": module.to_string(), "type": v.stored.to_string(), "bits": v.bits,
            "delta_norm": v.delta_norm, "step_norm": v.step_norm,
            "cosine": v.cosine, "share": v.share, "noise": v.noise,
        })
    });
    let tried = merged.tried.iter().map(|c| {
        json!({
            "type": c.wanted.to_string(), "rounding": c.rounding.name(), "bytes": c.report.bytes,
            "bits": c.report.bits, "effect_retained": c.effect_retained, "divergence": c.scores.divergence,
        })
    });
    json!({
        "out": a.out, "rounding": merged.rounding.name(), "bytes": report.bytes,
        "bits": report.bits, "types": report.types, "modules": modules.collect::<Value>(),
        "tried": tried.collect::<Value>(), "models": merged.rows,
    })
}

fn module_table(report: &QuantizedReport) -> String {
    let head = "module, type, bits, delta, step, cosine, norm, noise";
    table(head, &report.modules, |(module, s)| {
        vec![
            module.to_string(),
            s.stored.to_string(),
            format!("{:.2}", s.bits),
            format!("{:.4}", s.delta_norm),
            format!("{:.4}", s.step_norm),
            format!("{:.3}", s.cosine),
            format!("{:.2}", s.share),
            s.noise.map_or("-".into(), |n| format!("{n:.2}")),
        ]
    })
}

fn tried_table(tried: &[TriedMerge]) -> String {
    let head = "type, rounding, bits, bytes, effect retained, KL";
    table(head, tried, |c| {
        let kl = c.scores.divergence;
        vec![
            c.wanted.to_string(),
            c.rounding.to_string(),
            format!("{:.2}", c.report.bits),
            c.report.bytes.to_string(),
            format!("{:.3}", c.effect_retained),
            kl.map_or("-".into(), |x| format!("{x:.4}")),
        ]
    })
}
