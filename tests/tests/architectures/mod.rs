//! What the configuration says of an architecture: every variant computes what transformers does,
//! unmodified mistral.rs says the same or is not asked, and other architectures are refused.

mod whole_way;

use anyhow::{Context, Result};
use reptune::model::ModelConfig;
use reptune::runtime::Engine;
use reptune_adapters::{ForwardOptions, PrefixTree};
use reptune_recipes::Chat;
use reptune_recipes::generate::{Generation, generate};
use reptune_tests::{ModelFixture, Oracle, Walk, fixture, logits, whole};
use serde_json::{Value, json};
use std::path::Path;

#[test]
fn every_variant_computes_what_transformers_does() -> Result<()> {
    let (oracle, prompts) = (Oracle::read("oracle-variants.safetensors")?, prompts()?);
    let variants: Value = serde_json::from_slice(&std::fs::read(fixture("variants.json"))?)?;
    let names = variants.as_object().context("a table of variants")?.keys();
    for name in names {
        let model = ModelFixture::of(name)?.load()?;
        let (tree, _) = PrefixTree::pack(&prompts[2..]);
        let pass = whole(&model, &tree, ForwardOptions::default())?;
        let mut walk = Walk::within(2e-5);
        for (layer, rows) in &pass.residuals {
            let place = format!("{name}.layer.{layer}");
            walk.check(&place, rows, oracle.get(&place)?);
        }
        let place = format!("{name}.logits");
        walk.check(&place, logits(&pass), oracle.get(&place)?);
        walk.finish(name);
    }
    Ok(())
}

/// The prompts of `make_architectures.py`: 5, 8 and 16 tokens.
fn prompts() -> Result<Vec<Vec<u32>>> {
    Oracle::read("oracle-mistral.safetensors")?.prompts()
}

/// mistral.rs lets the tokens of a prompt see one token more than a sliding window has, so there
/// the prompt is within the window; what is generated goes far past it.
#[test]
fn sixty_four_greedy_tokens_are_those_of_mistralrs() -> Result<()> {
    let all = prompts()?;
    for (name, prompts) in [
        ("mistral", &all[..1]),
        ("mistral-no-window", &all),
        ("qwen2", &all),
        ("qwen3", &all),
        ("qwen3-window", &all[..1]),
    ] {
        let model = ModelFixture::of(name)?;
        let (llama, chat) = (model.load()?, Chat::load(&model.path)?);
        let engine = Engine::load(&model.path, None)?;
        let how = Generation {
            max_new_tokens: 64,
            stop: &chat.stop,
            ..Generation::default()
        };
        let ours = generate(&llama, prompts, &how, &mut |_| {})?;
        let longest = ours.iter().map(Vec::len).max();
        assert_eq!(
            longest,
            Some(64),
            "{name}: some prompt goes on for 64 tokens"
        );
        for (prompt, tokens) in prompts.iter().zip(&ours) {
            let text = chat.decode(tokens)?;
            assert_eq!(
                text.trim_start(),
                engine.generate(prompt, 64)?.trim_start(),
                "{name}"
            );
        }
        let first = engine.logits(&prompts[0])?;
        let (tree, _) = PrefixTree::pack(&prompts[..1]);
        let pass = whole(&llama, &tree, ForwardOptions::default())?;
        Walk::within(2e-5).check(name, logits(&pass), &first);
    }
    Ok(())
}

fn message<T>(result: reptune::Result<T>) -> String {
    result.err().map_or("no error".into(), |e| e.to_string())
}

#[test]
fn mistralrs_is_not_asked_for_what_it_would_compute_wrongly() -> Result<()> {
    for (name, key, hint) in [
        ("llama-bias", "attention_bias", "from a UQFF"),
        ("llama-mlp-bias", "mlp_bias", "from a UQFF"),
        ("qwen3-bias", "attention_bias", "from a UQFF"),
        ("llama-wide-heads", "head_dim", "reptune's own commands"),
        ("qwen2-window", "sliding_window", "reptune's own commands"),
        (
            "qwen2-layer-types",
            "sliding_window",
            "reptune's own commands",
        ),
    ] {
        let model = ModelFixture::of(name)?;
        let message = message(Engine::load(&model.path, None));
        let place = format!("config.json: key `{key}`");
        assert!(
            message.contains(&place) && message.contains(hint),
            "{name}: {message}"
        );
    }
    Ok(())
}

/// The configuration of a fixture, changed.
fn config(model: &str, change: impl Fn(&mut Value)) -> Result<reptune::Result<ModelConfig>> {
    let path = fixture(model).join("config.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(path)?)?;
    change(&mut json);
    Ok(ModelConfig::parse(Path::new("config.json"), json))
}

#[test]
fn other_architectures_are_refused_by_name() -> Result<()> {
    for (class, hint) in [
        ("Gemma2ForCausalLM", "no shift of the residual stream"),
        (
            "Gemma3ForConditionalGeneration",
            "no shift of the residual stream",
        ),
        ("GemmaForCausalLM", "other architectures are not supported"),
        ("Phi3ForCausalLM", "other architectures are not supported"),
        (
            "Qwen3MoeForCausalLM",
            "other architectures are not supported",
        ),
    ] {
        let refused = config("tiny-llama2", |json| json["architectures"] = json!([class]))?;
        let message = message(refused);
        for part in ["key `architectures`", class, "MistralForCausalLM", hint] {
            assert!(message.contains(part), "{class}: {message}");
        }
    }
    let both = config("tiny-llama2", |json| json["model_type"] = json!("qwen2"))?;
    let both = message(both);
    assert!(
        both.contains("key `model_type`") && both.contains("`architectures`"),
        "{both}"
    );
    let yarn = config("tiny-qwen2", |json| {
        json["rope_scaling"] =
            json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32});
    })?;
    assert!(message(yarn).contains("dynamic and yarn are refused"));
    let types = json!([
        "full_attention",
        "chunked_attention",
        "full_attention",
        "full_attention"
    ]);
    let chunked = config("tiny-qwen3", |json| json["layer_types"] = types.clone())?;
    assert!(message(chunked).contains("key `layer_types`"));
    Ok(())
}

/// Values that transformers takes for keys that are left out, in what is computed and in what
/// engines read.
#[test]
fn keys_that_are_left_out_have_the_values_of_transformers() -> Result<()> {
    let without = |model: &str, keys: &[&str]| {
        config(model, |json| {
            for key in keys {
                json.as_object_mut().expect("an object").remove(*key);
            }
            json["num_attention_heads"] = json!(32);
            json["hidden_size"] = json!(4096);
        })
    };
    let mistral = without(
        "tiny-mistral",
        &[
            "architectures",
            "num_key_value_heads",
            "head_dim",
            "sliding_window",
            "max_position_embeddings",
        ],
    )??;
    assert_eq!((mistral.num_key_value_heads, mistral.head_dim), (8, 128));
    assert_eq!(
        (mistral.window(0), mistral.max_position_embeddings),
        (Some(4096), 131_072)
    );
    assert_eq!(mistral.json["architectures"], json!(["MistralForCausalLM"]));
    assert_eq!(mistral.json["sliding_window"], json!(4096));
    let qwen = without(
        "tiny-qwen3",
        &[
            "num_key_value_heads",
            "head_dim",
            "sliding_window",
            "use_sliding_window",
            "max_window_layers",
        ],
    )??;
    assert_eq!((qwen.num_key_value_heads, qwen.head_dim), (32, 128));
    assert_eq!(qwen.window(3), None);
    for (key, value) in [
        ("head_dim", json!(128)),
        ("sliding_window", json!(null)),
        ("use_sliding_window", json!(false)),
        ("max_window_layers", json!(28)),
    ] {
        assert_eq!(qwen.json[key], value, "{key}");
    }
    Ok(())
}
