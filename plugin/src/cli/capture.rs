//! `reptune capture`: the residual stream of prompts as a file.

use super::{bar, flags};
use crate::decoder::Llama;
use crate::model::hub;
use crate::prompts;
use anyhow::{Context, Result};
use candle_core::Tensor;
use reptune_adapters::steering::direction::LAYER_CONVENTION;
use reptune_adapters::{HookedModel, files, formats::safetensors::sort_metadata};
use reptune_recipes::Chat;
use reptune_recipes::capture::{Logits, Wanted, capture as captured};
use std::collections::{BTreeMap, HashMap};

pub fn capture(a: &flags::Capture) -> Result<()> {
    let directory = hub::resolve(&a.model)?;
    let llama = Llama::load(&directory, a.loading.options()?)?;
    let chat = Chat::load(&directory)?;
    let layers = flags::layers(a.layers.as_deref().unwrap_or("all"), llama.spec().layers)?;
    let prompts = prompts::read(&a.prompts)?;
    let ids = prompts.iter().map(|prompt| prompt.ids(&chat));
    let ids = ids.collect::<std::result::Result<Vec<_>, _>>()?;
    let bar = bar(prompts.len(), "capture");
    let mut tensors: BTreeMap<String, Tensor> = BTreeMap::new();
    let wanted = Wanted {
        layers: &layers,
        last: a.last.map(|k| k as usize),
        logits: if a.logits { Logits::All } else { Logits::None },
    };
    captured(&llama, &ids, &wanted, &mut |i, found| {
        let ids = Tensor::new(ids[i].as_slice(), llama.device())?;
        tensors.insert(format!("prompt.{i}.ids"), ids);
        for (layer, residual) in found.residuals {
            tensors.insert(format!("prompt.{i}.layer.{layer}"), residual);
        }
        if let Some(logits) = found.logits {
            tensors.insert(format!("prompt.{i}.logits"), logits);
        }
        bar.inc(1);
        Ok(())
    })?;
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
    sort_metadata(&mut file);
    files::write_atomically(&a.out, |w| w.write_all(&file))?;
    println!(
        "{}: {} prompts, {} layers",
        a.out.display(),
        prompts.len(),
        layers.len()
    );
    Ok(())
}
