//! Single files.

use super::inspection::{Inspection, counted, ranges};
use crate::error::{Error, Result};
use crate::model::ModelDir;
use crate::model::uqff::{BakedSteering, HEAD, index};
use reptune_adapters::formats::gguf::{Gguf, TensorInfo};
use reptune_adapters::formats::safetensors::TensorFile;
use reptune_adapters::model::ModuleKind;
use reptune_adapters::{DirectionSet, HookPoint, Operator, TargetModule};
use reptune_adapters::{lora::delta_file, steering::exchange};
use std::path::Path;

/// Whether `path` is a file of this extension.
pub(super) fn ends(path: &Path, extension: &str) -> bool {
    path.is_file() && path.extension().is_some_and(|e| e == extension)
}

/// Directions that this program wrote.
pub(super) fn is_directions(path: &Path) -> bool {
    let format = || {
        TensorFile::open(path)
            .ok()?
            .metadata()
            .get("format")
            .cloned()
    };
    ends(path, "safetensors") && format().is_some_and(|f| f == "reptune.directions.1")
}

/// The weights of an adapter, which is read with its directory.
pub(super) fn is_adapter(path: &Path) -> bool {
    let names = [delta_file::FILE, "adapter_model.safetensors"];
    path.is_file() && names.iter().any(|name| path.ends_with(name))
}

/// A GGUF with directions.
pub(super) fn is_control_vector(path: &Path) -> bool {
    let kind = |file: Gguf| {
        file.text("general.architecture")
            .map(|t| t == Some("controlvector"))
    };
    Gguf::is_one(path) && Gguf::open(path).and_then(kind).unwrap_or(false)
}

/// A GGUF: an adapter or a model.
pub(super) fn gguf(path: &Path) -> Result<Inspection> {
    let file = Gguf::open(path)?;
    let text = |key: &str| file.text(key).map(Option::unwrap_or_default);
    let types = file.tensors().values().map(TensorInfo::stored);
    let is_adapter = text("general.type")? == "adapter";
    let kind = match is_adapter {
        true => "GGUF adapter",
        false => "GGUF model",
    };
    let checked = "no hash to check; every tensor has its place in the file";
    let report = Inspection::new(kind, checked)
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
        .table(["tensor", "shape"], file.tensors().iter().map(shape)))
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
    let rows = set.layers.iter().map(|(layer, d)| {
        let residual = p.residual_norms.get(layer);
        let residual = residual.map_or("-".into(), |n| format!("{n:.4}"));
        let (width, norm) = (d.unit.len().to_string(), format!("{:.4}", d.norm));
        [layer.to_string(), width, norm, residual]
    });
    // The last part of a path: an artefact does not show where its author keeps models.
    let model = Path::new(&p.model).file_name().unwrap_or_default();
    Inspection::new("direction set", "content hash: right")
        .fact("model", model.to_string_lossy())
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

/// Any other safetensors.
pub(super) fn tensors(path: &Path) -> Result<Inspection> {
    let file = TensorFile::open(path)?;
    let names = file.names();
    let infos: Vec<_> = names.iter().filter_map(|n| file.info(n)).collect();
    let dtypes = infos.iter().map(|i| format!("{:?}", i.dtype));
    let mut report = Inspection::new("tensors", "no hash to check; the header fits the file")
        .fact("tensors", names.len())
        .fact("dtypes", counted(dtypes.clone()));
    for (key, value) in &file.metadata() {
        report = report.fact(key, value);
    }
    const MOST: usize = 20;
    let shapes = infos.iter().map(|i| format!("{:?}", i.shape));
    let rows = names.iter().zip(dtypes.zip(shapes)).take(MOST);
    let rows = rows.map(|(name, (dtype, shape))| [name.clone(), dtype, shape]);
    let report = report.table(["tensor", "dtype", "shape"], rows);
    Ok(match names.len() > MOST {
        true => report.fact("shown", format!("the first {MOST}")),
        false => report,
    })
}

/// A `.uqff`, or a directory with one.
pub(super) fn uqff(path: &Path, progress: &mut dyn FnMut(usize, usize)) -> Result<Inspection> {
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
        let layout = entry.layout();
        types.push(layout.stored);
        elements += layout.shape.0 * layout.shape.1;
        bytes += layout.end;
        if let Some(bias) = entry.bias()? {
            let norm: f32 = bias.sqr()?.sum_all()?.sqrt()?.to_scalar()?;
            rows.push([named(i), layout.stored.to_string(), format!("{norm:.4}")]);
        }
    }
    let names = file.paths().filter_map(|p| p.file_name());
    let names: Vec<_> = names.map(|n| n.to_string_lossy()).collect();
    let bits = 8. * bytes as f64 / elements.max(1) as f64;
    let checked = match &provenance {
        Some(_) => "hashes of weights, biases and provenance: right",
        None => "no hash to check: not written by reptune; every entry can be read",
    };
    let mut report = Inspection::new("UQFF", checked)
        .fact("files", names.join(", "))
        .fact("entries", counted(types))
        .fact("bits a weight", format!("{bits:.2}"))
        .fact("biases", rows.len());
    if let Some(p) = &provenance {
        let steering: Vec<_> = p.steering.iter().map(steered).collect();
        report = report
            .fact("made by", &p.made_by)
            .fact("model", &p.model)
            .fact("model fingerprint", &p.model_fingerprint)
            .fact("merged updates", p.updates.join(", "))
            .fact("steering", steering.join("; "));
    }
    match rows.is_empty() {
        true => Ok(report),
        false => Ok(report.table(["bias of", "type", "norm"], rows)),
    }
}

fn steered(s: &BakedSteering) -> String {
    let (operator, point) = (s.operator, s.point);
    if point == HookPoint::Everywhere {
        return format!("{operator} everywhere");
    }
    let coeff = |(layer, coeff): (&usize, &f64)| format!("{coeff} at layer {layer}");
    let coeffs: Vec<String> = s.coeffs.iter().map(coeff).collect();
    format!("{operator} at {point}: coeff {}", coeffs.join(", "))
}

fn named(entry: usize) -> String {
    if entry == HEAD {
        return "output head".into();
    }
    let (layer, which) = ((entry - 1) / 7, (entry - 1) % 7);
    let kind = ModuleKind::ALL[which];
    debug_assert_eq!(index(layer, kind), entry);
    TargetModule { layer, kind }.to_string()
}
