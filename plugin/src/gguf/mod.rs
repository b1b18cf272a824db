//! Llama models in GGUF, as input.
//!
//! A UQFF holds the same blocks of ggml that a GGUF holds, so a GGUF model is rewritten as a
//! UQFF directory ([`import`]) and from there on is what everything else takes: it is
//! captured, steered, tuned, merged into, baked and served like any other. Nothing is rounded:
//! blocks are copied, and floats of 16 bits widened.
//!
//! Rows of q and k come back into Hugging Face's order
//! ([`llama`](reptune_adapters::gguf::llama)), which is exact for quantized weights too, as
//! their blocks run along a row.

mod config;
mod tokenizer;

use crate::error::{Error, Result};
use crate::llama::{LlamaConfig, model_spec};
use crate::steered::Cache;
use crate::uqff::{self, Entry, Provenance, UQFF, UqffDirectory, WeightType};
use candle_core::quantized::gguf_file::Value as Field;
use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{Device, Tensor};
use reptune_adapters::gguf::{Gguf, TensorInfo, llama};
use reptune_adapters::low_rank::Projection;
use reptune_adapters::{Site, artefact};
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// Files beside a GGUF that are taken instead of its own tokenizer.
const BESIDE: [&str; 4] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
];

/// An open GGUF of a Llama.
struct Model {
    file: Gguf,
}

/// The UQFF directory that the Llama in the file `gguf` comes to, made once and kept in
/// `cache`.
///
/// # Errors
/// Those of [`import`].
pub fn directory(gguf: &Path, cache: &Cache) -> Result<PathBuf> {
    let io = |e| reptune_adapters::Error::read(gguf, e);
    let mut parts = vec![concat!("gguf reptune-", env!("CARGO_PKG_VERSION")).to_owned()];
    let beside = gguf.parent().unwrap_or(Path::new("."));
    for file in [&[gguf.to_owned()][..], &BESIDE.map(|n| beside.join(n))].concat() {
        if file.is_file() {
            let real = file.canonicalize().map_err(io)?;
            let told = std::fs::metadata(&file).map_err(io)?;
            parts.push(format!(
                "{real:?} {} {:?}",
                told.len(),
                told.modified().ok()
            ));
        }
    }
    let key = artefact::sha256(parts.iter().map(String::as_bytes));
    cache.entry(&key, |out| import(gguf, out, &mut |_, _| {}))
}

/// Writes the Llama in the file `gguf` as the UQFF directory `out`. A `tokenizer.json`
/// beside it is taken as it is, with `tokenizer_config.json` and `generation_config.json` if
/// they are there; else the tokenizer is made from the metadata. `progress` hears how many
/// blocks are done, and of how many.
///
/// # Errors
/// When it is no Llama, lacks a tensor, or holds one of another shape or of a type that
/// mistral.rs does not compute with on a CPU. Nothing is left at `out` then.
pub fn import(gguf: &Path, out: &Path, progress: &mut dyn FnMut(usize, usize)) -> Result<()> {
    let model = Model::open(gguf)?;
    let room = tempfile::tempdir().map_err(|e| reptune_adapters::Error::write(out, e))?;
    let beside = model.companions(room.path())?;
    let config = LlamaConfig::read(&beside)?;
    let spec = model_spec(&config, &beside)?;
    let directory = UqffDirectory::create(out)?;
    let mut told = Provenance::of(&spec);
    told.model = gguf
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let mut file = directory.file(UQFF, 0..1 + 7 * spec.layers, told)?;
    for layer in 0..spec.layers {
        for p in Projection::ALL {
            let tensor = llama::name(Site {
                layer,
                projection: p,
            });
            let entry = model.entry(&tensor, p.shape(&spec), llama::heads(p, &spec))?;
            file.push(uqff::index(layer, p), &entry)?;
        }
        progress(layer + 1, spec.layers);
    }
    let head = match model.info("output.weight") {
        Some(_) => "output.weight",
        None => "token_embd.weight",
    };
    file.push(
        uqff::HEAD,
        &model.entry(head, (spec.vocab, spec.hidden), None)?,
    )?;
    file.finish()?;
    directory.commit(&spec, &beside, |tensor| {
        let theirs = match tensor.strip_prefix("model.layers.") {
            Some(rest) => rest.replace("input_layernorm", "attn_norm"),
            None => tensor.to_owned(),
        };
        let theirs = theirs.replace("post_attention_layernorm", "ffn_norm");
        match theirs.as_str() {
            "model.embed_tokens.weight" => {
                model.shaped("token_embd.weight", &[spec.vocab, spec.hidden])
            }
            "model.norm.weight" => model.shaped("output_norm.weight", &[spec.hidden]),
            block => model.shaped(&format!("blk.{block}"), &[spec.hidden]),
        }
    })
}

impl Model {
    fn open(path: &Path) -> Result<Self> {
        let model = Self {
            file: Gguf::open(path)?,
        };
        match model.text("general.architecture")? {
            "llama" => Ok(model),
            other => Err(model.wrong(
                "general.architecture",
                "`llama`: other architectures are not taken",
                format!("`{other}`"),
            )),
        }
    }

    /// Puts configuration and tokenizer into `room`.
    fn companions(&self, room: &Path) -> Result<std::path::PathBuf> {
        let write = |name: &str, json: &serde_json::Value| {
            let text = serde_json::to_vec_pretty(json).unwrap_or_default();
            let path = room.join(name);
            std::fs::write(&path, text).map_err(|e| reptune_adapters::Error::write(path, e))
        };
        write("config.json", &self.config()?)?;
        let beside = self.file.path().parent().unwrap_or(Path::new("."));
        if beside.join("tokenizer.json").is_file() {
            for name in BESIDE {
                let from = beside.join(name);
                if from.is_file() {
                    std::fs::copy(&from, room.join(name))
                        .map_err(|e| reptune_adapters::Error::read(from, e))?;
                }
            }
        } else {
            let (tokenizer, config) = self.tokenizer()?;
            write("tokenizer.json", &tokenizer)?;
            write("tokenizer_config.json", &config)?;
        }
        Ok(room.to_owned())
    }

    /// A linear layer (O, I); `heads` of q and k, whose rows are put back in their order.
    fn entry(&self, tensor: &str, shape: (usize, usize), heads: Option<usize>) -> Result<Entry> {
        let info = self.expected(tensor, &[shape.0, shape.1])?;
        let bytes = self.file.bytes(tensor)?;
        let bytes = match heads {
            Some(heads) => llama::from_llama_cpp(&bytes, shape.0, heads),
            None => bytes,
        };
        match info.dtype {
            GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16 => {
                let weight = floats(&bytes, info.dtype, &[shape.0, shape.1])?;
                Entry::quantize(&weight, None, WeightType::F32)
            }
            dtype => Entry::ggml(dtype, shape, &bytes),
        }
    }

    /// A tensor in f32.
    fn tensor(&self, tensor: &str) -> Result<Tensor> {
        let info = self.expected(tensor, &[])?;
        floats(&self.file.bytes(tensor)?, info.dtype, &info.shape)
    }

    fn shaped(&self, tensor: &str, shape: &[usize]) -> Result<Tensor> {
        self.expected(tensor, shape)?;
        self.tensor(tensor)
    }

    /// The tensor's type and shape, which must be `shape` if that is not empty.
    fn expected(&self, tensor: &str, shape: &[usize]) -> Result<&TensorInfo> {
        match self.info(tensor) {
            Some(info) if shape.is_empty() || info.shape == shape => Ok(info),
            Some(info) => {
                let found = format!("{:?}", info.shape);
                Err(self.wrong(tensor, &format!("a tensor of shape {shape:?}"), found))
            }
            None => Err(self.wrong(tensor, "a tensor", "nothing".into())),
        }
    }

    fn info(&self, tensor: &str) -> Option<&TensorInfo> {
        self.file.tensor(tensor)
    }

    fn rows(&self, tensor: &str) -> Result<usize> {
        Ok(self
            .expected(tensor, &[])?
            .shape
            .first()
            .copied()
            .unwrap_or(0))
    }

    fn value(&self, key: &str) -> Option<&Field> {
        self.file.value(key)
    }

    fn text(&self, key: &str) -> Result<&str> {
        let text = self.value(key).and_then(|v| v.to_string().ok());
        let text = text.map(String::as_str);
        text.ok_or_else(|| self.wrong(key, "a text", "another value, or none".into()))
    }

    fn texts(&self, key: &str) -> Result<Vec<&str>> {
        let list = self.value(key).and_then(|v| v.to_vec().ok());
        let texts = list.and_then(|l| {
            let each = l.iter().map(|v| v.to_string().ok().map(String::as_str));
            each.collect::<Option<Vec<_>>>()
        });
        texts.ok_or_else(|| self.wrong(key, "a list of texts", "another value, or none".into()))
    }

    /// A positive whole number. Lists with one number for every block are taken where all
    /// are the same.
    fn count(&self, key: &str) -> Result<usize> {
        let whole = |v: &Field| {
            let n = v
                .to_u64()
                .ok()
                .or_else(|| u64::try_from(v.to_i64().ok()?).ok());
            n.filter(|n| *n > 0).and_then(|n| usize::try_from(n).ok())
        };
        let found = match self.value(key) {
            Some(Field::Array(list)) => match list.split_first() {
                Some((first, rest)) if rest.iter().all(|v| whole(v) == whole(first)) => {
                    whole(first)
                }
                _ => None,
            },
            Some(value) => whole(value),
            None => None,
        };
        found.ok_or_else(|| self.wrong(key, "a positive number", "another value, or none".into()))
    }

    fn number(&self, key: &str) -> Result<f64> {
        let value = self.value(key);
        let number = value.and_then(|v| {
            let short = v.to_f32().ok().map(|x| x.to_string().parse());
            short
                .and_then(std::result::Result::ok)
                .or_else(|| v.to_f64().ok())
        });
        let number = number.filter(|x: &f64| x.is_finite() && *x > 0.);
        number.ok_or_else(|| self.wrong(key, "a positive number", "another value, or none".into()))
    }

    fn wrong(&self, place: &str, expected: &str, found: String) -> Error {
        let hint = "fetch the file again, or convert the model anew";
        Error::model(
            self.file.path(),
            format!("`{place}`"),
            expected,
            found,
            hint,
        )
    }
}

fn floats(bytes: &[u8], dtype: GgmlDType, shape: &[usize]) -> Result<Tensor> {
    let storage = QStorage::from_data(Cow::from(bytes), &Device::Cpu, dtype)?;
    Ok(QTensor::new(storage, shape)?.dequantize(&Device::Cpu)?)
}
