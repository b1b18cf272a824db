//! Models of the Hugging Face hub, from its cache or downloaded.

use crate::error::{Error, Result};
use hf_hub::api::sync::ApiBuilder;
use hf_hub::{Cache, Repo};
use reptune_adapters::formats::safetensors::INDEX;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Files of a model directory without the weights; those marked true must be there.
const FILES: [(&str, bool); 5] = [
    ("config.json", true),
    ("tokenizer.json", true),
    ("tokenizer_config.json", false),
    ("generation_config.json", false),
    ("chat_template.jinja", false),
];

/// A variable of the environment; none if it is not set, or empty.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The hub's cache, where huggingface_hub has it: `HF_HUB_CACHE` (once
/// `HUGGINGFACE_HUB_CACHE`), else `hub` in `HF_HOME`, else in `huggingface` of the user's cache.
fn cache() -> Cache {
    let given = ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"].into_iter();
    let home = || variable("HF_HOME").map(|home| home + "/hub");
    let user = || Some(variable("XDG_CACHE_HOME")? + "/huggingface/hub");
    let directory = given
        .filter_map(variable)
        .next()
        .or_else(home)
        .or_else(user);
    match (directory, variable("HOME")) {
        (Some(directory), Some(user)) if directory.starts_with("~/") => {
            Cache::new(directory.replacen('~', &user, 1).into())
        }
        (Some(directory), _) => Cache::new(directory.into()),
        (None, _) => Cache::default(),
    }
}

/// Whether a variable that is on or off is on, as huggingface_hub reads it.
fn is_on(name: &str) -> bool {
    let on = |value: String| matches!(&*value.to_uppercase(), "1" | "ON" | "YES" | "TRUE");
    variable(name).is_some_and(on)
}

/// The directory of the hub repository `model` in the [`cache`]. What is missing there is
/// downloaded, unless `HF_HUB_OFFLINE` is set.
pub(super) fn download(model: &str) -> Result<PathBuf> {
    let failed = |reason: String| Error::Hub {
        model: model.to_owned(),
        reason,
    };
    let is_part = |p: &str| !p.is_empty() && !p.starts_with('.');
    let id = model.split_once('/');
    if !id.is_some_and(|(owner, name)| is_part(owner) && is_part(name) && !name.contains('/')) {
        let reason = "no such directory, and not a hub id of the form owner/name; check the path";
        return Err(failed(reason.into()));
    }
    let offline = is_on("HF_HUB_OFFLINE") || is_on("TRANSFORMERS_OFFLINE");
    let cached = cache().repo(Repo::model(model.to_owned()));
    let mut api = None;
    if !offline {
        // The token and the endpoint of `HF_HOME` and `HF_ENDPOINT`.
        let built = ApiBuilder::from_env().with_cache_dir(cache().path().clone());
        let built = built.build();
        api = Some(
            built
                .map_err(|e| failed(e.to_string()))?
                .model(model.to_owned()),
        );
    }
    let get = |file: &str| match (cached.get(file), &api) {
        (Some(path), _) => Ok(path),
        (None, Some(api)) => api.get(file).map_err(|e| e.to_string()),
        (None, None) => Err(format!(
            "{file} is not in the cache, and HF_HUB_OFFLINE is set; download the model first"
        )),
    };
    let hint = |e: String| {
        let hint = "give a directory, or check the id, the network and the access token";
        failed(format!("{e}; {hint}"))
    };
    let mut directory = PathBuf::new();
    for (file, required) in FILES {
        match get(file) {
            Ok(path) => directory = path.parent().map(Path::to_owned).unwrap_or(directory),
            Err(e) if required => return Err(hint(e)),
            Err(_) => {}
        }
    }
    // As transformers chooses: a single file counts more than an index.
    let single = get("model.safetensors");
    let Some(index) = single.is_err().then(|| get(INDEX).ok()).flatten() else {
        single.map_err(hint)?;
        return Ok(directory);
    };
    let json = serde_json::from_slice(&reptune_adapters::files::read(&index)?);
    let json: serde_json::Value = json.map_err(|e| failed(e.to_string()))?;
    let files = json["weight_map"].as_object().into_iter().flatten();
    let shards: BTreeSet<&str> = files.filter_map(|(_, file)| file.as_str()).collect();
    for shard in shards {
        get(shard).map_err(hint)?;
    }
    Ok(directory)
}
