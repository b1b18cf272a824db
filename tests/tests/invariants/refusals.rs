//! What a model directory or a request must not be, and what is said then.

use anyhow::Result;
use candle_core::Tensor;
use reptune::{Llama, LoadOptions};
use reptune_adapters::{
    Dose, ForwardOptions, HookedModel, Intervention, KeyValueCache, Operator, PrefixTree,
};
use reptune_tests::{Oracle, fixture, llama};
use std::fmt::Write;
use std::path::Path;

/// A copy of a fixture that may be broken.
fn copy(name: &str) -> Result<tempfile::TempDir> {
    let directory = tempfile::tempdir()?;
    for entry in std::fs::read_dir(fixture(name))? {
        let entry = entry?;
        std::fs::copy(entry.path(), directory.path().join(entry.file_name()))?;
    }
    Ok(directory)
}

fn refused(notes: &mut String, case: &str, directory: &Path) {
    let Err(error) = Llama::load(directory, LoadOptions::default()) else {
        panic!("{case}: was loaded")
    };
    let (message, name) = (error.to_string(), directory.display().to_string());
    assert!(
        message.contains(&name),
        "{case}: the message names no file: {message}"
    );
    let _ = writeln!(notes, "{case}\n    {}", message.replace(&name, "[DIR]"));
}

#[test]
fn a_broken_model_directory_is_refused() -> Result<()> {
    let mut notes = String::new();
    let shard = "model-00002-of-00003.safetensors";

    let model = copy("tiny-llama32")?;
    let bytes = std::fs::read(model.path().join(shard))?;
    for (case, bytes) in [
        ("truncated shard", &bytes[..bytes.len() - 10]),
        ("shard cut in its header", &bytes[..100]),
        ("empty shard", &[]),
    ] {
        std::fs::write(model.path().join(shard), bytes)?;
        refused(&mut notes, case, model.path());
    }
    std::fs::remove_file(model.path().join(shard))?;
    refused(&mut notes, "missing shard", model.path());

    let model = copy("tiny-llama2")?;
    let weights = model.path().join("model.safetensors");
    let tensors = candle_core::safetensors::load(&weights, &candle_core::Device::Cpu)?;
    let name = "model.layers.2.mlp.down_proj.weight";
    let mut changed = tensors.clone();
    changed.insert(name.into(), tensors[name].t()?.contiguous()?);
    candle_core::safetensors::save(&changed, &weights)?;
    refused(&mut notes, "wrong shape", model.path());
    changed.insert(
        name.into(),
        tensors[name].to_dtype(candle_core::DType::F64)?,
    );
    candle_core::safetensors::save(&changed, &weights)?;
    refused(&mut notes, "wrong dtype", model.path());
    changed.remove(name);
    candle_core::safetensors::save(&changed, &weights)?;
    refused(&mut notes, "missing tensor", model.path());
    std::fs::remove_file(&weights)?;
    refused(&mut notes, "no weights", model.path());

    let model = copy("tiny-llama2")?;
    let config = model.path().join("config.json");
    let good = std::fs::read_to_string(&config)?;
    for (case, from, to) in [
        (
            "wrong architecture",
            "LlamaForCausalLM",
            "MistralForCausalLM",
        ),
        (
            "biases",
            "\"attention_bias\": false",
            "\"attention_bias\": true",
        ),
        ("no width", "\"hidden_size\": 32,", ""),
        (
            "heads that do not divide",
            "\"num_attention_heads\": 4",
            "\"num_attention_heads\": 5",
        ),
        ("not JSON", "\"silu\",", "\"silu\""),
    ] {
        assert!(good.contains(from), "{case}: nothing to replace");
        std::fs::write(&config, good.replace(from, to))?;
        refused(&mut notes, case, model.path());
    }
    std::fs::write(&config, good)?;
    std::fs::remove_file(model.path().join("tokenizer.json"))?;
    refused(&mut notes, "no tokenizer", model.path());
    std::fs::remove_file(&config)?;
    refused(&mut notes, "no config", model.path());
    refused(&mut notes, "no directory", &model.path().join("nowhere"));
    insta::assert_snapshot!(notes);
    Ok(())
}

#[test]
fn a_request_that_does_not_fit_is_refused() -> Result<()> {
    let llama = llama("tiny-llama2")?;
    let set = Oracle::read("oracle-llama2.safetensors")?.directions()?;
    let mut notes = String::new();
    let mut refused = |case: &str, tree: &PrefixTree, request: ForwardOptions| {
        let Err(error) = llama.forward(tree, &mut KeyValueCache::none(), &request) else {
            panic!("{case}: was run")
        };
        let message = error.to_string().replace(&llama.spec().name, "[MODEL]");
        let _ = writeln!(notes, "{case}\n    {message}");
    };
    let (tree, _) = PrefixTree::pack(&[[256u32, 65, 66]]);
    let capture = ForwardOptions {
        capture: &[1, 4],
        ..ForwardOptions::default()
    };
    refused("captured layer out of range", &tree, capture);
    let mut deep = set.clone();
    deep.layers.insert(7, set.layer(1)?.clone());
    let interventions = [Intervention::new(
        &deep,
        &[7],
        Dose::Total(1.),
        Operator::Add,
    )?];
    let steered = ForwardOptions {
        interventions: &interventions,
        logits: &[2],
        ..ForwardOptions::default()
    };
    refused("steered layer out of range", &tree, steered);
    let (long, rows) = PrefixTree::pack(&[vec![65u32; 129]]);
    let request = ForwardOptions {
        logits: &rows[0][..1],
        ..ForwardOptions::default()
    };
    refused("prompt longer than the context", &long, request);
    let error = Intervention::new(&set, &[9], Dose::Total(1.), Operator::Add).expect_err("layer 9");
    let _ = writeln!(notes, "layer without a direction\n    {error}");
    let error =
        Intervention::new(&set, &[1], Dose::Total(f64::NAN), Operator::Add).expect_err("NaN");
    let _ = writeln!(notes, "coeff that is not finite\n    {error}");
    insta::assert_snapshot!(notes);

    // 128 tokens are the context, and still run.
    let (full, rows) = PrefixTree::pack(&[vec![65u32; 128]]);
    let request = ForwardOptions {
        logits: &rows[0][127..],
        ..ForwardOptions::default()
    };
    let pass = llama.forward(&full, &mut KeyValueCache::none(), &request)?;
    let finite = |t: &Tensor| reptune_tests::flat(t).iter().all(|x| x.is_finite());
    assert!(pass.logits.is_some_and(|l| finite(&l)));
    Ok(())
}
