//! `reptune bake`: steering baked into a UQFF.

use super::args::SteeringArgs;
use super::output::{print, print_json};
use crate::bake::{self, Approximation, BakePlan, BakeReport, Baker, DoseFile, Exactness, SHARED};
use crate::decoder::{Llama, LoadOptions};
use crate::model::uqff::{UQFF, WeightType};
use crate::model::{ModelDir, open_checked};
use crate::{progress, prompts};
use anyhow::{Result, bail};
use clap::Args;
use reptune_adapters::ModelSpec;
use reptune_recipes::Chat;
use serde_json::{Value, json};
use std::{collections::BTreeMap, path::PathBuf};

#[derive(Args)]
#[command(after_help = "\
Examples:
  reptune bake -m DIR --directions honesty.safetensors --layers 14-16 --total 19 \\
      --quantize q8_0 -o baked
  mistralrs serve -m baked --from-uqff model.uqff

  reptune bake -m DIR --directions honesty.safetensors --layers 3 \\
      --coeffs 12,19,-19 -o doses
  mistralrs serve -m doses --from-uqff \"shared.uqff;plus_19.uqff\"

  reptune bake -m DIR --directions refusal.safetensors --layers 3 --operator ablate \\
      --hook everywhere -o ablated

Additions at any hook point and the ablation of one direction everywhere are exact. Other
operators, other positions than all, and an ablation in quantized weights cannot be exact:
they are refused, or approximated with --approximate, which prints the error.

With --coeffs, each dose is a small file next to shared.uqff. To add a dose, run the
command again with another --out; to change one, bake it again and rename the file.")]
pub struct BakeArgs {
    /// Model directory, .uqff or .gguf file, or Hugging Face id
    #[arg(short, long)]
    pub model: String,
    /// Directory to write
    #[arg(short, long, value_name = "DIR")]
    pub out: PathBuf,
    /// Type of the weights, such as q8_0 or q4k [default: full weights become f32, a UQFF
    /// keeps its types]
    #[arg(long, value_name = "TYPE")]
    pub quantize: Option<String>,
    /// Where the weights cannot express the steering exactly, bake the mean change that it
    /// makes over --prompts, and print the error
    #[arg(long)]
    pub approximate: bool,
    /// Prompts over which --approximate averages, one JSON object on each line
    #[arg(long, value_name = "FILE.jsonl", requires = "approximate")]
    pub prompts: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub steering: SteeringArgs,
    /// Several coefficients: one small file for each (plus_12.uqff, minus_19.uqff, ..), and
    /// shared.uqff
    #[arg(
        long,
        value_name = "C,..",
        value_delimiter = ',',
        allow_negative_numbers = true,
        requires = "directions",
        conflicts_with = "dose",
        help_heading = "Steering"
    )]
    pub coeffs: Vec<f64>,
}

pub fn bake(a: &BakeArgs) -> Result<()> {
    let found = ModelDir::resolve(&a.model)?;
    let (model, source) = (found.path(), open_checked(&found)?);
    let quantize = a.quantize.as_deref().map(WeightType::parse).transpose()?;
    let mut files = doses(a, &source.spec)?;
    let mut approximations = BTreeMap::new();
    for file in &mut files {
        match (BakePlan::of(&source.spec, &file.interventions), &a.prompts) {
            (Ok(_), _) => {}
            (Err(_), None) if a.approximate => bail!(
                "--approximate requires --prompts FILE.jsonl: the mean change is measured on prompts like those that will be steered"
            ),
            (Err(_), Some(prompts)) => {
                let llama = Llama::load(model, LoadOptions::default())?;
                let ids = prompts::ids(&prompts::read(prompts)?, &Chat::load(model)?)?;
                let near = bake::approximate(&llama, &file.interventions[0], &ids)?;
                file.interventions = near.additions.clone();
                approximations.insert(file.name.clone(), near);
            }
            (Err(e), None) => return Err(e.into()),
        }
    }
    let baker = Baker {
        source: &source,
        quantize,
        exactness: match a.approximate {
            true => Exactness::Approximate,
            false => Exactness::Exact,
        },
    };
    let shown = || progress::of("bake");
    let report = match (a.coeffs.is_empty(), files.as_slice()) {
        (true, [one]) => baker.write(&one.interventions, &a.out, &mut shown())?,
        _ => baker.write_doses(&files, &a.out, &mut shown())?,
    };
    match a.json {
        true => print_json(&as_json(a, &report, &approximations)),
        false => print(summary(a, &report, &approximations).join("\n")),
    }
}

/// The steering, or one for each of several coefficients.
fn doses(a: &BakeArgs, spec: &ModelSpec) -> Result<Vec<DoseFile>> {
    let one = |name: String, steering: &SteeringArgs| match steering.intervention(spec)? {
        None => bail!("--directions: expected a direction file, found none"),
        Some(intervention) => Ok(DoseFile {
            name,
            interventions: vec![intervention],
        }),
    };
    if a.coeffs.is_empty() {
        let name = UQFF.trim_end_matches(".uqff");
        return Ok(vec![one(name.to_owned(), &a.steering)?]);
    }
    let mut doses: Vec<DoseFile> = Vec::new();
    for &coeff in &a.coeffs {
        let name = match coeff < 0. {
            true => format!("minus_{}", -coeff),
            false => format!("plus_{coeff}"),
        };
        if doses.iter().any(|dose| dose.name == name) {
            bail!("--coeffs: expected different coefficients, found {coeff} twice");
        }
        let mut steering = a.steering.clone();
        steering.dose.coeff = Some(coeff);
        doses.push(one(name, &steering)?);
    }
    Ok(doses)
}

/// What was written, line by line.
fn summary(
    a: &BakeArgs,
    report: &BakeReport,
    near: &BTreeMap<String, Approximation>,
) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, bytes) in &report.bytes {
        let biases = report.biases.get(name.trim_end_matches(".uqff"));
        let modules = biases.into_iter().flatten();
        let modules: Vec<String> = modules.map(|(s, n)| format!("{s} (norm {n:.2})")).collect();
        let modules = match modules.as_slice() {
            [] => String::new(),
            modules => format!(", biases at {}", modules.join(", ")),
        };
        let file = a.out.join(name);
        lines.push(format!("{}: {bytes} bytes{modules}", file.display()));
    }
    lines.extend(report.left.map(|left| {
        format!("the direction is ablated everywhere; {left:.1e} of it is left in the weights")
    }));
    lines.extend(near.iter().map(|(name, x)| {
        format!(
            "{name} adds the mean change: the changes differ from it by {:.3} of their size; \
             KL from exact steering {:.4}, from the base to exact steering {:.4}",
            x.spread, x.divergence, x.effect
        )
    }));
    let mut other: BTreeMap<String, usize> = BTreeMap::new();
    for t in report.other.values() {
        *other.entry(t.to_string()).or_default() += 1;
    }
    if !other.is_empty() {
        let other: Vec<_> = other.iter().map(|(t, n)| format!("{n} in {t}")).collect();
        let what = "in another type, because the blocks of the type do not divide their rows";
        lines.push(format!("{what}: {}", other.join(", ")));
    }
    if report.bytes.contains_key(SHARED) {
        let own = report.bytes.keys().find(|n| *n != SHARED);
        let (out, own) = (a.out.display(), own.map_or("", |n| n));
        let serve = format!("mistralrs serve -m {out} --from-uqff \"{SHARED};{own}\"");
        lines.push(format!("serve one with: {serve}"));
    }
    lines
}

fn as_json(a: &BakeArgs, report: &BakeReport, near: &BTreeMap<String, Approximation>) -> Value {
    let biases = report.biases.iter().map(|(name, biases)| {
        let norms = biases.iter().map(|(s, n)| (s.to_string(), *n));
        (name, norms.collect::<BTreeMap<_, _>>())
    });
    let near = near.iter().map(|(name, x)| {
        let x = json!({"spread": x.spread, "divergence": x.divergence, "effect": x.effect});
        (name, x)
    });
    let other = report.other.iter().map(|(name, t)| (name, t.to_string()));
    json!({
        "out": a.out, "bytes": report.bytes, "biases": biases.collect::<BTreeMap<_, _>>(),
        "left": report.left, "approximate": near.collect::<BTreeMap<_, _>>(),
        "other_types": other.collect::<BTreeMap<_, _>>(),
    })
}
