//! `reptune capture`: the residual stream of prompts as a file.

use super::{bar, flags};
use crate::llama::{Llama, LoadOptions, parse_isq};
use crate::{hub, prompts};
use anyhow::{Context, Result};
use candle_core::Tensor;
use reptune_adapters::direction::LAYER_CONVENTION;
use reptune_adapters::{Cache, Forest, Host, Request, artefact};
use reptune_recipes::Chat;
use std::collections::{BTreeMap, HashMap};

pub fn capture(a: &flags::Capture) -> Result<()> {
    let directory = hub::resolve(&a.model)?;
    let isq = a.isq.as_deref().map(parse_isq).transpose()?;
    let llama = Llama::load(&directory, LoadOptions { isq })?;
    let chat = Chat::load(&directory)?;
    let layers = flags::layers(a.layers.as_deref().unwrap_or("all"), llama.spec().layers)?;
    let prompts = prompts::read(&a.prompts)?;
    let bar = bar(prompts.len(), "capture");
    let mut tensors: BTreeMap<String, Tensor> = BTreeMap::new();
    for (i, prompt) in prompts.iter().enumerate() {
        let ids = prompt.ids(&chat)?;
        let (forest, rows) = Forest::pack(std::slice::from_ref(&ids));
        let logits = if a.logits { rows[0].as_slice() } else { &[] };
        let request = Request {
            capture: &layers,
            logits,
            ..Request::default()
        };
        let pass = llama.forward(&forest, &mut Cache::none(), &request)?;
        tensors.insert(format!("prompt.{i}.ids"), Tensor::new(ids, llama.device())?);
        for (layer, residual) in pass.residuals {
            tensors.insert(format!("prompt.{i}.layer.{layer}"), residual);
        }
        if let Some(logits) = pass.logits {
            tensors.insert(format!("prompt.{i}.logits"), logits);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let metadata = HashMap::from([
        ("format".to_owned(), "reptune.capture.1".to_owned()),
        ("layer_convention".to_owned(), LAYER_CONVENTION.to_owned()),
        ("model".to_owned(), llama.spec().name.clone()),
        (
            "model_fingerprint".to_owned(),
            llama.spec().fingerprint.clone(),
        ),
    ]);
    let mut file = safetensors::serialize(&tensors, Some(metadata)).context("capture")?;
    artefact::sort_metadata(&mut file);
    artefact::write_atomically(&a.out, |w| w.write_all(&file))?;
    println!(
        "{}: {} prompts, {} layers",
        a.out.display(),
        prompts.len(),
        layers.len()
    );
    Ok(())
}
