//! Updates with full deltas as a file of our own, because PEFT has no form for them.
//!
//! `reptune_delta.safetensors` holds `{module}.delta` (O, I) for a weight that was
//! tuned directly, `{module}.A` (R, I) and `{module}.B` (O, R) for one with factors,
//! all F32, and as metadata the scale of each pair of factors, the model's
//! fingerprint and a hash of everything. [`crate::lora::peft::load`] reads it too.

use crate::error::{Error, Result};
use crate::formats::tables::{self, CONTENT_HASH, Table};
use crate::lora::{Adapter, WeightDelta};
use crate::model::ModelSpec;
use crate::model::TargetModule;
use candle_core::{DType, Device, Tensor};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Name of the file in its directory.
pub const FILE: &str = "reptune_delta.safetensors";

const FORMAT: &str = "reptune.delta.1";
const SCALE: &str = "scale ";

/// Writes `update` into `directory`: as PEFT where PEFT has a form for it, else as
/// [`FILE`]. What an earlier update left there in the other form is removed.
///
/// # Errors
/// Those of [`save`] and [`crate::lora::peft::save`].
pub fn save_adapter(directory: &Path, update: &Adapter, model: &ModelSpec) -> Result<()> {
    let other: &[&str] = if update.modules.values().any(|l| l.full.is_some()) {
        save(directory, update, model)?;
        &["adapter_config.json", "adapter_model.safetensors"]
    } else {
        crate::lora::peft::save(directory, update, &model.name)?;
        &[FILE]
    };
    for name in other {
        let path = directory.join(name);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::write(path, e));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Writes [`FILE`] into `directory`.
///
/// # Errors
/// When `update` has no module, or the file cannot be written.
pub fn save(directory: &Path, update: &Adapter, model: &ModelSpec) -> Result<()> {
    if update.modules.is_empty() {
        let hint = "tune some modules first";
        return Err(Error::value("update", "at least one module", "none", hint));
    }
    let (tables, mut metadata) = tables(update)?;
    for (key, value) in [
        ("format", FORMAT),
        ("model", &model.name),
        ("model_fingerprint", &model.fingerprint),
    ] {
        metadata.insert(key.to_owned(), value.to_owned());
    }
    let hash = tables::content_hash(&tables, &metadata);
    metadata.insert(CONTENT_HASH.to_owned(), hash);
    tables::write_tables(&directory.join(FILE), &tables, metadata)
}

/// Tensors of a file and their names.
pub type Tables = BTreeMap<String, Table>;

/// Metadata of a file.
pub type Metadata = HashMap<String, String>;

/// An update as tensors `{module}.A`, `{module}.B` or `{module}.delta`, and its scales as
/// metadata, for files that hold more than one update.
///
/// # Errors
/// When a factor cannot be read from its device.
pub fn tables(update: &Adapter) -> Result<(Tables, Metadata)> {
    let (mut tables, mut metadata) = (Tables::new(), Metadata::new());
    for (module, l) in &update.modules {
        if l.full.is_none() {
            metadata.insert(format!("{SCALE}{module}"), l.scale.to_string());
        }
        for (name, factor) in l.factors() {
            let table = Table {
                shape: factor.dims().to_vec(),
                data: factor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?,
            };
            tables.insert(format!("{module}.{name}"), table);
        }
    }
    Ok((tables, metadata))
}

/// Reads [`FILE`] from `directory` for `model`.
///
/// # Errors
/// When it is not of this format, was changed, or does not fit the model.
pub fn load(directory: &Path, model: &ModelSpec) -> Result<Adapter> {
    let path = directory.join(FILE);
    let (update, metadata) = whole(&path)?;
    let key = "model_fingerprint";
    let found = metadata.get(key).map_or("nothing", String::as_str);
    if found != model.fingerprint {
        return Err(Error::content(
            &path,
            format!("metadata `{key}`"),
            format!("`{}`", model.fingerprint),
            format!("`{found}`"),
            "it is no update of reptune for this model",
        ));
    }
    update.check_model(&path, model)?;
    Ok(update)
}

/// Reads [`FILE`] from `directory`, whatever model it is for.
///
/// # Errors
/// When it is not of this format, or was changed.
pub fn read(directory: &Path) -> Result<Adapter> {
    Ok(whole(&directory.join(FILE))?.0)
}

fn whole(path: &Path) -> Result<(Adapter, Metadata)> {
    let (tables, metadata) = tables::read_tables(path)?;
    let hash = tables::content_hash(&tables, &metadata);
    for (key, expected) in [("format", FORMAT), (CONTENT_HASH, hash.as_str())] {
        let found = metadata.get(key).map_or("nothing", String::as_str);
        if found != expected {
            return Err(Error::content(
                path,
                format!("metadata `{key}`"),
                format!("`{expected}`"),
                format!("`{found}`"),
                "it is no update of reptune, or it was changed",
            ));
        }
    }
    Ok((from_tables(path, tables, &metadata)?, metadata))
}

/// The update of [`tables`] again; `path` is named in messages.
///
/// # Errors
/// When a tensor or scale is missing, superfluous, or of a shape that does not fit the others.
pub fn from_tables(path: &Path, mut tables: Tables, metadata: &Metadata) -> Result<Adapter> {
    let wrong = |place: String, expected: String, found: String| {
        Error::content(path, place, expected, found, "write the update again")
    };
    let modules: Vec<(String, Option<TargetModule>)> = tables
        .keys()
        .filter_map(|name| {
            let module = name.strip_suffix(".delta").or(name.strip_suffix(".A"))?;
            Some((name.clone(), TargetModule::parse(module)))
        })
        .collect();
    let mut update = Adapter::default();
    for (name, module) in modules {
        let module = module.ok_or_else(|| {
            wrong(
                "tensors".into(),
                "a linear layer of a block".into(),
                format!("`{name}`"),
            )
        })?;
        let mut take = |name: &str, rows: Option<usize>| -> Result<Tensor> {
            let place = format!("tensor `{module}.{name}`");
            let expected = match rows {
                Some(_) => "a matrix whose rank is that of A".to_owned(),
                None => "a matrix".to_owned(),
            };
            let Some(t) = tables.remove(&format!("{module}.{name}")) else {
                return Err(wrong(place, expected, "nothing".into()));
            };
            match t.shape[..] {
                [a, b] if rows.is_none_or(|r| r == b) && a * b == t.data.len() => {
                    Ok(Tensor::from_vec(t.data, (a, b), &Device::Cpu)?)
                }
                _ => Err(wrong(place, expected, format!("shape {:?}", t.shape))),
            }
        };
        let adapter = if name.ends_with(".delta") {
            WeightDelta::direct(take("delta", None)?)?
        } else {
            let key = format!("{SCALE}{module}");
            let scale = metadata.get(&key).and_then(|s| s.parse().ok());
            let scale = scale.ok_or_else(|| {
                let found = format!("{:?}", metadata.get(&key));
                wrong(format!("metadata `{key}`"), "a number".into(), found)
            })?;
            let a = take("A", None)?;
            WeightDelta {
                b: take("B", Some(a.dims()[0]))?,
                a,
                scale,
                full: None,
            }
        };
        update.modules.insert(module, adapter);
    }
    match tables.keys().next() {
        Some(name) => Err(wrong(
            format!("tensor `{name}`"),
            "`A` and `B`, or `delta`, of each module once".into(),
            "another tensor".into(),
        )),
        None => Ok(update),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lora::peft;
    use crate::model::ModuleKind;

    fn spec() -> ModelSpec {
        ModelSpec {
            name: "small".into(),
            fingerprint: "f".into(),
            layers: 2,
            hidden: 4,
            intermediate: 6,
            heads: 2,
            kv_heads: 1,
            head_dim: 2,
            vocab: 9,
            context: 16,
        }
    }

    fn update() -> Result<Adapter> {
        let spec = spec();
        let both = [ModuleKind::VProj, ModuleKind::DownProj];
        let mut update = Adapter::init(&spec, &[1], &both, 2, 3., 5)?;
        let direct: TargetModule = *update.modules.keys().next().expect("a module");
        update.make_direct(&spec, &[direct])?;
        let (o, i) = direct.kind.shape(&spec);
        let data: Vec<f32> = (0..o * i).map(|x| (x as f32).sin()).collect();
        let delta = Tensor::from_vec(data, (o, i), &Device::Cpu)?;
        update.modules.insert(direct, WeightDelta::direct(delta)?);
        Ok(update)
    }

    fn deltas(update: &Adapter) -> Result<Vec<(TargetModule, Vec<f32>)>> {
        let delta = |(module, l): (&TargetModule, &WeightDelta)| {
            Ok((*module, l.delta()?.flatten_all()?.to_vec1()?))
        };
        update.modules.iter().map(delta).collect()
    }

    #[test]
    fn a_full_delta_is_read_back_and_peft_refuses_it() -> Result<()> {
        let room = tempfile::tempdir().expect("room");
        let update = update()?;
        let message = peft::save(room.path(), &update, "small")
            .expect_err("no form in PEFT")
            .to_string();
        assert!(
            message.contains("model.layers.1.self_attn.v_proj") && message.contains("delta_file"),
            "{message}"
        );
        save_adapter(room.path(), &update, &spec())?;
        let back = peft::load(room.path(), &spec())?;
        assert_eq!(deltas(&update)?, deltas(&back)?);
        let plain = Adapter::init(&spec(), &[0], &[ModuleKind::QProj], 2, 4., 1)?;
        save_adapter(room.path(), &plain, &spec())?;
        let back = peft::load(room.path(), &spec())?;
        assert_eq!(deltas(&plain)?, deltas(&back)?, "the other form is gone");
        Ok(())
    }

    #[test]
    fn an_update_for_another_model_or_changed_is_refused() -> Result<()> {
        let room = tempfile::tempdir().expect("room");
        save(room.path(), &update()?, &spec())?;
        let refused = |spec: &ModelSpec| load(room.path(), spec).expect_err("refused").to_string();
        let other = ModelSpec {
            fingerprint: "g".into(),
            ..spec()
        };
        assert!(refused(&other).contains("metadata `model_fingerprint`"));
        let wide = ModelSpec {
            hidden: 8,
            ..spec()
        };
        let message = refused(&wide);
        assert!(
            message.contains("v_proj`") && message.contains("(2, 8) of small"),
            "{message}"
        );
        let shallow = ModelSpec {
            layers: 1,
            ..spec()
        };
        assert!(refused(&shallow).contains("one of the 1 blocks of small"));
        let path = room.path().join(FILE);
        let mut bytes = crate::files::read(&path)?;
        *bytes.last_mut().expect("bytes") ^= 1;
        std::fs::write(&path, bytes).expect("write");
        assert!(refused(&spec()).contains("metadata `content_sha256`"));
        Ok(())
    }

    #[test]
    fn forward_and_gradient_of_a_full_delta_are_those_of_a_linear_layer() -> Result<()> {
        let x = Tensor::new(&[[1f32, 2., -1.], [0.5, -3., 2.]], &Device::Cpu)?;
        let mut update = Adapter::default();
        let module = TargetModule::parse("model.layers.0.self_attn.o_proj").expect("a module");
        let delta = Tensor::new(&[[0.1f32, 0.2, 0.3], [-1., 0., 1.]], &Device::Cpu)?;
        update
            .modules
            .insert(module, WeightDelta::direct(delta.clone())?);
        let vars = update.trainable(&Device::Cpu)?;
        assert_eq!(vars.len(), 1);
        let y = update.modules[&module].forward(&x)?;
        let by_hand = x.matmul(&delta.t()?)?;
        assert_eq!(y.to_vec2::<f32>()?, by_hand.to_vec2::<f32>()?);
        let weight = Tensor::new(&[[1f32, -2.], [3., 0.5]], &Device::Cpu)?;
        let store = (y * &weight)?.sum_all()?.backward()?;
        let gradient = store.get(vars[0].as_tensor()).expect("a gradient");
        let by_hand = weight.t()?.matmul(&x)?;
        assert_eq!(gradient.to_vec2::<f32>()?, by_hand.to_vec2::<f32>()?);
        Ok(())
    }
}
