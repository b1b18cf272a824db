//! The files of a model as mistral.rs is given them: links to the weights, and companions that it
//! reads without a panic and with the meaning that they have here.

use crate::error::{Error, Result};
use crate::model::{Companions, ModelConfig, ModelDir};
use reptune_adapters::{Error as Fault, files, formats::safetensors::shard_names};
use reptune_recipes::TokenizerFile;
use serde_json::{Value, json};
use std::path::Path;
use tempfile::TempDir;

/// What becomes of the special tokens that a tokenizer puts around a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SpecialTokens {
    Added,
    /// mistral.rs 0.8.1 tokenizes a chat that a template has rendered like any text, so a
    /// template that writes `<s>` would get it twice.
    LeftOut,
}

/// A directory of links, removed when this is dropped; mistral.rs reads it while it loads.
pub(super) struct EngineView {
    _directory: TempDir,
    /// The model in it.
    pub model: ModelDir,
    /// Special tokens that the tokenizer of the model puts before a text.
    pub begin: String,
}

impl EngineView {
    /// The view of `model`.
    ///
    /// # Errors
    /// When a file is missing or broken, or mistral.rs cannot read it in any spelling.
    pub(super) fn of(model: &ModelDir, special: SpecialTokens) -> Result<Self> {
        let directory = files::temporary_directory(&std::env::temp_dir())?;
        let at = |name: &str| directory.path().join(name);
        let weights = model.weights()?;
        let names = match model.is_quantized() {
            true => weights
                .iter()
                .filter_map(|file| file.file_name()?.to_str())
                .map(str::to_owned)
                .collect(),
            false => shard_names(&weights),
        };
        let mut links: Vec<_> = weights.into_iter().zip(names).collect();
        for name in [
            "tokenizer_config.json",
            "generation_config.json",
            "chat_template.jinja",
        ] {
            links.push((model.directory.join(name), name.to_owned()));
        }
        for (from, name) in links.iter().filter(|(from, _)| from.is_file()) {
            let from = from.canonicalize().map_err(|e| Fault::read(from, e))?;
            link(&from, &at(name)).map_err(|e| Fault::write(at(name), e))?;
        }
        let config = ModelConfig::read(&model.directory)?;
        let mut companions = Companions::of(&model.directory, &config)?;
        let file = TokenizerFile::read(&model.directory)?;
        let mut tokenizer = file.json().clone();
        check_vocabulary(&model.directory, &tokenizer)?;
        let begin = beginning(&tokenizer["post_processor"]);
        if special == SpecialTokens::LeftOut {
            tokenizer["post_processor"] = Value::Null;
        }
        if !tokenizer["added_tokens"].is_array() {
            tokenizer["added_tokens"] = json!([]);
        }
        for key in ["truncation", "padding"] {
            tokenizer[key] = Value::Null;
        }
        companions
            .texts
            .insert("tokenizer.json", tokenizer.to_string());
        for (name, text) in &companions.texts {
            let _ = std::fs::remove_file(at(name));
            std::fs::write(at(name), text).map_err(|e| Fault::write(at(name), e))?;
        }
        let model = match model.path().file_name().filter(|_| model.path().is_file()) {
            Some(name) => ModelDir::at(&directory.path().join(name))?,
            None => ModelDir::at(directory.path())?,
        };
        Ok(Self {
            _directory: directory,
            model,
            begin,
        })
    }
}

/// mistral.rs 0.8.1 panics where a vocabulary is a list, as those of Unigram are.
fn check_vocabulary(directory: &Path, tokenizer: &Value) -> Result<()> {
    if tokenizer["model"]["vocab"].is_object() {
        return Ok(());
    }
    let path = directory.join("tokenizer.json");
    let (place, expected) = ("key `model`", "a BPE or WordPiece vocabulary");
    let found = &tokenizer["model"]["type"];
    let hint = "mistral.rs 0.8.1 reads no other; convert the tokenizer to BPE";
    Err(Error::model(path, place, expected, found.to_string(), hint))
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
