//! An engine of mistral.rs that many requests share, as the server holds it.

use super::differs::check;
use super::load::{self, failed};
use crate::error::{Error, Result};
use crate::model::{ModelConfig, ModelDir};
use mistralrs_core::{MistralRs, MistralRsBuilder};
use reptune_adapters::{Error as Fault, files};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::sync::Mutex;

/// An engine of mistral.rs and the lock that orders its requests.
#[derive(Clone)]
pub struct SharedEngine {
    /// The engine.
    pub mistralrs: Arc<MistralRs>,
    /// Held by the request that is being answered. mistral.rs 0.8.1 mixes up sequences of
    /// different lengths that it computes at the same time on a CPU: of requests to one model
    /// at once some get answers that none of them gets alone. So they take turns.
    pub turn: Arc<Mutex<()>>,
    /// Special tokens that the model's tokenizer puts before a raw prompt, as text. The engine
    /// adds none by itself.
    pub begin: Arc<str>,
}

impl SharedEngine {
    /// Loads the model at `path` in f32. Must be called on a thread of its own within a tokio
    /// runtime, because loading blocks.
    ///
    /// # Errors
    /// [`Error::Runtime`](crate::Error::Runtime) with what mistral.rs said.
    pub fn load(path: &Path) -> Result<Self> {
        let place = path.display().to_string();
        let runtime = tokio::runtime::Handle::try_current();
        let runtime = runtime.map_err(|e| failed(&place, e))?;
        let model = ModelDir::at(path)?;
        check(&model)?;
        let (view, begin) = without_special_tokens(&model)?;
        let path = match model.is_quantized() && path.is_file() {
            true => view.path().join(path.file_name().unwrap_or_default()),
            false => view.path().to_owned(),
        };
        let builder = load::builder(&ModelDir::at(&path)?)?;
        let (pipeline, scheduler, config) = load::pipeline(&runtime, &place, builder, None)?;
        let engine = config.engine_config;
        let starting =
            MistralRsBuilder::new(pipeline, scheduler, engine.throughput_logging_enabled, None)
                .with_no_kv_cache(engine.no_kv_cache)
                .with_no_prefix_cache(engine.no_prefix_cache)
                .with_prefix_cache_n(engine.prefix_cache_n)
                .build();
        Ok(Self {
            mistralrs: runtime.block_on(starting),
            turn: Arc::default(),
            begin: begin.into(),
        })
    }

    /// Bytes of the weights that [`SharedEngine::load`] holds in memory.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn bytes(path: &Path) -> Result<u64> {
        let model = ModelDir::at(path)?;
        let io = |e| reptune_adapters::Error::read(&model.directory, e);
        let mut bytes = 0;
        for entry in std::fs::read_dir(&model.directory).map_err(io)? {
            let file = entry.map_err(io)?.path();
            let tensors = file.extension().is_some_and(|e| e == "safetensors");
            if tensors || model.uqff.contains(&file) {
                bytes += std::fs::metadata(&file).map_err(io)?.len();
            }
        }
        // full weights are converted to f32
        let half =
            !model.is_quantized() && ModelConfig::read(&model.directory).is_ok_and(|c| c.is_half());
        Ok(if half { 2 * bytes } else { bytes })
    }
}

/// The files of `model` in a directory of their own, with a tokenizer that adds no special tokens
/// and cuts no prompt. mistral.rs 0.8.1 tokenizes a chat that a template has rendered like any
/// text, so a template that writes `<s>` would get it twice.
fn without_special_tokens(model: &ModelDir) -> Result<(TempDir, String)> {
    let mut begin = String::new();
    let view = tempfile::tempdir().map_err(|e| Fault::write(std::env::temp_dir(), e))?;
    let (directory, view_path) = (&model.directory, view.path());
    let read = |e| Fault::read(directory, e);
    for entry in std::fs::read_dir(directory).map_err(read)? {
        let entry = entry.map_err(read)?;
        let (from, to) = (entry.path(), view_path.join(entry.file_name()));
        if entry.file_name() != "tokenizer.json" {
            let from = from.canonicalize().map_err(read)?;
            link(&from, &to).map_err(|e| Fault::write(to, e))?;
            continue;
        }
        let tokenizer = serde_json::from_slice(&files::read(&from)?);
        let mut tokenizer: Value = tokenizer.map_err(|e| {
            let (line, found) = (format!("line {}", e.line()), e.to_string());
            Error::model(&from, line, "JSON", found, "fetch the file again")
        })?;
        begin = beginning(&tokenizer["post_processor"]);
        for key in ["post_processor", "truncation", "padding"] {
            tokenizer[key] = Value::Null;
        }
        std::fs::write(&to, tokenizer.to_string()).map_err(|e| Fault::write(to, e))?;
    }
    Ok((view, begin))
}

#[cfg(unix)]
use std::os::unix::fs::symlink as link;

#[cfg(not(unix))]
fn link(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::copy(from, to).map(|_| ())
}

/// The special tokens that a post-processor of Hugging Face tokenizers puts before one text.
fn beginning(processor: &Value) -> String {
    let list = |key: &str| processor[key].as_array().into_iter().flatten();
    match processor["type"].as_str() {
        Some("Sequence") => list("processors").map(beginning).collect(),
        Some("TemplateProcessing") => list("single")
            .map_while(|piece| piece["SpecialToken"]["id"].as_str())
            .collect(),
        _ => processor["cls"][0].as_str().unwrap_or_default().to_owned(),
    }
}
