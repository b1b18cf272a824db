//! Single files.

use super::{Inspection, counted, ranges};
use crate::error::{Error, Result};
use crate::model::uqff::{HEAD, Provenance, UqffFile, index};
use reptune_adapters::formats::gguf::Gguf;
use reptune_adapters::formats::safetensors::TensorFile;
use reptune_adapters::model::ModuleKind;
use reptune_adapters::{
    DirectionSet, HookPoint, TargetModule, lora::delta_file, steering::exchange,
};
use std::path::Path;

pub(super) fn inspect(path: &Path, progress: &mut dyn FnMut(usize, usize)) -> Result<Inspection> {
    let extension = path.extension().and_then(|e| e.to_str());
    match extension {
        Some("uqff") => uqff(path, progress),
        Some("safetensors") => safetensors(path),
        _ if Gguf::is_one(path) => gguf(path),
        Some("svec") => Ok(foreign(exchange::read(path, 0)?)),
        _ => Err(Error::model(
            path,
            "file",
            ".safetensors, .uqff, .gguf, .svec, or a directory",
            "another kind of file",
            "inspect the directory that it lies in",
        )),
    }
}

fn safetensors(path: &Path) -> Result<Inspection> {
    let file = TensorFile::open(path)?;
    let metadata = file.metadata();
    let format = metadata.get("format").map_or("", String::as_str);
    let name = path.file_name().and_then(|n| n.to_str());
    let beside = path.parent().unwrap_or(Path::new("."));
    match (format, name) {
        ("reptune.directions.1", _) => Ok(directions(&DirectionSet::load(path)?)),
        (_, Some(delta_file::FILE | "adapter_model.safetensors")) => {
            super::directory::adapter(beside)
        }
        _ => Ok(tensors(&file)),
    }
}

/// A GGUF: directions, an adapter or a model.
fn gguf(path: &Path) -> Result<Inspection> {
    let file = Gguf::open(path)?;
    let text = |key: &str| {
        let text = file.text(key).map(Option::unwrap_or_default);
        text.map(str::to_owned)
    };
    if text("general.architecture")? == "controlvector" {
        return Ok(foreign(exchange::read(path, 0)?));
    }
    let types = file.tensors().values().map(|t| format!("{:?}", t.dtype));
    let kind = match text("general.type")?.as_str() {
        "adapter" => "GGUF adapter",
        _ => "GGUF model",
    };
    let told = Inspection::new(
        kind,
        "no hash to check; every tensor has its place in the file",
    )
    .fact("architecture", text("general.architecture")?)
    .fact("name", text("general.name")?)
    .fact("tensors", counted(types));
    if kind == "GGUF model" {
        let number = |key: &str| {
            let value = file.value(&format!("llama.{key}"));
            value
                .and_then(|v| v.to_u32().ok())
                .map_or(String::new(), |n| n.to_string())
        };
        return Ok(told
            .fact("layers", number("block_count"))
            .fact("hidden", number("embedding_length"))
            .fact("tokenizer", text("tokenizer.ggml.model")?));
    }
    let alpha = file
        .value("adapter.lora.alpha")
        .and_then(|v| v.to_f32().ok());
    let rows = file
        .tensors()
        .iter()
        .map(|(name, info)| [name.clone(), format!("{:?}", info.shape)]);
    Ok(told
        .fact("kind", text("adapter.type")?)
        .fact("alpha", alpha.map_or(String::new(), |a| a.to_string()))
        .table(["tensor", "shape"], rows.collect()))
}

/// Directions of another program, or of ours in its format.
fn foreign(read: exchange::Read) -> Inspection {
    let mut told = directions(&read.set);
    if read.set.provenance.origin.is_empty() {
        return told;
    }
    told.checked = "no hash to check; vectors are of one width and finite".into();
    told = told.fact("origin", &read.set.provenance.origin);
    for note in read.notes {
        told = told.fact("note", note);
    }
    told
}

fn directions(set: &DirectionSet) -> Inspection {
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

/// Of a path its last part: where others keep their models is nobody's business.
fn model_name(name: &str) -> String {
    let last = Path::new(name).file_name().unwrap_or_default();
    last.to_string_lossy().into_owned()
}

fn tensors(file: &TensorFile) -> Inspection {
    let names = file.names();
    let infos: Vec<_> = names.iter().filter_map(|n| file.info(n)).collect();
    let metadata = file.metadata();
    let mut told = Inspection::new("tensors", "no hash to check; the header fits the file")
        .fact("tensors", names.len())
        .fact(
            "dtypes",
            counted(infos.iter().map(|i| format!("{:?}", i.dtype))),
        );
    for (key, value) in &metadata {
        told = told.fact(key, value);
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
    let told = told.table(["tensor", "dtype", "shape"], rows);
    match names.len() > MOST {
        true => told.fact("shown", format!("the first {MOST}")),
        false => told,
    }
}

/// A `.uqff`, or a directory with one.
pub(super) fn uqff(path: &Path, progress: &mut dyn FnMut(usize, usize)) -> Result<Inspection> {
    let Some(file) = UqffFile::find(path)? else {
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
    let mut told = Inspection::new("UQFF", checked)
        .fact("files", names.collect::<Vec<_>>().join(", "))
        .fact("entries", counted(types))
        .fact(
            "bits a weight",
            format!("{:.2}", 8. * bytes as f64 / elements.max(1) as f64),
        )
        .fact("biases", rows.len());
    if let Some(p) = &provenance {
        told = provenance_facts(told, p);
    }
    match rows.is_empty() {
        true => Ok(told),
        false => Ok(told.table(["bias of", "type", "norm"], rows)),
    }
}

fn provenance_facts(told: Inspection, p: &Provenance) -> Inspection {
    let steering = p.steering.iter().map(|s| match (s.operator, s.point) {
        (operator, HookPoint::Everywhere) => format!("{operator} everywhere"),
        (operator, point) => {
            let coeff = |(layer, coeff): (&usize, &f64)| format!("{coeff} at layer {layer}");
            let coeffs: Vec<String> = s.coeffs.iter().map(coeff).collect();
            format!("{operator} at {point}: coeff {}", coeffs.join(", "))
        }
    });
    told.fact("made by", &p.made_by)
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
