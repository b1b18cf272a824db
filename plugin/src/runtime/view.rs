//! The files of a model as mistral.rs is given them: links to the weights, and companions that it
//! reads without a panic and with the meaning that they have here.

use crate::error::{Error, Result};
use crate::model::{Companions, ModelConfig, ModelDir};
use reptune_adapters::{Error as Fault, files, formats::safetensors::shard_names};
use reptune_recipes::{Chat, TokenizerFile};
use serde_json::{Value, json};
use std::path::Path;
use tempfile::TempDir;

/// The template that mistral.rs gets. It prints the text of the only message: chats are rendered
/// before, because 0.8.1 renders them unlike transformers.
const PRINTED: &str = "{{ messages[0]['content'] }}";

/// Marks of reasoning. mistral.rs separates what stands between them from an answer if the template
/// names both.
const REASONING: [&str; 2] = ["<think>", "</think>"];

/// A directory of links, removed when this is dropped; mistral.rs reads it while it loads.
pub(super) struct EngineView {
    _directory: TempDir,
    /// The model in it.
    pub model: ModelDir,
}

impl EngineView {
    /// The view of `model`, whose chats `chat` renders. Its tokenizer adds no special tokens: they
    /// stand in what is rendered already.
    ///
    /// # Errors
    /// When a file is missing or broken, or mistral.rs cannot read it in any spelling.
    pub(super) fn of(model: &ModelDir, chat: &Chat) -> Result<Self> {
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
        let name = "generation_config.json";
        links.push((model.directory.join(name), name.to_owned()));
        for (from, name) in links.iter().filter(|(from, _)| from.is_file()) {
            let from = from.canonicalize().map_err(|e| Fault::read(from, e))?;
            link(&from, at(name)).map_err(|e| Fault::write(at(name), e))?;
        }
        let config = ModelConfig::read(&model.directory)?;
        let mut companions = Companions::of(&model.directory, &config)?;
        let file = TokenizerFile::read(&model.directory)?;
        let mut tokenizer = file.json().clone();
        check_vocabulary(&model.directory, &tokenizer)?;
        if !tokenizer["added_tokens"].is_array() {
            tokenizer["added_tokens"] = json!([]);
        }
        for key in ["post_processor", "truncation", "padding"] {
            tokenizer[key] = Value::Null;
        }
        companions
            .texts
            .insert("tokenizer.json", tokenizer.to_string());
        // Tokens that end a turn stand in the generation configuration.
        let reasons = REASONING.iter().all(|mark| chat.template_has(mark));
        let marks = if reasons { &REASONING[..] } else { &[] };
        let template = format!("{PRINTED}{{# {} #}}", marks.concat());
        let config = json!({"chat_template": template}).to_string();
        companions.texts.insert("tokenizer_config.json", config);
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
