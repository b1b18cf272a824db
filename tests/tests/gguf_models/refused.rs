//! What is not a Llama that can be taken exactly is refused, and named.

use super::written::Written;
use anyhow::Result;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value;
use candle_core::{DType, Device, Tensor};
use reptune::model::gguf;
use reptune_tests::fixture;
use std::fmt::Write;

type Edit<'a> = &'a dyn Fn(&mut Written);

#[test]
fn another_model_than_a_plain_llama_is_refused_by_name() -> Result<()> {
    let text = |t: &str| Value::String(t.into());
    let matrix = |o, i| Tensor::ones((o, i), DType::F32, &Device::Cpu).expect("a matrix");
    let set = |key: &'static str, value: Value| {
        move |w: &mut Written| {
            w.fields.insert(key.to_owned(), value.clone());
        }
    };
    let lose = |key: &'static str| {
        move |w: &mut Written| {
            w.fields.remove(key);
            w.tensors.remove(key);
        }
    };
    let put = |key: &'static str, tensor: Tensor| {
        move |w: &mut Written| {
            w.tensors.insert(key.to_owned(), tensor.clone());
        }
    };
    let edits: [(&str, Edit); 21] = [
        (
            "another architecture",
            &set("general.architecture", text("gemma2")),
        ),
        ("one of several files", &set("split.count", Value::U16(3))),
        ("experts", &set("llama.expert_count", Value::U32(8))),
        ("no blocks", &lose("llama.block_count")),
        (
            "more blocks than tensors",
            &set("llama.block_count", Value::U32(5)),
        ),
        (
            "fewer blocks than tensors",
            &set("llama.block_count", Value::U32(3)),
        ),
        (
            "a count of the wrong type",
            &set("llama.embedding_length", text("32")),
        ),
        (
            "heads that do not divide",
            &set("llama.attention.head_count", Value::U32(5)),
        ),
        (
            "another width of heads",
            &set("llama.rope.dimension_count", Value::U32(4)),
        ),
        (
            "epsilon NaN",
            &set(
                "llama.attention.layer_norm_rms_epsilon",
                Value::F32(f32::NAN),
            ),
        ),
        ("yarn", &set("llama.rope.scaling.type", text("yarn"))),
        (
            "factors of no rule",
            &put(
                "rope_freqs.weight",
                Tensor::new(&[1f32, 2., 3., 1.], &Device::Cpu)?,
            ),
        ),
        ("no weight", &lose("blk.2.attn_v.weight")),
        (
            "a weight of another shape",
            &put("blk.1.ffn_up.weight", matrix(56, 64)),
        ),
        (
            "a bias",
            &put(
                "blk.1.attn_q.bias",
                Tensor::ones(32, DType::F32, &Device::Cpu)?,
            ),
        ),
        (
            "another tokenizer",
            &set("tokenizer.ggml.model", text("bert")),
        ),
        ("other words", &set("tokenizer.ggml.pre", text("tekken"))),
        (
            "a merge of what are no tokens together",
            &set("tokenizer.ggml.merges", Value::Array(vec![text("a b")])),
        ),
        ("no merges", &lose("tokenizer.ggml.merges")),
        (
            "fewer tokens than embeddings",
            &set("tokenizer.ggml.tokens", Value::Array(vec![text("a")])),
        ),
        (
            "tokens twice",
            &set("tokenizer.ggml.tokens", Value::Array(vec![text("a"); 272])),
        ),
    ];
    let room = tempfile::tempdir()?;
    let mut notes = String::new();
    for (case, edit) in edits {
        let mut written = Written::of(&fixture("tiny-llama2"))?;
        edit(&mut written);
        let path = written.write(room.path(), |_| GgmlDType::F32)?;
        let out = room.path().join("out");
        let error = gguf::import(&path, &out, &mut |_, _| {})
            .expect_err(case)
            .to_string();
        assert!(!out.exists(), "{case}: nothing is left");
        assert!(
            error.contains("model.gguf") || error.contains("config.json"),
            "{case}: {error}"
        );
        let error = error.replace(&room.path().display().to_string(), "[DIR]");
        let _ = writeln!(notes, "{case}\n    {error}");
    }
    let written = Written::of(&fixture("tiny-llama2"))?;
    let path = written.write(room.path(), |tensor| match tensor {
        "blk.0.attn_q.weight" => GgmlDType::Q8_1,
        _ => GgmlDType::F32,
    })?;
    let mut refuse = |case: &str| {
        let error = gguf::import(&path, &room.path().join("out"), &mut |_, _| {});
        let error = error.expect_err(case).to_string();
        let error = error.replace(&room.path().display().to_string(), "[DIR]");
        let _ = writeln!(notes, "{case}\n    {error}");
    };
    refuse("a type that mistral.rs does not read");
    let bytes = std::fs::read(&path)?;
    std::fs::write(&path, &bytes[..bytes.len() - 100])?;
    refuse("truncated");
    std::fs::write(&path, b"PK\x03\x04 no GGUF")?;
    refuse("no GGUF");
    insta::assert_snapshot!(notes);
    Ok(())
}
