//! Single files.

use super::{Inspection, Progress, counted, extension, ranges};
use crate::error::{Error, Result};
use crate::model::ModelDir;
use crate::model::uqff::{HEAD, Provenance, index};
use reptune_adapters::formats::gguf::{Gguf, TensorInfo};
use reptune_adapters::formats::safetensors::TensorFile;
use reptune_adapters::model::ModuleKind;
use reptune_adapters::{DirectionSet, HookPoint, Operator, TargetModule};
use reptune_adapters::{lora::delta_file, steering::exchange};
use std::path::Path;

/// Directions that this program wrote.
pub(super) fn is_directions(path: &Path) -> bool {
    let format = |file: TensorFile| file.metadata().get("format").cloned();
    let ours = || format(TensorFile::open(path).ok()?);
    extension(path) == "safetensors" && ours().is_some_and(|f| f == "reptune.directions.1")
}

/// The weights of an adapter, which is read with its directory.
pub(super) fn is_adapter(path: &Path) -> bool {
    path.is_file()
        && [delta_file::FILE, "adapter_model.safetensors"]
            .iter()
            .any(|name| path.ends_with(name))
}

/// A GGUF with directions.
pub(super) fn is_control_vector(path: &Path) -> bool {
    let kind =
        |file: &Gguf| file.text("general.architecture").ok().flatten() == Some("controlvector");
    Gguf::is_one(path) && Gguf::open(path).is_ok_and(|file| kind(&file))
}

/// A GGUF: an adapter or a model.
pub(super) fn gguf(path: &Path) -> Result<Inspection> {
    let file = Gguf::open(path)?;
    let text = |key: &str| file.text(key).map(Option::unwrap_or_default);
    let types = file.tensors().values().map(|t| format!("{:?}", t.dtype));
    let is_adapter = text("general.type")? == "adapter";
    let report = Inspection::new(
        if is_adapter {
            "GGUF adapter"
        } else {
            "GGUF model"
        },
        "no hash to check; every tensor has its place in the file",
    )
    .fact("architecture", text("general.architecture")?)
    .fact("name", text("general.name")?)
    .fact("tensors", counted(types));
    if !is_adapter {
        let number = |key: &str| {
            let number = file.whole(&format!("llama.{key}")).ok().flatten();
            number.map_or(String::new(), |n| n.to_string())
        };
        return Ok(report
            .fact("layers", number("block_count"))
            .fact("hidden", number("embedding_length"))
            .fact("tokenizer", text("tokenizer.ggml.model")?));
    }
    let alpha = file.value("adapter.lora.alpha");
    let alpha = alpha.and_then(|v| v.to_f32().ok());
    let shape = |(name, info): (&String, &TensorInfo)| [name.clone(), format!("{:?}", info.shape)];
    Ok(report
        .fact("kind", text("adapter.type")?)
        .fact("alpha", alpha.map_or(String::new(), |a| a.to_string()))
        .table(
            ["tensor", "shape"],
            file.tensors().iter().map(shape).collect(),
        ))
}

pub(super) fn directions(path: &Path) -> Result<Inspection> {
    Ok(direction_set(&DirectionSet::load(path)?))
}

/// Directions of another program, or of this one in another's format.
pub(super) fn foreign_directions(path: &Path) -> Result<Inspection> {
    let read = exchange::read(path, 0, Operator::Add)?;
    let mut report = direction_set(&read.set);
    if read.set.provenance.origin.is_empty() {
        return Ok(report);
    }
    report.checked = "no hash to check; vectors are of one width and finite".into();
    report = report.fact("origin", &read.set.provenance.origin);
    for note in read.notes {
        report = report.fact("note", note);
    }
    Ok(report)
}

fn direction_set(set: &DirectionSet) -> Inspection {
    let p = &set.provenance;
    let rows = set
        .layers
        .iter()
        .map(|(layer, d)| {
            let norm = p.residual_norms.get(layer);
            [
                layer.to_string(),
                d.unit.len().to_string(),
                format!("{:.4}", d.norm),
                norm.map_or("-".into(), |n| format!("{n:.4}")),
            ]
        })
        .collect();
    Inspection::new("direction set", "content hash: right")
        .fact("model", model_name(&p.model))
        .fact("model layers", p.model_layers)
        .fact("model fingerprint", &p.model_fingerprint)
        .fact("method", &p.method)
        .fact("rows", &p.rows)
        .fact("pairs", format!("{} of {}", p.pairs, p.pairs_captured))
        .fact("recipe", &p.recipe)
        .fact("layers", ranges(set.layers.keys().copied()))
        .fact("layer convention", "output of block i, 0-based")
        .table(["layer", "width", "norm", "residual norm"], rows)
}

/// The last part of a path: an artefact does not show where its author keeps models.
fn model_name(name: &str) -> String {
    let last = Path::new(name).file_name().unwrap_or_default();
    last.to_string_lossy().into_owned()
}

/// Any other safetensors.
pub(super) fn tensors(path: &Path) -> Result<Inspection> {
    let file = TensorFile::open(path)?;
    let names = file.names();
    let infos: Vec<_> = names.iter().filter_map(|n| file.info(n)).collect();
    let metadata = file.metadata();
    let mut report = Inspection::new("tensors", "no hash to check; the header fits the file")
        .fact("tensors", names.len())
        .fact(
            "dtypes",
            counted(infos.iter().map(|i| format!("{:?}", i.dtype))),
        );
    for (key, value) in &metadata {
        report = report.fact(key, value);
    }
    const MOST: usize = 20;
    let rows = names.iter().zip(infos).take(MOST).map(|(name, info)| {
        [
            name.clone(),
            format!("{:?}", info.dtype),
            format!("{:?}", info.shape),
        ]
    });
    let rows = rows.collect();
    let report = report.table(["tensor", "dtype", "shape"], rows);
    Ok(match names.len() > MOST {
        true => report.fact("shown", format!("the first {MOST}")),
        false => report,
    })
}

/// A `.uqff`, or a directory with one.
pub(super) fn uqff(path: &Path, progress: Progress) -> Result<Inspection> {
    let Some(file) = ModelDir::at(path)?.open_uqff()? else {
        let hint = "give a .uqff or its directory";
        return Err(Error::model(path, "*.uqff", "a file", "nothing", hint));
    };
    let provenance = file.provenance()?;
    file.verify(progress)?;
    let (mut types, mut elements, mut bytes) = (Vec::new(), 0usize, 0usize);
    let mut rows = Vec::new();
    for i in file.indices() {
        let entry = file.entry(i)?;
        let (o, inputs) = entry.layout().shape;
        types.push(entry.layout().stored);
        elements += o * inputs;
        bytes += entry.layout().end;
        if let Some(bias) = entry.bias()? {
            let norm: f32 = bias.sqr()?.sum_all()?.sqrt()?.to_scalar()?;
            rows.push([
                named(i),
                entry.layout().stored.to_string(),
                format!("{norm:.4}"),
            ]);
        }
    }
    let names = file
        .paths()
        .map(|p| p.file_name().unwrap_or_default().to_string_lossy());
    let checked = match &provenance {
        Some(_) => "hashes of weights, biases and provenance: right",
        None => "no hash to check: not written by reptune; every entry can be read",
    };
    let mut report = Inspection::new("UQFF", checked)
        .fact("files", names.collect::<Vec<_>>().join(", "))
        .fact("entries", counted(types))
        .fact(
            "bits a weight",
            format!("{:.2}", 8. * bytes as f64 / elements.max(1) as f64),
        )
        .fact("biases", rows.len());
    if let Some(p) = &provenance {
        report = provenance_facts(report, p);
    }
    match rows.is_empty() {
        true => Ok(report),
        false => Ok(report.table(["bias of", "type", "norm"], rows)),
    }
}

fn provenance_facts(report: Inspection, p: &Provenance) -> Inspection {
    let steering = p.steering.iter().map(|s| match (s.operator, s.point) {
        (operator, HookPoint::Everywhere) => format!("{operator} everywhere"),
        (operator, point) => {
            let coeff = |(layer, coeff): (&usize, &f64)| format!("{coeff} at layer {layer}");
            let coeffs: Vec<String> = s.coeffs.iter().map(coeff).collect();
            format!("{operator} at {point}: coeff {}", coeffs.join(", "))
        }
    });
    report
        .fact("made by", &p.made_by)
        .fact("model", &p.model)
        .fact("model fingerprint", &p.model_fingerprint)
        .fact("merged updates", p.updates.join(", "))
        .fact("steering", steering.collect::<Vec<_>>().join("; "))
}

fn named(entry: usize) -> String {
    match entry {
        HEAD => "output head".into(),
        _ => {
            let (layer, which) = ((entry - 1) / 7, (entry - 1) % 7);
            let kind = ModuleKind::ALL[which];
            debug_assert_eq!(index(layer, kind), entry);
            TargetModule { layer, kind }.to_string()
        }
    }
}
