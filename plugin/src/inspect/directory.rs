//! Directories: adapters, models, runs.

use super::{Inspection, Progress, STAGES, counted, file, ranges};
use crate::error::{Error, Result};
use crate::model::ModelDir;
use reptune_adapters::formats::safetensors::{TensorFile, shards};
use reptune_adapters::{WeightDelta, files, lora::delta_file, lora::peft};
use reptune_recipes::merge::Merged;
use std::collections::BTreeMap;
use std::path::Path;

pub(super) fn is_adapter(path: &Path) -> bool {
    ["adapter_config.json", delta_file::FILE]
        .iter()
        .any(|name| path.join(name).is_file())
}

pub(super) fn is_model(path: &Path) -> bool {
    path.join("config.json").is_file()
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
    let mut layers: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for module in update.modules.keys() {
        let name = module.kind.path().rsplit('.').next().unwrap_or_default();
        layers.entry(name).or_default().push(module.layer);
    }
    let on = layers
        .into_iter()
        .map(|(name, layers)| format!("{name} of layers {}", ranges(layers)));
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

/// A model with full weights, or a UQFF.
pub(super) fn model(path: &Path, progress: Progress) -> Result<Inspection> {
    let model = ModelDir::at(path)?;
    if model.is_quantized() {
        return file::uqff(path, progress);
    }
    let (_, spec) = model.config()?;
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
    let mut report = Inspection::new(kind, checked)
        .fact("layers", spec.layers)
        .fact("hidden", spec.hidden)
        .fact("vocabulary", spec.vocab)
        .fact("parameters", elements)
        .fact("tensors", counted(dtypes))
        .fact("fingerprint", &spec.fingerprint);
    if let Some(merged) = &merged {
        report = report
            .fact("made by", &merged.made_by)
            .fact("merged updates", merged.updates.join(", "));
        let rows = merged
            .tensors
            .iter()
            .map(|(n, h)| [n.clone(), h[..12.min(h.len())].into()]);
        report = report.table(["changed tensor", "SHA-256"], rows.collect());
    }
    Ok(report)
}

/// The stages of a run.
pub(super) fn run(path: &Path) -> Result<Inspection> {
    let file = path.join(STAGES);
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
