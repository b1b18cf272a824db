//! Models in GGUF, as input.
//!
//! A UQFF holds the same blocks of ggml that a GGUF holds, so [`import`] rewrites a GGUF model
//! as a UQFF directory, which everything else takes like any other. Nothing is rounded: blocks
//! are copied, and floats of 16 bits widened.
//!
//! llama.cpp rotates neighbouring columns of a head of a Llama or Mistral, Hugging Face column i
//! with i + half, so converters reorder the rows of q and k. The import restores their order,
//! which is exact for quantized weights too, because their blocks run along a row.
//!
//! A file that is given as a model is imported into the user's [`Store`], once.

mod config;
mod file;
mod tokenizer;

use super::config::{ModelConfig, model_spec};
use super::uqff::{self, UQFF, UqffDirectory, UqffProvenance};
use crate::error::{Error, Result};
use crate::store::{Store, StoreKey};
use file::{GgufModel, llama_cpp_name};
use reptune_adapters::model::{ModuleKind, llama_cpp as llama};
use reptune_adapters::{TargetModule, files};
use reptune_recipes::Chat;
use std::path::{Path, PathBuf};

/// Files next to a GGUF that count more than its metadata, if the first of them is there.
const COMPANIONS: [&str; 4] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
];

/// The model in the file `gguf` as a UQFF directory of `cache`, imported if it is not there. The
/// key contains the contents of the GGUF and of its companions.
///
/// # Errors
/// Those of [`import`].
pub fn imported(
    gguf: &Path,
    cache: &Store,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<PathBuf> {
    let path = gguf.canonicalize();
    let path = path.map_err(|e| reptune_adapters::Error::read(gguf, e))?;
    let mut parts = vec![
        "import, companions 2".to_owned(),
        cache.content_hash(&path)?,
    ];
    for companion in COMPANIONS.map(|name| path.with_file_name(name)) {
        parts.push(match companion.is_file() {
            true => cache.content_hash(&companion)?,
            false => String::new(),
        });
    }
    let made_from = format!("import of {}", path.display());
    let key = StoreKey::new(made_from, parts);
    cache.entry(&key, |out| import(gguf, out, progress))
}

/// Writes the model in the file `gguf` as the UQFF directory `out`. A `tokenizer.json`
/// next to it is taken as it is, with `tokenizer_config.json` and `generation_config.json` if
/// they are there; else the tokenizer is made from the metadata. `progress` is called with the
/// number of blocks that are done, and of all.
///
/// # Errors
/// When it is of another architecture, lacks a tensor, or holds one of another shape or of a type that
/// mistral.rs does not compute with on a CPU. Nothing is left at `out` then.
pub fn import(gguf: &Path, out: &Path, progress: &mut dyn FnMut(usize, usize)) -> Result<()> {
    let model = GgufModel::open(gguf)?;
    let temporary = files::temporary_directory(&std::env::temp_dir())?;
    let companions = temporary.path();
    write_companions(&model, companions)?;
    let config = ModelConfig::read(companions)?;
    let spec = model_spec(&config, companions)?;
    model.check_complete(&config, &spec)?;
    // now, not when the first prompt comes
    Chat::load(companions)
        .map_err(|e| model.wrong("tokenizer", "one that can be read", e.to_string()))?;
    let directory = UqffDirectory::create(out)?;
    let mut provenance = UqffProvenance::of(&spec);
    let name = gguf.file_stem().unwrap_or_default();
    provenance.model = name.to_string_lossy().into_owned();
    let mut file = directory.file(UQFF, 0..1 + 7 * spec.layers, provenance)?;
    for layer in 0..spec.layers {
        for kind in ModuleKind::ALL {
            let module = TargetModule { layer, kind };
            let (shape, heads) = (kind.shape(&spec), llama::heads(kind, &spec));
            let mut entry = model.entry(&llama::name(module), shape, heads)?;
            if config.bias_name(module).is_some() {
                let bias = model.bias(&llama::bias_name(module), shape.0, heads)?;
                entry = entry.with_bias(Some(&bias))?;
            }
            file.push(uqff::index(layer, kind), &entry)?;
        }
        progress(layer + 1, spec.layers);
    }
    let head = match model.file.tensor("output.weight") {
        Some(_) => "output.weight",
        None => "token_embd.weight",
    };
    let head = model.entry(head, (spec.vocab, spec.hidden), None)?;
    file.push(uqff::HEAD, &head)?;
    file.finish()?;
    directory.commit(&spec, companions, |name, shape| {
        model.tensor(&llama_cpp_name(name), shape)
    })
}

/// Writes configuration and tokenizer to the directory `out`.
fn write_companions(model: &GgufModel, out: &Path) -> Result<()> {
    let write = |name: &str, json: &serde_json::Value| -> Result<()> {
        let text = serde_json::to_vec_pretty(json).unwrap_or_default();
        let path = out.join(name);
        let written = std::fs::write(&path, text);
        Ok(written.map_err(|e| reptune_adapters::Error::write(path, e))?)
    };
    write("config.json", &model.config()?)?;
    let given = model.file.path().parent().unwrap_or(Path::new(""));
    let mut config = model.tokenizer_config()?;
    if !given.join(COMPANIONS[0]).is_file() {
        write("tokenizer.json", &model.tokenizer()?)?;
        return write("tokenizer_config.json", &config);
    }
    for name in COMPANIONS {
        let from = given.join(name);
        if from.is_file() {
            let copied = std::fs::copy(&from, out.join(name));
            copied.map_err(|e| reptune_adapters::Error::read(from, e))?;
        }
    }
    // What they do not say, above all the chat template, is that of the GGUF.
    let path = given.join("tokenizer_config.json");
    if path.is_file() {
        let text = reptune_adapters::files::read(&path)?;
        let said: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&text)
            .map_err(|e| {
                let (line, found) = (format!("line {}", e.line()), e.to_string());
                Error::model(&path, line, "a JSON object", found, "fetch the file again")
            })?;
        for (key, value) in said.into_iter().filter(|(_, value)| !value.is_null()) {
            config[key] = value;
        }
    }
    write("tokenizer_config.json", &config)
}
