//! `reptune bench`: measured work as JSON.

use super::flags;
use super::flags::bench::{self as flag, Bench};
use crate::bench::{
    self, Arm, GenerateSettings, Lengths, ServeSettings, Sizes, SweepSettings, TuneSettings,
};
use crate::llama::{LlamaConfig, model_spec};
use anyhow::Result;
use reptune_recipes::recipe::Tuning;
use serde_json::{Value, json};

pub fn bench(command: &Bench) -> Result<()> {
    let report = match command {
        Bench::MakeModel(a) => make_model(a)?,
        Bench::Tune(a) => tune(a)?,
        Bench::Capture(a) => {
            let (w, lengths) = (&a.work, lengths(&a.work));
            let options = a.place.options()?;
            bench::capture(&w.model, options, &w.work, a.pairs, lengths, a.last, w.seed)?
        }
        Bench::Sweep(a) => {
            let settings = SweepSettings {
                questions: a.questions,
                lengths: lengths(&a.work),
                coeffs: a.coeffs,
                layers: match &a.layers {
                    Some(layers) => Some(flags::layers(layers, blocks(&a.work)?)?),
                    None => None,
                },
                generate: a.generate,
                seed: a.work.seed,
            };
            bench::sweep(&a.work.model, a.place.options()?, &a.work.work, &settings)?
        }
        Bench::Generate(a) => {
            let settings = GenerateSettings {
                arm: match a.arm {
                    flag::Arm::Own => Arm::Own,
                    flag::Arm::Steered => Arm::Steered,
                    flag::Arm::Stock => Arm::Stock,
                },
                prompts: a.prompts,
                lengths: lengths(&a.work),
                new: a.new,
                repeats: a.repeats,
                seed: a.work.seed,
            };
            bench::generate(&a.work.model, &a.work.work, &settings)?
        }
        Bench::Serve(a) => {
            let settings = ServeSettings {
                requests: a.requests,
                lengths: lengths(&a.work),
                new: a.new,
                seed: a.work.seed,
            };
            bench::serve(&a.work.model, &a.work.work, &settings)?
        }
        Bench::Merge(a) => bench::merge(&a.model, &a.work, a.rank, a.seed)?,
        Bench::Product(a) => bench::product(a.side)?,
    };
    println!("{report}");
    Ok(())
}

fn make_model(a: &flag::MakeModel) -> Result<Value> {
    let sizes = Sizes {
        hidden: a.hidden,
        layers: a.layers,
        heads: a.heads,
        kv_heads: a.kv_heads.unwrap_or(a.heads),
        intermediate: a.intermediate,
        vocab: a.vocab,
        context: a.context,
    };
    bench::make_model(&a.out, &sizes, a.seed)?;
    Ok(json!({"work": "make-model", "model": a.out, "parameters": sizes.parameters()}))
}

fn tune(a: &flag::Tune) -> Result<Value> {
    let letters = match a.mode.label() {
        reptune_adapters::lora::loss::Label::Soft => 2,
        _ => 1,
    };
    let batch = (a.prompts / letters).max(1);
    let (claims, epochs) = match (a.claims, a.epochs) {
        (Some(claims), Some(epochs)) => (claims, epochs),
        _ => (4 * batch, a.steps.div_ceil(4)),
    };
    let layers = flags::layers(&a.layers, blocks(&a.work)?)?;
    let text = format!(
        "modes = [{:?}]\nlayers = {layers:?}\nrank = {}\nalpha = {}.0\noffset = 7\nbatch = {batch}\n\
         epochs = {epochs}\nlearning_rate = 1e-3\nwarmup = 2\n{}",
        a.mode.name(),
        a.rank,
        2 * a.rank,
        a.memory
            .map_or_else(String::new, |m| format!("memory = {m}\n")),
    );
    let tuning: Tuning = toml::from_str(&text)?;
    let settings = TuneSettings {
        mode: a.mode,
        tuning,
        claims,
        validation: a.validation,
        lengths: lengths(&a.work),
        warm_up: match a.epochs {
            Some(_) => 0,
            None => 1,
        },
        seed: a.work.seed,
    };
    let (work, options) = (&a.work, a.place.options()?);
    Ok(bench::tune(&work.model, options, &work.work, &settings)?)
}

fn lengths(work: &flag::Work) -> Lengths {
    Lengths {
        least: work.tokens.0,
        most: work.tokens.1,
        shared: work.shared,
    }
}

/// Number of blocks of the model.
fn blocks(work: &flag::Work) -> Result<usize> {
    let directory = &work.model;
    Ok(model_spec(&LlamaConfig::read(directory)?, directory)?.layers)
}
