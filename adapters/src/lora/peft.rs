//! Adapters as PEFT directories: `adapter_config.json` and `adapter_model.safetensors`, as
//! Hugging Face PEFT and mistral.rs load them.
//!
//! Everything that PEFT writes is read: several ranks and alphas (`rank_pattern`,
//! `alpha_pattern`), rank-stabilised scales, any float dtype, a named adapter. Only one rank
//! and one scale are written, because mistral.rs reads no more; see [`save`].
//!
//! `fan_in_fan_out` means that a *base* weight is stored (I, O), as in GPT-2. The factors
//! on disk are A (R, I) and B (O, R) in both cases, and PEFT ignores the key for
//! `torch.nn.Linear`, the only kind that a Llama has; so it changes nothing here.

mod config;

use self::config::{CONFIG, Config};
use crate::error::{Error, Result};
use crate::files;
use crate::formats::safetensors::TensorFile;
use crate::formats::tables::{self, Metadata, Table, Tables};
use crate::lora::adapter::{Adapter, WeightDelta};
use crate::lora::delta_file;
use crate::model::{ModelSpec, TargetModule};
use candle_core::{DType, Tensor};
use safetensors::Dtype;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const WEIGHTS: &str = "adapter_model.safetensors";
const PICKLE: &str = "adapter_model.bin";
const PREFIX: &str = "base_model.model.";

/// Tensors that variants use while they are trained only.
const IGNORED: [&str; 2] = [".lora_velora_embed", ".lora_monteclora_sampler"];

/// Writes `adapter` into `directory`: as PEFT where PEFT has a form for it, else as
/// [`delta_file::FILE`]. What an earlier adapter left there in the other form is removed.
///
/// # Errors
/// Those of [`save`] and [`delta_file::save`].
pub fn save_adapter(directory: &Path, adapter: &Adapter, model: &ModelSpec) -> Result<()> {
    let other: &[&str] = if adapter.full_delta().is_some() {
        delta_file::save(directory, adapter, model)?;
        &[CONFIG, WEIGHTS]
    } else {
        save(directory, adapter, &model.name)?;
        &[delta_file::FILE]
    };
    for path in other.iter().map(|name| directory.join(name)) {
        if let Err(e) = std::fs::remove_file(&path)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            return Err(Error::write(path, e));
        }
    }
    Ok(())
}

/// Writes a PEFT directory.
///
/// `target_modules` lists whole module paths. PEFT matches those exactly, and
/// mistral.rs, which knows no `layers_to_transform` and takes the entries as
/// regular expressions, then merges at just these modules.
///
/// One rank and one scale are written. PEFT reads several from `rank_pattern` and
/// `alpha_pattern`, but mistral.rs reads neither: it fails on a different rank and silently
/// applies the wrong alpha. So where they differ
///
/// - a lower rank is padded with zeros to the highest, which changes no delta;
/// - a smaller scale moves into B: `B * (scale / largest scale)`, which rounds B in its
///   last bit unless the ratio is a power of two.
///
/// # Errors
/// When there are no modules, one has a full delta, or a file cannot be written.
pub fn save(directory: &Path, adapter: &Adapter, base_model: &str) -> Result<()> {
    adapter.check_not_empty()?;
    if let Some(module) = adapter.full_delta() {
        let what = format!("writing {module}, a full delta, as a PEFT adapter");
        let reason = "PEFT has only factors; write it with `delta_file::save`, or merge it";
        return Err(Error::unsupported(what, reason));
    }
    let deltas = || adapter.modules.values();
    let rank = deltas().map(WeightDelta::rank).fold(0, usize::max);
    let scales = deltas().map(|delta| delta.scale);
    let scale = scales.fold(0f64, |s, x| if x.abs() > s.abs() { x } else { s });
    let alpha = scale * rank as f64;
    let whole = (alpha - alpha.round()).abs() < 1e-9;
    let modules = adapter.modules.keys().map(TargetModule::to_string);
    let config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": true,
        "r": rank,
        "lora_alpha": if whole { json!(alpha.round() as i64) } else { json!(alpha) },
        "lora_dropout": 0.0,
        "target_modules": modules.collect::<Vec<_>>(),
        "bias": "none",
        "fan_in_fan_out": false,
        "use_rslora": false,
        "use_dora": false,
        "modules_to_save": null,
    });
    let mut tables = Tables::new();
    for (module, delta) in &adapter.modules {
        let (a, b) = (padded(&delta.a, 0, rank)?, rescaled(delta, rank, scale)?);
        for (name, factor) in [("A", a), ("B", b)] {
            let name = format!("{PREFIX}{module}.lora_{name}.weight");
            tables.insert(name, Table::of(&factor)?);
        }
    }
    let metadata = Metadata::from([("format".to_owned(), "pt".to_owned())]);
    tables::write_tables(&directory.join(WEIGHTS), &tables, metadata)?;
    let text = serde_json::to_string_pretty(&config).unwrap_or_default();
    files::write_atomically(&directory.join(CONFIG), |w| writeln!(w, "{text}"))?;
    // as its readers will, before anything says that it is done
    read_in(directory).map(|_| ())
}

/// `factor` in f32, with zeros up to `rank` in `dim`.
fn padded(factor: &Tensor, dim: usize, rank: usize) -> Result<Tensor> {
    let (factor, has) = (factor.to_dtype(DType::F32)?, factor.dims()[dim]);
    Ok(factor.pad_with_zeros(dim, 0, rank - has)?)
}

/// B for `scale` instead of its own.
fn rescaled(delta: &WeightDelta, rank: usize, scale: f64) -> Result<Tensor> {
    let b = padded(&delta.b, 1, rank)?;
    Ok(match delta.scale == scale {
        true => b,
        false => (b.to_dtype(DType::F64)? * (delta.scale / scale))?.to_dtype(DType::F32)?,
    })
}

/// Reads a PEFT directory for `model`, or one that [`delta_file`] wrote.
///
/// # Errors
/// Those of [`read`]; when it does not fit the model.
pub fn load(directory: &Path, model: &ModelSpec) -> Result<Adapter> {
    if directory.join(delta_file::FILE).is_file() && !directory.join(CONFIG).exists() {
        return delta_file::load(directory, model);
    }
    let directory = locate(directory)?;
    let (adapter, path) = (read_in(&directory)?, directory.join(WEIGHTS));
    for (module, delta) in &adapter.modules {
        let (o, i) = module.kind.shape(model);
        let factors = [
            ("A", &delta.a, [delta.rank(), i]),
            ("B", &delta.b, [o, delta.rank()]),
        ];
        let misfit = factors.into_iter().find(|(_, f, shape)| f.dims() != shape);
        if let Some((name, factor, shape)) = misfit {
            let place = format!("tensor `{PREFIX}{module}.lora_{name}.weight`");
            let expected = format!("shape {shape:?}, for {}", model.name);
            let (found, hint) = (factor.dims(), "the adapter belongs to another model");
            return Err(Error::content(
                path,
                place,
                expected,
                format!("{found:?}"),
                hint,
            ));
        }
    }
    adapter.check_model(&path, model)?;
    Ok(adapter)
}

/// [`load`], with remarks for the user: that the adapter changes nothing, or says that it was
/// made for another model.
///
/// # Errors
/// Those of [`load`].
pub fn load_noted(directory: &Path, model: &ModelSpec) -> Result<(Adapter, Vec<String>)> {
    let adapter = load(directory, model)?;
    let (mut notes, shown) = (Vec::new(), directory.display());
    if adapter.changes_nothing()? {
        notes.push(format!(
            "{shown}: every delta is zero; the adapter changes nothing"
        ));
    }
    // The last part of a path or a hub id; the hub's cache has directories `models--owner--name`.
    let last = |text: &str| {
        let mut parts = text.trim_end_matches(['/', '\\']).rsplit(['/', '\\']);
        let last = parts.clone().next().unwrap_or_default();
        let cached = parts.find_map(|part| part.strip_prefix("models--")?.split("--").last());
        cached.unwrap_or(last).to_lowercase()
    };
    let base = base_model(directory).filter(|base| last(base) != last(&model.name));
    notes.extend(base.map(|base| {
        let name = &model.name;
        format!("{shown}: the adapter was made for {base}, as it says; used with {name}")
    }));
    Ok((adapter, notes))
}

/// The model that the adapter in `directory` was made for, as its configuration says.
fn base_model(directory: &Path) -> Option<String> {
    let config = files::read(&locate(directory).ok()?.join(CONFIG)).ok()?;
    let config: serde_json::Value = serde_json::from_slice(&config).ok()?;
    let base = config["base_model_name_or_path"].as_str()?;
    (!base.is_empty()).then(|| base.to_owned())
}

/// Reads a PEFT directory, whatever model it is for.
///
/// # Errors
/// When it is not plain LoRA (errors say what it is), or its tensors do not fit its
/// configuration.
pub fn read(directory: &Path) -> Result<Adapter> {
    read_in(&locate(directory)?)
}

/// Where the adapter lies: in `directory`, or, as PEFT writes one that is not called
/// "default", in a sub-directory of its name, if there is only one.
///
/// # Errors
/// When there are several; when `directory` cannot be read.
pub fn locate(directory: &Path) -> Result<PathBuf> {
    if directory.join(CONFIG).is_file() {
        return Ok(directory.to_owned());
    }
    let entries = std::fs::read_dir(directory).map_err(|e| Error::read(directory, e))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut named: Vec<PathBuf> = paths.filter(|p| p.join(CONFIG).is_file()).collect();
    named.sort();
    if named.len() > 1 {
        let names = named.iter().filter_map(|p| p.file_name());
        let names: Vec<_> = names.map(|n| n.to_string_lossy()).collect();
        let expected = format!("{CONFIG}, here or in one sub-directory");
        let found = format!("several adapters: {}", names.join(", "));
        let hint = "give the sub-directory of one of them";
        return Err(Error::content(directory, "adapter", expected, found, hint));
    }
    // Where there is none, reading it says that the file is missing.
    Ok(named.pop().unwrap_or(directory.to_owned()))
}

/// Reads the adapter that lies in `directory` itself.
fn read_in(directory: &Path) -> Result<Adapter> {
    let config = Config::read(&directory.join(CONFIG))?;
    let mut weights = Weights::open(directory)?;
    let mut modules = BTreeMap::new();
    for name in weights.left.clone() {
        let Some(path) = name.strip_suffix(".lora_A.weight") else {
            continue;
        };
        let bare = path.strip_prefix(PREFIX).unwrap_or(path);
        if !config.targets(bare) {
            let expected = "a module that its config targets";
            let hint = "PEFT ignores this tensor; correct `target_modules`, `exclude_modules` or \
                        `layers_to_transform`, or remove the tensor";
            return Err(weights.wrong(&name, expected, format!("`{bare}`"), hint));
        }
        let module = TargetModule::parse(bare).ok_or_else(|| {
            let (expected, found) = ("a linear layer of a block", format!("`{bare}`"));
            let hint = "only q, k, v, o, gate, up and down are supported";
            weights.wrong(&name, expected, found, hint)
        })?;
        let rank = config.rank(bare);
        let delta = WeightDelta {
            a: weights.take(&name, 0, rank)?,
            b: weights.take(&format!("{path}.lora_B.weight"), 1, rank)?,
            scale: config.scale(bare),
            full: None,
        };
        if modules.insert(module, delta).is_some() {
            let (found, hint) = (format!("{module} twice"), "save the adapter again");
            return Err(weights.wrong(&name, "each module once", found, hint));
        }
    }
    weights.finish()?;
    if modules.is_empty() {
        let (expected, hint) = ("at least one `lora_A.weight`", "the file holds no LoRA");
        let path = weights.path;
        return Err(Error::content(path, "tensors", expected, "none", hint));
    }
    Ok(Adapter { modules })
}

/// The tensors of the file, and which of them were not taken yet.
struct Weights {
    path: PathBuf,
    file: TensorFile,
    left: BTreeSet<String>,
}

impl Weights {
    fn open(directory: &Path) -> Result<Self> {
        let (path, pickle) = (directory.join(WEIGHTS), directory.join(PICKLE));
        if !path.exists() && pickle.exists() {
            let reason = format!(
                "reading a pickle runs code in it; if you trust it, load it with PEFT and \
                 write {WEIGHTS} with `save_pretrained`"
            );
            let what = format!("{}, a pickle,", pickle.display());
            return Err(Error::unsupported(what, reason));
        }
        let file = TensorFile::open(&path)?;
        let left = file.names().into_iter().collect();
        Ok(Self { path, file, left })
    }

    /// A factor in f32, whose dim `dim` is the rank.
    fn take(&mut self, name: &str, dim: usize, rank: usize) -> Result<Tensor> {
        let misfit = |found: String| {
            let expected = format!("a matrix whose dim {dim} is the rank {rank} of its config");
            let hint = "tensors and config belong to different adapters; save the adapter again";
            self.wrong(name, &expected, found, hint)
        };
        let info = self.file.info(name);
        let info = info.ok_or_else(|| {
            let hint = "a factor is missing; save the adapter again";
            self.wrong(name, "a tensor", "nothing".into(), hint)
        })?;
        if !matches!(info.shape[..], [_, _] if info.shape[dim] == rank) {
            return Err(misfit(format!("shape {:?}", info.shape)));
        }
        if !matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            let found = format!("{:?}", info.dtype);
            let hint = "convert the adapter to float32";
            return Err(self.wrong(name, "dtype F32, F16 or BF16", found, hint));
        }
        let tensor = self.file.tensor(name)?.to_dtype(DType::F32)?;
        // A sum of squares is finite only if all of its terms are.
        let norm = tensor.to_dtype(DType::F64)?.sqr()?.sum_all()?;
        if !norm.to_scalar::<f64>()?.is_finite() {
            let found = "NaN or infinity".into();
            let hint = "the training that wrote it has diverged";
            return Err(self.wrong(name, "finite numbers", found, hint));
        }
        self.left.remove(name);
        Ok(tensor)
    }

    /// Refuses a file that has more than A and B.
    fn finish(&self) -> Result<()> {
        let used = |name: &&String| !IGNORED.iter().any(|part| name.contains(part));
        let Some(name) = self.left.iter().find(used) else {
            return Ok(());
        };
        let kinds = [
            ("lora_magnitude_vector", "the magnitudes of DoRA"),
            ("lora_B.bias", "a bias"),
            ("lora_embedding", "a tuned embedding"),
            ("lora_B.weight", "a B without its A"),
        ];
        let found = kinds.iter().find(|(part, _)| name.contains(part));
        let found = found.map_or("another tensor", |(_, kind)| kind).to_owned();
        let expected = "only `lora_A.weight` and `lora_B.weight`";
        let hint = "only plain LoRA on linear layers is supported";
        Err(self.wrong(name, expected, found, hint))
    }

    fn wrong(&self, name: &str, expected: &str, found: String, hint: &str) -> Error {
        let place = format!("tensor `{name}`");
        Error::content(&self.path, place, expected, found, hint)
    }
}
