//! A model quantized in place: it runs, stays close to f32, and lets gradients through.
//!
//! K-quants want rows of a multiple of 256, which the fixtures lack, so random models are
//! written for the occasion.

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use rand::{Rng, SeedableRng};
use reptune::model::ModelConfig;
use reptune::{Llama, LoadOptions, decoder::parse_isq};
use reptune_adapters::lora::loss::{Label, token_loss};
use reptune_adapters::model::ModuleKind;
use reptune_adapters::{
    Adapter, ForwardOptions, HookedModel, KeyValueCache, PrefixTree, TargetModule,
};
use reptune_tests::{fixture, flat, label_rows, logits, random_update, whole};
use std::collections::HashMap;
use std::path::Path;

const PROMPTS: [&[u32]; 3] = [
    &[256, 73, 115, 32, 97],
    &[256, 73, 115, 32, 105, 116, 32, 116, 114, 117, 101, 63],
    &[256, 258, 32, 65, 32, 259],
];

/// A model of the architecture of the fixture `tiny-{name}`, with random weights of variance 1 / I,
/// and with biases and norms of heads where it has such.
fn write_random_model(directory: &Path, name: &str) -> Result<()> {
    let (hidden, intermediate, vocab, layers, head_dim) = (256, 512, 272, 2, 64);
    let from = fixture(&format!("tiny-{name}"));
    let mut config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(from.join("config.json"))?)?;
    config["hidden_size"] = hidden.into();
    config["intermediate_size"] = intermediate.into();
    config["num_hidden_layers"] = layers.into();
    config["head_dim"] = head_dim.into();
    std::fs::write(directory.join("config.json"), config.to_string())?;
    std::fs::copy(
        from.join("tokenizer.json"),
        directory.join("tokenizer.json"),
    )?;
    let config = ModelConfig::read(directory)?;

    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let mut random = |shape: &[usize], bound: f32| -> Result<Tensor> {
        let count: usize = shape.iter().product();
        let data: Vec<f32> = (0..count)
            .map(|_| rng.random_range(-bound..bound))
            .collect();
        Ok(Tensor::from_vec(data, shape, &Device::Cpu)?)
    };
    let bound = |i: usize| (3. / i as f32).sqrt(); // outputs of variance 1
    let ones = |width: usize| Tensor::ones(width, candle_core::DType::F32, &Device::Cpu);
    let mut tensors = HashMap::from([
        (
            "model.embed_tokens.weight".to_owned(),
            random(&[vocab, hidden], bound(hidden))?,
        ),
        (
            "lm_head.weight".to_owned(),
            random(&[vocab, hidden], bound(hidden))?,
        ),
        ("model.norm.weight".to_owned(), ones(hidden)?),
    ]);
    for layer in 0..layers {
        let at = |name: &str| format!("model.layers.{layer}.{name}.weight");
        tensors.insert(at("input_layernorm"), ones(hidden)?);
        tensors.insert(at("post_attention_layernorm"), ones(hidden)?);
        if config.architecture.normalises_heads() {
            tensors.insert(at("self_attn.q_norm"), ones(head_dim)?);
            tensors.insert(at("self_attn.k_norm"), ones(head_dim)?);
        }
        for kind in ModuleKind::ALL {
            let (o, i) = match kind {
                ModuleKind::QProj | ModuleKind::OProj => (hidden, hidden),
                ModuleKind::KProj | ModuleKind::VProj => (hidden / 2, hidden),
                ModuleKind::GateProj | ModuleKind::UpProj => (intermediate, hidden),
                ModuleKind::DownProj => (hidden, intermediate),
            };
            tensors.insert(at(kind.path()), random(&[o, i], bound(i))?);
            if let Some(bias) = config.bias_name(TargetModule { layer, kind }) {
                tensors.insert(bias, random(&[o], 0.2)?);
            }
        }
    }
    candle_core::safetensors::save(&tensors, directory.join("model.safetensors"))?;
    Ok(())
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Gradients of a token loss, by module and letter.
fn gradients(llama: &Llama, update: &Adapter) -> Result<Vec<(String, Vec<f32>)>> {
    let (tree, rows) = PrefixTree::pack(&PROMPTS);
    let last: Vec<u32> = rows.iter().map(|r| r[r.len() - 1]).collect();
    let request = ForwardOptions {
        logits: &last,
        adapter: Some(update),
        ..ForwardOptions::default()
    };
    let pass = llama.forward(&tree, &mut KeyValueCache::none(), &request)?;
    let loss = token_loss(logits(&pass), &label_rows(&[65, 66, 65]), Label::Right)?;
    let found = loss.backward()?;
    let mut all = Vec::new();
    for (module, l) in &update.modules {
        for (letter, factor) in [("A", &l.a), ("B", &l.b)] {
            let place = format!("{module}.lora_{letter}");
            let g = flat(
                found
                    .get(factor)
                    .with_context(|| format!("{place}: no gradient"))?,
            );
            all.push((place, g));
        }
    }
    Ok(all)
}

#[test]
fn a_quantized_base_stays_close_and_lets_gradients_through() -> Result<()> {
    let (q8_0, q4k) = (("q8_0", 0.999, 0.99), ("q4k", 0.97, 0.9));
    stays_close("llama2", &[q8_0, q4k])?;
    for model in ["mistral", "qwen2", "qwen3", "llama-bias"] {
        println!("{model}");
        stays_close(model, &[q8_0])?;
    }
    Ok(())
}

/// `types`: with the least cosine of logits and of gradients.
fn stays_close(model: &str, types: &[(&str, f64, f64)]) -> Result<()> {
    let directory = tempfile::tempdir()?;
    write_random_model(directory.path(), model)?;
    let full = Llama::load(directory.path(), LoadOptions::default())?;
    let mut update = random_update(full.spec(), &[0, 1], &ModuleKind::ALL, 9)?;
    update.trainable(full.device())?;
    let (tree, _) = PrefixTree::pack(&PROMPTS);
    let expected = flat(logits(&whole(&full, &tree, ForwardOptions::default())?));
    let full_gradients = gradients(&full, &update)?;
    for &(name, least, least_gradient) in types {
        let isq = Some(parse_isq(name)?);
        let llama = Llama::load(
            directory.path(),
            LoadOptions {
                isq,
                ..LoadOptions::default()
            },
        )?;
        assert_eq!(
            llama.spec().fingerprint,
            full.spec().fingerprint,
            "{name}: same model"
        );
        let ours = flat(logits(&whole(&llama, &tree, ForwardOptions::default())?));
        let close = cosine(&ours, &expected);
        assert!(close > least, "{name}: cosine of logits {close}");
        assert_ne!(ours, expected, "{name}: not quantized at all");
        let mut closest = (1f64, String::new());
        for ((place, g), (_, full)) in gradients(&llama, &update)?.iter().zip(&full_gradients) {
            assert!(g.iter().all(|x| x.is_finite()), "{name}: {place} is finite");
            assert!(g.iter().any(|x| *x != 0.), "{name}: {place} is not zero");
            let close = cosine(g, full);
            assert!(
                close > least_gradient,
                "{name}: gradient of {place} has cosine {close}"
            );
            if close < closest.0 {
                closest = (close, place.clone());
            }
        }
        println!(
            "{name}: cosine of logits {close:.5}, of gradients at least {:.5} ({})",
            closest.0, closest.1
        );
    }
    Ok(())
}
