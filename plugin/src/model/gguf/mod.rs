//! Llama models in GGUF, as input.
//!
//! A UQFF holds the same blocks of ggml that a GGUF holds, so a GGUF model is rewritten as a
//! UQFF directory ([`import`]) and from there on is what everything else takes: it is
//! captured, steered, tuned, merged into, baked and served like any other. Nothing is rounded:
//! blocks are copied, and floats of 16 bits widened.
//!
//! llama.cpp turns pairs of neighbouring columns of a head where Hugging Face turns column i
//! with i + half; converters therefore reorder the rows of q and k. Here they are put back,
//! which is exact for quantized weights too, as their blocks run along a row.
//!
//! A file that is given as a model is imported into the user's [`Store`], once.

mod config;
mod tensors;
mod tokenizer;

use crate::error::{Error, Result};
use crate::model::uqff::{self, Provenance, UQFF, UqffDirectory};
use crate::model::{LlamaConfig, model_spec};
use crate::store::Store;
use reptune_adapters::formats::gguf::{Gguf, Value as Field};
use reptune_adapters::model::{ModuleKind, llama_cpp as llama};
use reptune_adapters::{TargetModule, files};
use reptune_recipes::Chat;
use std::path::{Path, PathBuf};

/// Files beside a GGUF that stand for its metadata, if the first of them is there.
const BESIDE: [&str; 4] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
];

/// Whether `path` is a file called `.gguf`.
pub fn is_gguf(path: &Path) -> bool {
    path.is_file()
        && path
            .extension()
            .is_some_and(|e| e.eq_ignore_ascii_case("gguf"))
}

/// The Llama in the file `gguf` as a UQFF directory of `cache`, imported if it is not there.
///
/// # Errors
/// Those of [`import`].
pub fn imported(
    gguf: &Path,
    cache: &Store,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<PathBuf> {
    let key = format!("gguf-{}", key(gguf)?);
    cache.entry(&key, |out| import(gguf, out, progress))
}

/// Changes when the file does, or one beside it that counts. Lengths and times stand for the
/// contents, which may take a minute to read.
fn key(gguf: &Path) -> Result<String> {
    let path = gguf.canonicalize();
    let path = path.map_err(|e| reptune_adapters::Error::read(gguf, e))?;
    let beside = path.parent().unwrap_or(Path::new(""));
    let mut parts = vec![format!("{} {path:?}", env!("CARGO_PKG_VERSION"))];
    for file in [path.clone()]
        .into_iter()
        .chain(BESIDE.map(|name| beside.join(name)))
    {
        let told = std::fs::metadata(&file).and_then(|m| Ok((m.len(), m.modified()?)));
        parts.push(format!("{:?}", told.ok()));
    }
    Ok(files::sha256(parts.iter().map(String::as_bytes)))
}

/// An open GGUF of a Llama.
struct Model {
    file: Gguf,
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
    model.check_complete(&spec)?;
    // now, not when the first prompt comes
    Chat::load(&beside)
        .map_err(|e| model.wrong("tokenizer", "one that can be read", e.to_string()))?;
    let directory = UqffDirectory::create(out)?;
    let mut told = Provenance::of(&spec);
    told.model = gguf
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let mut file = directory.file(UQFF, 0..1 + 7 * spec.layers, told)?;
    for layer in 0..spec.layers {
        for kind in ModuleKind::ALL {
            let module = TargetModule { layer, kind };
            let heads = llama::heads(kind, &spec);
            let entry = model.entry(&llama::name(module), kind.shape(&spec), heads)?;
            file.push(uqff::index(layer, kind), &entry)?;
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
        let parts = model.value("split.count").and_then(whole);
        if let Some(parts) = parts.filter(|n| *n > 1) {
            let one = "1: join the parts with `llama-gguf-split --merge`";
            return Err(model.wrong("split.count", one, parts.to_string()));
        }
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
    fn companions(&self, room: &Path) -> Result<PathBuf> {
        let write = |name: &str, json: &serde_json::Value| {
            let text = serde_json::to_vec_pretty(json).unwrap_or_default();
            let path = room.join(name);
            std::fs::write(&path, text).map_err(|e| reptune_adapters::Error::write(path, e))
        };
        write("config.json", &self.config()?)?;
        let beside = self.file.path().parent().unwrap_or(Path::new(""));
        if !beside.join(BESIDE[0]).is_file() {
            let (tokenizer, config) = self.tokenizer()?;
            write("tokenizer.json", &tokenizer)?;
            write("tokenizer_config.json", &config)?;
            return Ok(room.to_owned());
        }
        for name in BESIDE {
            let from = beside.join(name);
            if from.is_file() {
                let copied = std::fs::copy(&from, room.join(name));
                copied.map_err(|e| reptune_adapters::Error::read(from, e))?;
            }
        }
        Ok(room.to_owned())
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
        text.ok_or_else(|| self.wrong(key, "a text", self.told(key)))
    }

    fn texts(&self, key: &str) -> Result<Vec<&str>> {
        let list = self.value(key).and_then(|v| v.to_vec().ok());
        let texts = list.and_then(|l| {
            let each = l.iter().map(|v| v.to_string().ok().map(String::as_str));
            each.collect::<Option<Vec<_>>>()
        });
        texts.ok_or_else(|| self.wrong(key, "a list of texts", self.told(key)))
    }

    /// A positive whole number. Lists with one number for every block are taken where all
    /// are the same.
    fn count(&self, key: &str) -> Result<usize> {
        let found = match self.value(key) {
            Some(Field::Array(list)) => match list.split_first() {
                Some((first, rest)) if rest.iter().all(|v| whole(v) == whole(first)) => {
                    whole(first)
                }
                _ => None,
            },
            value => value.and_then(whole),
        };
        found.ok_or_else(|| self.wrong(key, "a positive whole number", self.told(key)))
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
        number.ok_or_else(|| self.wrong(key, "a positive number", self.told(key)))
    }

    /// What a field holds, in a few words.
    fn told(&self, key: &str) -> String {
        match self.value(key) {
            None => "nothing".into(),
            Some(Field::Array(list)) => format!("a list of {}", list.len()),
            Some(value) => format!("{value:?}").chars().take(80).collect(),
        }
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

/// A positive whole number, of whatever type.
fn whole(value: &Field) -> Option<usize> {
    let n = match value {
        Field::I8(n) => u64::try_from(*n).ok()?,
        Field::I16(n) => u64::try_from(*n).ok()?,
        Field::I32(n) => u64::try_from(*n).ok()?,
        Field::I64(n) => u64::try_from(*n).ok()?,
        other => other.to_u64().ok()?,
    };
    usize::try_from(n).ok().filter(|n| *n > 0)
}
