//! `reptune convert`: directions, adapters and models in the formats of other programs.

use super::{bar, flags};
use crate::model::{ModelDir, gguf};
use anyhow::{Result, bail};
use reptune_adapters::formats::gguf::Gguf;
use reptune_adapters::lora::gguf as lora;
use reptune_adapters::steering::direction::LAYER_CONVENTION;
use reptune_adapters::steering::exchange::control_vector::{self, Length};
use reptune_adapters::steering::exchange::{self, svec};
use reptune_adapters::{ModelSpec, lora::peft};
use serde_json::json;
use std::path::Path;

pub fn convert(a: &flags::Convert) -> Result<()> {
    let (what, notes) = match kind(&a.from)? {
        Kind::Adapter => adapter(a)?,
        Kind::GgufAdapter => gguf_adapter(a)?,
        Kind::Model => model(a)?,
        Kind::Directions => directions(a)?,
    };
    if a.json {
        println!(
            "{}",
            json!({"out": a.out, "what": what, "layer_convention": LAYER_CONVENTION, "notes": notes})
        );
        return Ok(());
    }
    println!("{}: {what}", a.out.display());
    for note in notes {
        println!("  {note}");
    }
    Ok(())
}

enum Kind {
    Adapter,
    GgufAdapter,
    Model,
    Directions,
}

fn kind(from: &Path) -> Result<Kind> {
    if from.is_dir() {
        return Ok(Kind::Adapter);
    }
    if !from.is_file() {
        bail!(
            "{}: expected a file or a directory, found nothing; check the path",
            from.display()
        );
    }
    if !Gguf::is_one(from) {
        return Ok(Kind::Directions);
    }
    let file = Gguf::open(from)?;
    Ok(
        match (
            file.text("general.type")?,
            file.text("general.architecture")?,
        ) {
            (Some("adapter"), _) => Kind::GgufAdapter,
            (_, Some("controlvector")) => Kind::Directions,
            _ => Kind::Model,
        },
    )
}

type Told = (String, Vec<String>);

fn directions(a: &flags::Convert) -> Result<Told> {
    let exchange::Read { set, mut notes } = exchange::read(&a.from, a.layer_offset)?;
    let held: Vec<usize> = set.layers.keys().copied().collect();
    let target = a
        .out
        .extension()
        .and_then(|e| e.to_str())
        .unwrap_or_default();
    let layers = match &a.layers {
        Some(text) => flags::layers(text, held.last().map_or(1, |l| l + 1))?,
        None if target == "gguf" && held.first() == Some(&0) => {
            notes.push("layer 0 is left out: llama.cpp cannot steer block 0".into());
            held[1..].to_vec()
        }
        None => held,
    };
    if a.coeff.is_some() && target != "gguf" {
        bail!(
            "--coeff: expected a .gguf as --out, found another; a dose is written into control vectors only"
        );
    }
    match target {
        "gguf" => {
            let length = match a.coeff {
                Some(coeff) => Length::Dose(coeff),
                None if set.provenance.origin.is_empty() => Length::Unit,
                None => Length::Stored,
            };
            control_vector::write(&a.out, &set, &layers, length)?;
            notes.extend(match length {
                Length::Dose(coeff) => vec![
                    format!("strength 1 in llama.cpp is --coeff {coeff} here"),
                    "left out: the lengths of the directions, in whose place the dose is".into(),
                ],
                Length::Unit => {
                    vec!["unit vectors: a strength in llama.cpp is a coeff at every layer".into()]
                }
                Length::Stored => {
                    vec!["vectors as long as they were: a strength is what it was there".into()]
                }
            });
        }
        "svec" => {
            svec::write(&a.out, &set, &layers)?;
            notes.push(
                "left out, as .svec has no place for it: the model's name and fingerprint, \
                 recipe, method, rows, numbers of pairs, residual norms, and the hash"
                    .into(),
            );
        }
        "safetensors" => {
            let mut kept = set;
            kept.layers.retain(|l, _| layers.contains(l));
            kept.save(&a.out)?;
        }
        other => bail!(
            "--out: expected a name that ends in .safetensors, .gguf or .svec, found `{other}`"
        ),
    }
    Ok((
        format!(
            "directions of {} layers, each for the output of its block, counted from 0",
            layers.len()
        ),
        notes,
    ))
}

/// Refuses what says something of directions alone.
fn no_directions(a: &flags::Convert) -> Result<()> {
    for (flag, given) in [
        ("--layers", a.layers.is_some()),
        ("--coeff", a.coeff.is_some()),
        ("--layer-offset", a.layer_offset != 0),
    ] {
        if given {
            bail!(
                "{flag}: expected directions to convert, found {}; leave it out",
                a.from.display()
            );
        }
    }
    Ok(())
}

fn spec(a: &flags::Convert) -> Result<ModelSpec> {
    let Some(model) = &a.model else {
        bail!("--model: expected the model of the adapter, whose heads order the rows, found none");
    };
    Ok(ModelDir::resolve(model)?.config()?.1)
}

fn adapter(a: &flags::Convert) -> Result<Told> {
    no_directions(a)?;
    if a.out.extension().is_none_or(|e| e != "gguf") {
        bail!(
            "--out: expected a name that ends in .gguf for an adapter of llama.cpp, found {}",
            a.out.display()
        );
    }
    let spec = spec(a)?;
    let update = peft::load(&a.from, &spec)?;
    lora::write(&a.out, &update, &spec)?;
    Ok((
        format!("a LoRA of {} weights for llama.cpp", update.modules.len()),
        vec![
            "rows of B of q_proj and k_proj are in llama.cpp's order".into(),
            "left out: what adapter_config.json says beside ranks and alphas".into(),
        ],
    ))
}

fn gguf_adapter(a: &flags::Convert) -> Result<Told> {
    no_directions(a)?;
    let spec = spec(a)?;
    let update = lora::read(&a.from, &spec)?;
    peft::save(&a.out, &update, &spec.name)?;
    Ok((
        format!("a PEFT adapter of {} weights", update.modules.len()),
        vec!["rows of B of q_proj and k_proj are in Hugging Face's order again".into()],
    ))
}

fn model(a: &flags::Convert) -> Result<Told> {
    no_directions(a)?;
    let shown = bar(1, "convert");
    gguf::import(&a.from, &a.out, &mut |done, of| {
        shown.set_length(of as u64);
        shown.set_position(done as u64);
    })?;
    shown.finish_and_clear();
    Ok((
        "a UQFF directory with the same quantized weights".into(),
        Vec::new(),
    ))
}
