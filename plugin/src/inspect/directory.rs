//! Directories: adapters, models, runs.

use super::{Inspection, counted, file, ranges};
use crate::error::{Error, Result};
use crate::model::uqff::UqffFile;
use crate::model::{LlamaConfig, model_spec};
use reptune_adapters::formats::safetensors::{TensorFile, shards};
use reptune_adapters::{TargetModule, WeightDelta, files, lora::delta_file, lora::peft};
use reptune_recipes::merged::Merged;
use std::collections::BTreeMap;
use std::path::Path;

pub(super) fn inspect(path: &Path, progress: &mut dyn FnMut(usize, usize)) -> Result<Inspection> {
    let has = |name: &str| path.join(name).is_file();
    if has("adapter_config.json") || has(delta_file::FILE) {
        return adapter(path);
    }
    if has("stages.json") {
        return run(path);
    }
    if !has("config.json") {
        return Err(Error::model(
            path,
            "directory",
            "an adapter, a model, a UQFF or a run",
            "none of their files",
            "inspect what lies in it",
        ));
    }
    match UqffFile::files(path) {
        Ok(files) if files.is_empty() => model(path),
        Ok(_) => file::uqff(path, progress),
        Err(e) => Err(e),
    }
}

/// A PEFT directory, or an update with full deltas.
pub(super) fn adapter(path: &Path) -> Result<Inspection> {
    let (update, checked) = match path.join("adapter_config.json").is_file() {
        true => (
            peft::read(path)?,
            "no hash to check; tensors and configuration fit",
        ),
        false => (delta_file::read(path)?, "content hash: right"),
    };
    let modules = || update.modules.keys();
    let name = |s: &TargetModule| {
        s.kind
            .path()
            .rsplit('.')
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    let mut projections: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for module in modules() {
        projections
            .entry(name(module))
            .or_default()
            .push(module.layer);
    }
    let on = projections
        .iter()
        .map(|(p, l)| format!("{p} of layers {}", ranges(l.iter().copied())));
    let rank = |l: &WeightDelta| match l.full {
        Some(_) => "full".to_owned(),
        None => l.rank().to_string(),
    };
    let mut rows = Vec::new();
    for (module, l) in &update.modules {
        let delta = l.delta()?.sqr()?.sum_all()?.sqrt()?.to_scalar::<f32>()?;
        rows.push([
            module.to_string(),
            rank(l),
            l.scale.to_string(),
            format!("{delta:.4}"),
        ]);
    }
    Ok(Inspection::new("adapter", checked)
        .fact("modules", on.collect::<Vec<_>>().join("; "))
        .fact("ranks", counted(update.modules.values().map(rank)))
        .fact("update hash", update.content_hash()?)
        .table(["module", "rank", "scale", "delta norm"], rows))
}

fn model(path: &Path) -> Result<Inspection> {
    let config = LlamaConfig::read(path)?;
    let spec = model_spec(&config, path)?;
    let mut dtypes = Vec::new();
    let mut elements = 0usize;
    for shard in shards(path)? {
        let open = TensorFile::open(&shard)?;
        for name in open.names() {
            if let Some(info) = open.info(&name) {
                dtypes.push(format!("{:?}", info.dtype));
                elements += info.shape.iter().product::<usize>();
            }
        }
    }
    let merged = Merged::read(path)?;
    let (kind, checked) = match &merged {
        Some(merged) => {
            merged.verify(path)?;
            ("merged model", "hashes of the changed tensors: right")
        }
        None => ("model", "no hash to check; the headers fit the files"),
    };
    let mut told = Inspection::new(kind, checked)
        .fact("layers", spec.layers)
        .fact("hidden", spec.hidden)
        .fact("vocabulary", spec.vocab)
        .fact("parameters", elements)
        .fact("tensors", counted(dtypes))
        .fact("fingerprint", &spec.fingerprint);
    if let Some(merged) = &merged {
        told = told
            .fact("made by", &merged.made_by)
            .fact("merged updates", merged.updates.join(", "));
        let rows = merged
            .tensors
            .iter()
            .map(|(n, h)| [n.clone(), h[..12.min(h.len())].into()]);
        told = told.table(["changed tensor", "SHA-256"], rows.collect());
    }
    Ok(told)
}

fn run(path: &Path) -> Result<Inspection> {
    let file = path.join("stages.json");
    let stages: BTreeMap<String, String> =
        serde_json::from_slice(&files::read(&file)?).map_err(|e| {
            let hint = "run the recipe again";
            Error::model(&file, "content", "stages by name", e.to_string(), hint)
        })?;
    let there = |name: &str| match path.join(name).exists() {
        true => "there",
        false => "missing",
    };
    let rows = stages
        .keys()
        .map(|name| [name.clone(), there(name).to_owned()]);
    Ok(Inspection::new("run", "nothing: inspect its parts")
        .fact("stages", stages.len())
        .table(["part", "state"], rows.collect()))
}
