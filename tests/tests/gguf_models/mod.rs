//! Llamas in GGUF: the same model as in Hugging Face layout, bit for bit.

mod architectures;
mod refused;
mod tokenizers;
mod written;

use anyhow::{Context, Result};
use candle_core::Device;
use candle_core::quantized::gguf_file::Value;
use candle_core::quantized::{GgmlDType, QTensor};
use reptune::decoder::parse_isq;
use reptune::model::gguf;
use reptune::store::Store as Imports;
use reptune::{Llama, LoadOptions};
use reptune_adapters::lora::loss::{Label, token_loss};
use reptune_adapters::model::ModuleKind;
use reptune_adapters::{
    ForwardOptions, HookedModel, KeyValueCache, PrefixTree, model::llama_cpp as llama,
};
use reptune_recipes::{Chat, Message};
use reptune_tests::{Oracle, bits, fixture, label_rows, logits, random_update, whole};
use std::path::{Path, PathBuf};
use written::{Written, pairs};

/// Imports `gguf` beside itself.
fn import(gguf: &Path) -> Result<PathBuf> {
    let out = gguf.with_extension("imported");
    gguf::import(gguf, &out, &mut |_, _| {})?;
    Ok(out)
}

fn load(directory: &Path) -> Result<Llama> {
    Ok(Llama::load(directory, LoadOptions::default())?)
}

fn honest_mini() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/honest-mini")
}

/// Bits of all logits of the oracle's prompts.
fn said(llama: &Llama) -> Result<Vec<u32>> {
    let prompts = Oracle::read("oracle-llama2.safetensors")?.prompts()?;
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let (tree, _) = PrefixTree::pack(&prompts);
    Ok(bits(logits(&whole(
        llama,
        &tree,
        ForwardOptions::default(),
    )?)))
}

#[test]
fn a_gguf_in_floats_computes_what_the_directory_does() -> Result<()> {
    // The second is tied and has the scaled rope of Llama 3.2; its weights are bf16, which
    // both types hold.
    for (model, dtype) in [
        ("tiny-llama2", GgmlDType::F32),
        ("tiny-llama32", GgmlDType::F32),
        ("tiny-llama32", GgmlDType::BF16),
    ] {
        let room = tempfile::tempdir()?;
        let imported = import(&Written::of(&fixture(model))?.write(room.path(), |_| dtype)?)?;
        let (theirs, ours) = (load(&fixture(model))?, load(&imported)?);
        assert_eq!(said(&ours)?, said(&theirs)?, "{model} in {dtype:?}");
        assert_eq!(ours.spec().context, theirs.spec().context);
    }
    Ok(())
}

#[test]
fn what_lies_beside_the_file_counts_more_than_its_metadata() -> Result<()> {
    let room = tempfile::tempdir()?;
    let path = Written::of(&honest_mini())?.write(room.path(), |_| GgmlDType::F32)?;
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(honest_mini().join(name), room.path().join(name))?;
    }
    let imported = import(&path)?;
    let messages = Message::conversation("Be honest.", "Is it true?");
    let (theirs, ours) = (Chat::load(&honest_mini())?, Chat::load(&imported)?);
    assert_eq!(ours.prompt(&messages)?, theirs.prompt(&messages)?);
    assert_eq!(ours.stop, theirs.stop);
    let fingerprint = |path: &Path| Ok::<_, anyhow::Error>(load(path)?.spec().fingerprint.clone());
    let (theirs, ours) = (fingerprint(&honest_mini())?, fingerprint(&imported)?);
    assert_eq!(ours, theirs, "a direction of the directory fits the GGUF");
    Ok(())
}

/// A template other than the one in the directory, to be seen in the prompt.
const OWN: &str = "{% for m in messages %}<{{ m['content'] }}>{% endfor %}[/INST]";

#[test]
fn a_tokenizer_beside_the_file_does_not_replace_its_template_and_tokens() -> Result<()> {
    let room = tempfile::tempdir()?;
    let mut written = Written::of(&honest_mini())?;
    let template = Value::String(OWN.into());
    written
        .fields
        .insert("tokenizer.chat_template".into(), template);
    // of a kind that only a tokenizer.json can say
    let unknown = Value::String("tekken".into());
    written.fields.insert("tokenizer.ggml.pre".into(), unknown);
    let path = written.write(room.path(), |_| GgmlDType::F32)?;
    std::fs::copy(
        honest_mini().join("tokenizer.json"),
        room.path().join("tokenizer.json"),
    )?;
    let chat = Chat::load(&import(&path)?)?;
    let messages = Message::conversation("", "Is it true?");
    assert_eq!(chat.render(&messages)?, "<Is it true?>[/INST]");
    assert_eq!(chat.stop, [1]);
    // a configuration next to it that has no template leaves that of the file in force
    std::fs::remove_dir_all(room.path().join("model.imported"))?;
    let config = room.path().join("tokenizer_config.json");
    std::fs::write(&config, r#"{"chat_template": null, "bos_token": "<s>"}"#)?;
    let chat = Chat::load(&import(&path)?)?;
    assert_eq!(chat.render(&messages)?, "<Is it true?>[/INST]");
    // and one that has a template counts more
    std::fs::remove_dir_all(room.path().join("model.imported"))?;
    std::fs::copy(honest_mini().join("tokenizer_config.json"), &config)?;
    let chat = Chat::load(&import(&path)?)?;
    assert_eq!(
        chat.render(&messages)?,
        Chat::load(&honest_mini())?.render(&messages)?
    );
    Ok(())
}

#[test]
fn tokens_that_end_a_turn_end_a_generation() -> Result<()> {
    let room = tempfile::tempdir()?;
    let mut written = Written::of(&honest_mini())?;
    for (which, id) in [("eot", 3), ("eom", 4)] {
        let key = format!("tokenizer.ggml.{which}_token_id");
        written.fields.insert(key, Value::U32(id));
    }
    let path = written.write(room.path(), |_| GgmlDType::F32)?;
    let imported = import(&path)?;
    assert_eq!(Chat::load(&imported)?.stop, [1, 3, 4]);
    let config = std::fs::read(imported.join("generation_config.json"))?;
    let config: serde_json::Value = serde_json::from_slice(&config)?;
    let ids = serde_json::json!([1, 3, 4]);
    assert_eq!(config["eos_token_id"], ids, "for the engine");
    Ok(())
}

/// llama.cpp scales linearly where a file has a factor without a type.
#[test]
fn a_linear_scaling_is_never_left_out() -> Result<()> {
    let room = tempfile::tempdir()?;
    let computed = |fields: &[(&str, Value)]| -> Result<Vec<u32>> {
        let mut written = Written::of(&fixture("tiny-llama2"))?;
        let fields = fields.iter().map(|(k, v)| ((*k).to_owned(), v.clone()));
        written.fields.extend(fields);
        let imported = import(&written.write(room.path(), |_| GgmlDType::F32)?)?;
        let bits = said(&load(&imported)?)?;
        std::fs::remove_dir_all(imported)?;
        Ok(bits)
    };
    let (kind, factor) = ("llama.rope.scaling.type", "llama.rope.scaling.factor");
    let old = "llama.rope.scale_linear";
    let text = |t: &str| Value::String(t.into());
    let twin = tempfile::tempdir()?;
    for entry in std::fs::read_dir(fixture("tiny-llama2"))? {
        let entry = entry?;
        std::fs::copy(entry.path(), twin.path().join(entry.file_name()))?;
    }
    let config = twin.path().join("config.json");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&config)?)?;
    json["rope_scaling"] = serde_json::json!({"rope_type": "linear", "factor": 4.0});
    std::fs::write(&config, json.to_string())?;
    let (plain, scaled) = (computed(&[])?, said(&load(twin.path())?)?);
    assert!(plain != scaled);
    for fields in [
        vec![(kind, text("linear")), (factor, Value::F32(4.))],
        vec![(factor, Value::F32(4.))],
        vec![(old, Value::F32(4.))],
        vec![(kind, text("linear")), (old, Value::F32(4.))],
    ] {
        assert!(computed(&fields)? == scaled, "{fields:?}");
    }
    for fields in [
        vec![(kind, text("none")), (factor, Value::F32(4.))],
        vec![(kind, text("linear"))],
        vec![(kind, text("linear")), (factor, Value::F32(1.))],
    ] {
        assert!(computed(&fields)? == plain, "{fields:?}");
    }
    let mut both = Written::of(&fixture("tiny-llama32"))?;
    both.fields.insert(factor.into(), Value::F32(4.));
    let both = import(&both.write(room.path(), |_| GgmlDType::F32)?);
    let message = both.expect_err("two scalings").to_string();
    assert!(message.contains("rope_freqs.weight"), "{message}");
    Ok(())
}

#[test]
fn rows_are_put_back_exactly_in_every_type() -> Result<()> {
    let (heads, rows, columns) = (4, 64, 512);
    let data: Vec<f32> = (0..rows * columns)
        .map(|i| (i as f32 * 0.37).sin())
        .collect();
    let weight = candle_core::Tensor::from_vec(data, (rows, columns), &Device::Cpu)?;
    use GgmlDType::*;
    for dtype in [
        F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K,
    ] {
        let expected = QTensor::quantize(&weight, dtype)?.data()?.to_vec();
        let theirs = QTensor::quantize(&pairs(&weight, heads)?, dtype)?
            .data()?
            .to_vec();
        assert_ne!(theirs, expected, "{dtype:?}: another order");
        assert_eq!(
            llama::from_llama_cpp(&theirs, rows, heads),
            expected,
            "{dtype:?}"
        );
    }
    Ok(())
}

#[test]
fn a_quantized_gguf_computes_what_the_same_blocks_do_here() -> Result<()> {
    for (name, dtype) in [
        ("q8_0", GgmlDType::Q8_0),
        ("q5_1", GgmlDType::Q5_1),
        ("q4_0", GgmlDType::Q4_0),
    ] {
        let room = tempfile::tempdir()?;
        let mut written = Written::of(&honest_mini())?;
        // Quantizing in place leaves the embeddings as they are.
        let embeddings = written.tensors["token_embd.weight"].clone();
        written.tensors.insert("output.weight".into(), embeddings);
        let path = written.write(room.path(), |tensor| match tensor {
            "token_embd.weight" => GgmlDType::F32,
            _ => dtype,
        })?;
        let isq = Some(parse_isq(name)?);
        let theirs = Llama::load(
            &honest_mini(),
            LoadOptions {
                isq,
                ..LoadOptions::default()
            },
        )?;
        assert_eq!(said(&load(&import(&path)?)?)?, said(&theirs)?, "{name}");
    }
    Ok(())
}

#[test]
fn a_gguf_is_tuned_without_a_change_of_its_weights() -> Result<()> {
    let room = tempfile::tempdir()?;
    let path = Written::of(&honest_mini())?.write(room.path(), |_| GgmlDType::Q4_0)?;
    let llama = load(&import(&path)?)?;
    let before = said(&llama)?;
    let layers: Vec<usize> = (0..llama.spec().layers).collect();
    let mut update = random_update(llama.spec(), &layers, &ModuleKind::ALL, 5)?;
    update.trainable(llama.device())?;
    let (tree, rows) = PrefixTree::pack(&[&[3u32, 70, 71][..], &[3, 72]]);
    let last: Vec<u32> = rows.iter().map(|r| r[r.len() - 1]).collect();
    let request = ForwardOptions {
        logits: &last,
        adapter: Some(&update),
        ..ForwardOptions::default()
    };
    let pass = llama.forward(&tree, &mut KeyValueCache::none(), &request)?;
    let loss = token_loss(logits(&pass), &label_rows(&[65, 66]), Label::Right)?;
    let gradients = loss.backward()?;
    for (module, l) in &update.modules {
        for factor in [&l.a, &l.b] {
            let g = gradients
                .get(factor)
                .with_context(|| format!("{module}: no gradient"))?;
            let size = g.sqr()?.sum_all()?.to_scalar::<f32>()?;
            assert!(size > 0. && size.is_finite(), "{module}: {size}");
        }
    }
    assert_eq!(said(&llama)?, before, "frozen weights");
    Ok(())
}

#[test]
fn a_file_is_imported_once_until_it_changes() -> Result<()> {
    let room = tempfile::tempdir()?;
    let cache = Imports::at(room.path().join("cache"))?;
    let written = Written::of(&fixture("tiny-llama2"))?;
    let path = written.write(room.path(), |_| GgmlDType::F32)?;
    let mut blocks = 0;
    let mut count = |_: usize, all: usize| {
        assert_eq!(all, 4);
        blocks += 1;
    };
    let first = gguf::imported(&path, &cache, &mut count)?;
    assert_eq!(gguf::imported(&path, &cache, &mut count)?, first);
    written.write(room.path(), |_| GgmlDType::Q8_0)?;
    assert_ne!(gguf::imported(&path, &cache, &mut count)?, first);
    assert_eq!(blocks, 8, "two imports of four blocks");
    Ok(())
}
