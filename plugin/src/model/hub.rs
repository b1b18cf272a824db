//! Models of the Hugging Face hub, from its cache or downloaded.

use crate::error::{Error, Result};
use hf_hub::api::sync::{ApiBuilder, ApiRepo};
use hf_hub::{Cache, Repo};
use std::path::{Path, PathBuf};

/// Files of a model directory beside the weights; those marked true must be there.
const FILES: [(&str, bool); 5] = [
    ("config.json", true),
    ("tokenizer.json", true),
    ("tokenizer_config.json", false),
    ("generation_config.json", false),
    ("chat_template.jinja", false),
];
const INDEX: &str = "model.safetensors.index.json";

/// The directory of the hub repository `model` in the cache of `HF_HOME`. What is missing
/// there is downloaded, unless `HF_HUB_OFFLINE` is set.
///
/// # Errors
/// When `model` is not a hub id, or the hub cannot deliver it.
pub(super) fn download(model: &str) -> Result<PathBuf> {
    let failed = |reason: String| Error::Hub {
        model: model.to_owned(),
        reason,
    };
    let id = model
        .split('/')
        .filter(|p| !p.is_empty() && !p.starts_with('.'))
        .count()
        == 2
        && model.matches('/').count() == 1;
    if !id {
        return Err(failed(
            "no such directory, and not a hub id of the form owner/name; check the path".into(),
        ));
    }
    let offline = std::env::var("HF_HUB_OFFLINE").is_ok_and(|v| !matches!(v.as_str(), "" | "0"));
    let cached = Cache::from_env().repo(Repo::model(model.to_owned()));
    let api = match offline {
        true => None,
        false => {
            let api = ApiBuilder::from_env()
                .build()
                .map_err(|e| failed(e.to_string()))?;
            Some(api.model(model.to_owned()))
        }
    };
    let get = |file: &str| -> std::result::Result<PathBuf, String> {
        match (cached.get(file), &api) {
            (Some(path), _) => Ok(path),
            (None, Some(api)) => fetch(api, file),
            (None, None) => Err(format!(
                "{file} is not in the cache, and HF_HUB_OFFLINE is set; download the model first"
            )),
        }
    };
    let hint = |e: String| {
        failed(format!(
            "{e}; give a directory, or check the id, the network and the access token"
        ))
    };
    let mut directory = PathBuf::new();
    for (file, required) in FILES {
        match get(file) {
            Ok(path) => directory = path.parent().map(Path::to_owned).unwrap_or(directory),
            Err(e) if required => return Err(hint(e)),
            Err(_) => {}
        }
    }
    match get(INDEX) {
        Ok(index) => {
            let text = reptune_adapters::files::read(&index)?;
            let json: serde_json::Value =
                serde_json::from_slice(&text).map_err(|e| failed(e.to_string()))?;
            let map = json["weight_map"].as_object().cloned().unwrap_or_default();
            let mut shards: Vec<&str> = map.values().filter_map(|v| v.as_str()).collect();
            shards.sort_unstable();
            shards.dedup();
            for shard in shards {
                get(shard).map_err(hint)?;
            }
        }
        Err(_) => {
            get("model.safetensors").map_err(hint)?;
        }
    }
    Ok(directory)
}

fn fetch(api: &ApiRepo, file: &str) -> std::result::Result<PathBuf, String> {
    api.get(file).map_err(|e| e.to_string())
}
