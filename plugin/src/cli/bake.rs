//! `reptune bake`: steering written into a UQFF.

use super::{bar, flags, generate};
use crate::bake::{self, Approximation, BakePlan, BakeReport, Baker, DoseFile, Exactness, SHARED};
use crate::decoder::{Llama, LoadOptions};
use crate::model::ModelDir;
use crate::model::Source;
use crate::model::uqff::{UQFF, WeightType};
use crate::prompts;
use anyhow::{Result, bail};
use reptune_adapters::{Intervention, ModelSpec};
use reptune_recipes::Chat;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;

pub fn bake(a: &flags::Bake) -> Result<()> {
    let model = ModelDir::resolve(&a.model)?.path().to_owned();
    let source = Source::open(&model)?;
    let quantize = a.quantize.as_deref().map(WeightType::parse).transpose()?;
    let mut doses = Vec::new();
    let mut approximations = BTreeMap::new();
    for (name, intervention) in typed(a, &source.spec)? {
        let exact = BakePlan::of(&source.spec, std::slice::from_ref(&intervention));
        let interventions = match (exact, a.approximate) {
            (Ok(_), _) => vec![intervention],
            (Err(_), true) => {
                let near = approximate(a, &model, &intervention)?;
                let additions = near.additions.clone();
                approximations.insert(name.clone(), near);
                additions
            }
            (Err(e), false) => return Err(e.into()),
        };
        doses.push(DoseFile {
            name,
            interventions,
        });
    }
    let baker = Baker {
        source: &source,
        quantize,
        exactness: match a.approximate {
            true => Exactness::Approximate,
            false => Exactness::Exact,
        },
    };
    let bar = bar(source.spec.layers, "bake");
    let progress = &mut |done, _| bar.set_position(done as u64);
    let report = match (a.coeffs.is_empty(), doses.as_slice()) {
        (true, [one]) => baker.write(&one.interventions, &a.out, progress)?,
        _ => baker.write_doses(&doses, &a.out, progress)?,
    };
    bar.finish_and_clear();
    match a.json {
        true => println!("{}", as_json(a, &report, &approximations)),
        false => told(a, &report, &approximations),
    }
    Ok(())
}

/// What was typed: one model, or one for each of several coeffs.
fn typed(a: &flags::Bake, spec: &ModelSpec) -> Result<Vec<(String, Intervention)>> {
    let missing = "--directions: expected a direction file with --layers and --coeff, found none";
    let one = |steering: &flags::Steering| match generate::steering(steering, spec)? {
        Some(intervention) => Ok(intervention),
        None => bail!(missing),
    };
    if a.coeffs.is_empty() {
        let name = UQFF.trim_end_matches(".uqff");
        return Ok(vec![(name.to_owned(), one(&a.steering)?)]);
    }
    let mut variants: Vec<(String, Intervention)> = Vec::new();
    for &coeff in &a.coeffs {
        let name = match coeff < 0. {
            true => format!("minus_{}", -coeff),
            false => format!("plus_{coeff}"),
        };
        if variants.iter().any(|(n, _)| *n == name) {
            bail!("--coeffs: expected each coeff once, found {coeff} twice");
        }
        let steering = flags::Steering {
            coeff: Some(coeff),
            ..a.steering.clone()
        };
        variants.push((name, one(&steering)?));
    }
    Ok(variants)
}

fn approximate(a: &flags::Bake, model: &Path, x: &Intervention) -> Result<Approximation> {
    let Some(file) = &a.prompts else {
        bail!(
            "--approximate: expected --prompts FILE.jsonl beside it, found none; the mean change is taken over the rows of prompts of the kind that will be steered"
        );
    };
    let llama = Llama::load(model, LoadOptions::default())?;
    let chat = Chat::load(model)?;
    let ids = prompts::read(file)?
        .iter()
        .map(|p| p.ids(&chat))
        .collect::<reptune_recipes::Result<Vec<_>>>()?;
    Ok(bake::approximate(&llama, x, &ids)?)
}

fn told(a: &flags::Bake, report: &BakeReport, near: &BTreeMap<String, Approximation>) {
    for (name, bytes) in &report.bytes {
        let biases = report.biases.get(name.trim_end_matches(".uqff"));
        let modules = biases.into_iter().flatten();
        let modules: Vec<String> = modules.map(|(s, n)| format!("{s} (norm {n:.2})")).collect();
        let modules = match modules.as_slice() {
            [] => String::new(),
            modules => format!(", biases at {}", modules.join(", ")),
        };
        println!("{}: {bytes} bytes{modules}", a.out.join(name).display());
    }
    if let Some(left) = report.left {
        println!("the direction is ablated everywhere; {left:.1e} of it is still written");
    }
    for (name, x) in near {
        println!(
            "{name} is the mean change: {:.3} of the changes lies around it; KL {:.4} from the steering itself, which moves the model by {:.4}",
            x.spread, x.divergence, x.effect
        );
    }
    if !report.other.is_empty() {
        println!(
            "in another type, as blocks do not divide their rows: {}",
            summary(&report.other)
        );
    }
    if report.bytes.contains_key(SHARED) {
        let own = report.bytes.keys().find(|n| *n != SHARED);
        println!(
            "serve one with: mistralrs serve -m {} --from-uqff \"{SHARED};{}\"",
            a.out.display(),
            own.map_or("", |n| n)
        );
    }
}

fn as_json(
    a: &flags::Bake,
    report: &BakeReport,
    near: &BTreeMap<String, Approximation>,
) -> serde_json::Value {
    let biases: BTreeMap<_, BTreeMap<String, f64>> = report
        .biases
        .iter()
        .map(|(name, b)| (name, b.iter().map(|(s, n)| (s.to_string(), *n)).collect()))
        .collect();
    let near: BTreeMap<_, _> = near
        .iter()
        .map(|(name, x)| {
            let x = json!({"spread": x.spread, "divergence": x.divergence, "effect": x.effect});
            (name, x)
        })
        .collect();
    json!({
        "out": a.out, "bytes": report.bytes, "biases": biases, "left": report.left,
        "approximate": near, "other_types": other(&report.other),
    })
}

/// Types by tensor, for JSON.
fn other(types: &BTreeMap<String, WeightType>) -> BTreeMap<&String, String> {
    types.iter().map(|(n, t)| (n, t.to_string())).collect()
}

/// How many tensors have which type: `43 in q4_0, 2 in f32`.
fn summary(types: &BTreeMap<String, WeightType>) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for t in types.values() {
        *counts.entry(t.to_string()).or_default() += 1;
    }
    let parts = counts.iter().map(|(t, n)| format!("{n} in {t}"));
    parts.collect::<Vec<_>>().join(", ")
}
