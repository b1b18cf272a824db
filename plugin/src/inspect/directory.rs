//! Directories: adapters, models, runs.

use super::file;
use super::inspection::{Inspection, counted, ranges};
use crate::error::{Error, Result};
use crate::model::{ModelDir, check};
use crate::{runtime, stages};
use reptune_adapters::formats::safetensors::{TensorFile, shards};
use reptune_adapters::{ModelSpec, WeightDelta, files, lora::delta_file, lora::peft};
use reptune_recipes::merge::Merged;
use std::collections::BTreeMap;
use std::path::Path;

const PEFT: &str = "adapter_config.json";

pub(super) fn is_adapter(path: &Path) -> bool {
    path.join(PEFT).is_file() || path.join(delta_file::FILE).is_file()
}

/// A PEFT directory, or an update with full deltas.
pub(super) fn adapter(path: &Path) -> Result<Inspection> {
    let fits = "no hash to check; tensors and configuration fit";
    let (update, checked) = match path.join(PEFT).is_file() {
        true => (peft::read(path)?, fits),
        false => (delta_file::read(path)?, "content hash: right"),
    };
    let rank = |l: &WeightDelta| match l.full {
        Some(_) => "full".to_owned(),
        None => l.rank().to_string(),
    };
    let mut layers: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    let mut rows = Vec::new();
    for (module, l) in &update.modules {
        let name = module.kind.path().rsplit('.').next().unwrap_or_default();
        layers.entry(name).or_default().push(module.layer);
        let delta = l.delta()?.sqr()?.sum_all()?.sqrt()?.to_scalar::<f32>()?;
        let (scale, delta) = (l.scale.to_string(), format!("{delta:.4}"));
        rows.push([module.to_string(), rank(l), scale, delta]);
    }
    let on = layers.into_iter();
    let on = on.map(|(name, layers)| format!("{name} of layers {}", ranges(layers)));
    let note = update
        .changes_nothing()?
        .then_some("every delta is zero: it changes nothing");
    Ok(Inspection::new("adapter", checked)
        .fact("note", note.unwrap_or_default())
        .fact("modules", on.collect::<Vec<_>>().join("; "))
        .fact("ranks", counted(update.modules.values().map(rank)))
        .fact("update hash", update.content_hash()?)
        .table(["module", "rank", "scale", "delta norm"], rows))
}

/// A model with full weights, or a UQFF, with what the check of its directory found.
pub(super) fn model(path: &Path, progress: &mut dyn FnMut(usize, usize)) -> Result<Inspection> {
    let model = ModelDir::at(path)?;
    let check = check(&model)?;
    let mut report = match model.is_quantized() {
        true => file::uqff(path, progress)?,
        false => full(path, &check.source.spec)?,
    };
    for (name, found) in check.facts {
        report = report.fact(name, found);
    }
    // a model that it loads and computes with other numbers
    if let Err(refused) = runtime::check(&model) {
        report = report.fact("refused to mistral.rs 0.8.1", refused);
    }
    Ok(report.fact("corrected", check.corrected.join("; ")))
}

fn full(path: &Path, spec: &ModelSpec) -> Result<Inspection> {
    let mut dtypes = Vec::new();
    let mut elements = 0usize;
    for shard in shards(path)? {
        let open = TensorFile::open(&shard)?;
        for info in open.names().iter().filter_map(|name| open.info(name)) {
            dtypes.push(format!("{:?}", info.dtype));
            elements += info.shape.iter().product::<usize>();
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
    let report = Inspection::new(kind, checked)
        .fact("layers", spec.layers)
        .fact("hidden", spec.hidden)
        .fact("vocabulary", spec.vocab)
        .fact("parameters", elements)
        .fact("tensors", counted(dtypes))
        .fact("fingerprint", &spec.fingerprint);
    let Some(merged) = merged else {
        return Ok(report);
    };
    let short = |hash: String| hash[..12.min(hash.len())].to_owned();
    let rows = merged.tensors.into_iter().map(|(n, h)| [n, short(h)]);
    Ok(report
        .fact("made by", &merged.made_by)
        .fact("merged updates", merged.updates.join(", "))
        .table(["changed tensor", "SHA-256"], rows))
}

/// The stages of a run.
pub(super) fn run(path: &Path) -> Result<Inspection> {
    let file = path.join(stages::FILE);
    let stages = serde_json::from_slice(&files::read(&file)?);
    let stages: BTreeMap<String, String> = stages.map_err(|e| {
        let hint = "run the recipe again";
        Error::model(&file, "content", "stages by name", e.to_string(), hint)
    })?;
    let state = |name: &String| match path.join(name).exists() {
        true => "there".to_owned(),
        false => "missing".to_owned(),
    };
    let rows = stages.keys().map(|name| [name.clone(), state(name)]);
    Ok(Inspection::new("run", "nothing: inspect its parts")
        .fact("stages", stages.len())
        .table(["part", "state"], rows))
}
