//! Adapters for llama.cpp: a GGUF file with `lora_a` (R, I) and `lora_b` (O, R) of every
//! weight.
//!
//! llama.cpp applies `alpha / rank * B A`, with one alpha for the file and the rank of each
//! B. Where scales differ, B is scaled. Rows of B of q and k are in llama.cpp's order, which is
//! another one for Llama and Mistral.

use crate::error::{Error, Result};
use crate::formats::gguf::{Gguf, GgufWriter, Value};
use crate::formats::tables::Table;
use crate::lora::adapter::{Adapter, WeightDelta};
use crate::model::{ModelSpec, llama_cpp as llama};
use candle_core::{Device, Tensor};
use std::collections::BTreeMap;
use std::path::Path;

const ALPHA: &str = "adapter.lora.alpha";

/// Writes `adapter`, which belongs to `model`.
///
/// # Errors
/// When a module has a full delta, `adapter` is empty or for another model, or the file
/// cannot be written.
pub fn write(path: &Path, adapter: &Adapter, model: &ModelSpec) -> Result<()> {
    adapter.check_model(path, model)?;
    if let Some(module) = adapter.full_delta() {
        let what = format!("{module}, a full delta, in a GGUF adapter");
        let reason = "llama.cpp has only factors; merge it instead";
        return Err(Error::unsupported(what, reason));
    }
    adapter.check_not_empty()?;
    // There an alpha of 0 means a scale of 1; scales of 0 go into B.
    let deltas = adapter.modules.values();
    let mut alphas = deltas.map(|delta| (delta.scale * delta.rank() as f64) as f32);
    let alpha = alphas.find(|a| *a != 0.).unwrap_or(1.);
    let mut file = GgufWriter::new(llama::architecture(model.architecture));
    file.text("general.type", "adapter");
    file.text("adapter.type", "lora");
    file.set(ALPHA, Value::F32(alpha));
    for (module, delta) in &adapter.modules {
        let (a, mut b) = (Table::of(&delta.a)?.data, Table::of(&delta.b)?.data);
        let (o, i) = module.kind.shape(model);
        // 1 where all scales are equal
        let factor = (delta.scale / (f64::from(alpha) / delta.rank() as f64)) as f32;
        if factor != 1. {
            b.iter_mut().for_each(|x| *x *= factor);
        }
        if let Some(heads) = llama::heads(module.kind, model) {
            b = llama::to_llama_cpp(&b, o, heads);
        }
        let name = llama::name(*module);
        file.floats(&format!("{name}.lora_a"), &[delta.rank(), i], &a)?;
        file.floats(&format!("{name}.lora_b"), &[o, delta.rank()], &b)?;
    }
    file.write(path)?;
    Ok(())
}

/// Reads an adapter of llama.cpp for `model`.
///
/// # Errors
/// When it is not a plain LoRA adapter (errors say what it is), or does not fit the model.
pub fn read(path: &Path, model: &ModelSpec) -> Result<Adapter> {
    let file = Gguf::open(path)?;
    let hint = "only plain LoRA on q, k, v, o, gate, up and down of the model's own architecture \
         is supported";
    let wrong = |place: String, expected: String, found: String| {
        Error::content(path, place, expected, found, hint)
    };
    for (key, expected) in [
        ("general.type", "adapter"),
        (
            "general.architecture",
            llama::architecture(model.architecture),
        ),
        ("adapter.type", "lora"),
    ] {
        file.expect_text(key, expected, hint)?;
    }
    if file.value("adapter.alora.invocation_tokens").is_some() {
        let what = format!("{}: an activated LoRA", path.display());
        let reason = "tokens switch it on; only plain LoRA is supported";
        return Err(Error::unsupported(what, reason));
    }
    let alpha = file.number(ALPHA)?.unwrap_or(0.);
    let mut modules = BTreeMap::new();
    for (name, info) in file.tensors() {
        let a_of = name.strip_suffix(".lora_a");
        let weight = a_of.or(name.strip_suffix(".lora_b"));
        let module = weight.and_then(llama::module);
        let Some(module) = module.filter(|module| module.layer < model.layers) else {
            let expected = format!("a factor of a weight of blocks 0 to {}", model.layers - 1);
            let (place, found) = (format!("tensor `{name}`"), format!("`{name}`"));
            return Err(wrong(place, expected, found));
        };
        if a_of.is_none() {
            let a = format!("{}.lora_a", llama::name(module));
            if file.tensor(&a).is_none() {
                let expected = "a tensor".to_owned();
                return Err(wrong(format!("tensor `{a}`"), expected, "nothing".into()));
            }
            continue;
        }
        let (o, i) = module.kind.shape(model);
        let rank = info.shape.first().copied().unwrap_or(0);
        let take = |suffix: &str, shape: [usize; 2]| -> Result<Vec<f32>> {
            let name = format!("{}.{suffix}", llama::name(module));
            let found = match file.tensor(&name) {
                Some(t) if t.shape == shape && rank > 0 => return numbers(&file, &name),
                other => other.map_or("nothing".into(), |t| format!("{:?}", t.shape)),
            };
            let expected = format!("shape {shape:?}, of rank 1 or more");
            Err(wrong(format!("tensor `{name}`"), expected, found))
        };
        let a = take("lora_a", [rank, i])?;
        let mut b = take("lora_b", [o, rank])?;
        if let Some(heads) = llama::heads(module.kind, model) {
            b = llama::from_llama_cpp(&b, o, heads);
        }
        let delta = WeightDelta {
            a: Tensor::from_vec(a, (rank, i), &Device::Cpu)?,
            b: Tensor::from_vec(b, (o, rank), &Device::Cpu)?,
            scale: if alpha == 0. { 1. } else { alpha / rank as f64 },
            full: None,
        };
        modules.insert(module, delta);
    }
    if modules.is_empty() {
        let expected = "at least one `lora_a`".to_owned();
        return Err(wrong("tensors".into(), expected, "none".into()));
    }
    Ok(Adapter { modules })
}

/// A factor in f32; llama.cpp's converter writes 16 bits too, and quantizes to q8_0.
fn numbers(file: &Gguf, name: &str) -> Result<Vec<f32>> {
    let data = file.numbers(name)?;
    match data.iter().find(|x| !x.is_finite()) {
        Some(x) => Err(file.wrong(format!("tensor `{name}`"), "finite numbers", x.to_string())),
        None => Ok(data),
    }
}

#[cfg(test)]
mod tests;
