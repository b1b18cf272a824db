//! `reptune merge` and `reptune bake`: from a model directory to another.

use super::{bar, flags, generate};
use crate::bake;
use crate::hub;
use crate::llama::{LlamaConfig, model_spec, parse_isq};
use anyhow::{Result, bail};
use reptune_adapters::peft;
use reptune_recipes::merge as fold;

pub fn merge(a: &flags::Merge) -> Result<()> {
    let directory = hub::resolve(&a.model)?;
    let spec = model_spec(&LlamaConfig::read(&directory)?, &directory)?;
    let update = peft::load(&a.adapter, &spec)?;
    let bar = bar(1, "merge");
    let report = fold::merge(&directory, &update, &a.out, &mut |_, done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    if a.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{}: {report}", a.out.display());
    }
    Ok(())
}

pub fn bake(a: &flags::Bake) -> Result<()> {
    let directory = hub::resolve(&a.model)?;
    let spec = model_spec(&LlamaConfig::read(&directory)?, &directory)?;
    let Some(intervention) = generate::steering(&a.steering, &spec)? else {
        bail!("--directions: expected a direction file with --layers and --coeff, found none");
    };
    let quantize = a.quantize.as_deref().map(parse_isq).transpose()?;
    let bar = bar(spec.layers, "bake");
    let report = bake::bake(&directory, &[intervention], quantize, &a.out, &mut |done| bar.set_position(done as u64))?;
    bar.finish_and_clear();
    if a.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{}: {report}", a.out.display());
    }
    Ok(())
}
