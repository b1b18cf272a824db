//! [`Steer`]: steering and tuning as methods of mistral.rs's own builder.

use super::steering::Steering;
use crate::bake::BakePlan;
use crate::error::{Error, Result};
use crate::model::ModelDir;
use crate::model::uqff::{self, UQFF, UqffFile, WeightType};
use crate::runtime::{Loaded, check, on_own_thread, pipeline, start};
use crate::store::{ADDED, Store, StoreKey};
use candle_core::Tensor;
use mistralrs::core::{AddModelConfig, ModelSelected};
use mistralrs::{AnyModelBuilder, Model, ModelDType, TextModelBuilder};
use reptune_adapters::formats::safetensors::TensorFileWriter;
use reptune_adapters::{Error as Fault, ModelSpec, TargetModule, files, lora::peft};
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Steering and tuning on a builder of mistral.rs.
pub trait Steer: Into<Steered> {
    /// Adds directions to the residual stream, at every token.
    fn steered(self, steering: Steering) -> Steered {
        let mut all = self.into();
        all.steering = Some(match all.steering {
            Some(earlier) => earlier.and(steering),
            None => steering,
        });
        all
    }

    /// Merges a PEFT directory into the weights while they load. Under steering the
    /// tuned model is what is steered.
    fn tuned(self, adapter: impl Into<PathBuf>) -> Steered {
        let adapter = Some(adapter.into());
        Steered {
            adapter,
            ..self.into()
        }
    }
}

impl Steer for TextModelBuilder {}
impl Steer for Steered {}

/// A builder of mistral.rs with what is to be added to its model.
#[derive(Clone)]
pub struct Steered {
    builder: TextModelBuilder,
    steering: Option<Steering>,
    adapter: Option<PathBuf>,
    cache: Option<Store>,
}

impl From<TextModelBuilder> for Steered {
    fn from(builder: TextModelBuilder) -> Self {
        Self {
            builder,
            steering: None,
            adapter: None,
            cache: None,
        }
    }
}

impl Steered {
    /// Keeps files in `cache` instead of the user's.
    pub fn with_cache(mut self, cache: Store) -> Self {
        self.cache = Some(cache);
        self
    }

    /// Loads the model and starts its engine.
    ///
    /// Cached files do not depend on a `with_topology` that was not read from a file: give each
    /// such topology a [`Store`] of its own.
    ///
    /// # Errors
    /// Those of mistral.rs, of [`Steering::interventions`], of
    /// [`BakePlan::of`](crate::bake::BakePlan::of) and of
    /// [`peft::load`](reptune_adapters::lora::peft::load); when the model is not a Llama with
    /// full weights, which adapters and steering need; when the quantization takes no bias.
    pub async fn build(self) -> Result<Model> {
        start(self.load().await?).await
    }

    /// Loads the model without starting an engine, as
    /// [`AnyModelBuilder::build_pipeline`] does.
    ///
    /// # Errors
    /// Those of [`Steered::build`].
    pub async fn load(self) -> Result<Loaded> {
        let runtime = tokio::runtime::Handle::current();
        on_own_thread("load", move || self.load_here(&runtime)).await
    }

    fn load_here(self, runtime: &tokio::runtime::Handle) -> Result<Loaded> {
        let id = AnyModelBuilder::from(self.builder.clone()).model_id();
        if self.steering.is_none() && self.adapter.is_none() {
            return pipeline(runtime, &id, self.builder, None);
        }
        let model = ModelDir::resolve(&id)?;
        if model.is_quantized() {
            let (expected, found) = ("full weights", "a UQFF");
            let hint = "merge or bake into it with the command line, and serve what comes out";
            return Err(Error::model(model.path(), "model", expected, found, hint));
        }
        check(&model)?;
        let (_, spec) = model.config()?;
        let adapter = self.adapter.as_ref().map(|a| rewritten(a, &spec));
        let adapter = adapter.transpose()?;
        let biases = self.steering.as_ref().map(|s| biases(&spec, s));
        let biases = biases.transpose()?.unwrap_or_default();
        let adapted = adapter.as_ref().map(|(directory, _)| directory.path());
        if biases.is_empty() {
            return pipeline(runtime, &id, self.builder, adapted);
        }
        let cache = self.cache.map_or_else(Store::open, Ok)?;
        let place = model.path().display();
        let hash = adapter.as_ref().map_or("", |(_, hash)| hash);
        let weights = model.key(Some(&cache))?;
        let parts = [weights.as_str(), hash];
        let identity = StoreKey::new(format!("{place}, steered on a builder"), parts);
        let key = |settings: &str| identity.and(settings);
        let mut written = Vec::new();
        for (module, bias) in &biases {
            written.extend(module.to_string().into_bytes());
            bias.write_bytes(&mut written)?;
        }
        let dose = format!("{ADDED}{}.uqff", &files::sha256([written.as_slice()])[..16]);
        let from = |base: &Path| -> Result<(PathBuf, Loaded)> {
            let mut weights = base_files(base)?;
            let write = |out: &Path| write_biases(&weights, &spec, &biases, out);
            let file = cache.added(base, &dose, write)?;
            // of an entry that two files have, mistral.rs takes that of the later one
            weights.push(file.clone());
            #[allow(deprecated)] // its successor makes a builder of its own
            let builder = self.builder.clone().from_uqff(weights);
            Ok((file, pipeline(runtime, &id, builder, None)?))
        };
        // As the builder was set when it was last seen.
        if let Some(guess) = cache.note(&identity)
            && let Some(base) = cache.get(&key(&guess))
        {
            let (file, loaded) = from(&base)?;
            if settings(&loaded.2)? == guess {
                return checked(&file, loaded);
            }
        }
        let temporary = cache.temporary()?;
        let made = temporary.path().join("entry");
        let builder = self.builder.clone().write_uqff(made.join(UQFF));
        let settings = settings(&pipeline(runtime, &id, builder, adapted)?.2)?;
        keep_only_uqff(&made)?;
        let key = key(&settings);
        let keep = || cache.keep(&key, &made);
        let base = cache.get(&key).map_or_else(keep, Ok)?;
        cache.keep_note(&identity, &settings)?;
        let (file, loaded) = from(&base)?;
        checked(&file, loaded)
    }
}

/// A PEFT directory rewritten as mistral.rs reads one (one rank, one alpha, whole module paths),
/// because it would misread what it does not know; and the hash of both files.
fn rewritten(directory: &Path, spec: &ModelSpec) -> Result<(TempDir, String)> {
    let update = peft::load(directory, spec)?;
    let written = files::temporary_directory(&std::env::temp_dir())?;
    peft::save(written.path(), &update, &spec.name)?;
    let file = |name: &str| files::read(&written.path().join(name));
    let parts = [
        file("adapter_config.json")?,
        file("adapter_model.safetensors")?,
    ];
    let hash = files::sha256(parts.iter().map(Vec::as_slice));
    Ok((written, hash))
}

/// The biases that steer, without those that are zero.
fn biases(spec: &ModelSpec, steering: &Steering) -> Result<BTreeMap<TargetModule, Tensor>> {
    let plan = BakePlan::of(spec, &steering.interventions(spec)?)?;
    if plan.embeddings.is_some() {
        return Err(Error::Bake {
            what: "an addition at the input of layer 0".into(),
            reason: "that is in the embeddings, which the builder loads as they are; \
                     use `reptune bake`, or another layer"
                .into(),
        });
    }
    let mut left = BTreeMap::new();
    for (module, bias) in plan.biases {
        if bias.to_vec1::<f32>()?.iter().any(|x| *x != 0.) {
            left.insert(module, bias);
        }
    }
    Ok(left)
}

/// The `.uqff` files that mistral.rs wrote to `directory`, without those of doses.
fn base_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let listing = std::fs::read_dir(directory).map_err(|e| Fault::read(directory, e))?;
    let paths = listing.filter_map(|file| Some(file.ok()?.path()));
    let is_base = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(".uqff") && !name.starts_with(ADDED)
    };
    let mut files: Vec<PathBuf> = paths.filter(is_base).collect();
    files.sort();
    Ok(files)
}

/// Writes to the file `out` the entries of the UQFF files `from` that get one of `biases`, each
/// (H,), with it. The weights are copied as they are, one at a time.
///
/// # Errors
/// When `from` is no UQFF of this Llama, a type takes no bias, or the disk is full.
fn write_biases(
    from: &[PathBuf],
    spec: &ModelSpec,
    biases: &BTreeMap<TargetModule, Tensor>,
    out: &Path,
) -> Result<()> {
    let mut shards = Vec::new();
    for path in from {
        shards.extend(UqffFile::find(path)?.map(|file| (path, file)));
    }
    let names: Vec<String> = biases.keys().map(|m| place(m).to_string()).collect();
    files::replace(out, |temporary| {
        let shown = names.iter().map(String::as_str);
        let mut writer = TensorFileWriter::create((temporary, out), shown, 0)?;
        for (module, bias) in biases {
            let index = place(module);
            let mut of_index = shards.iter();
            let shard = of_index.find(|(_, file)| file.indices().any(|i| i == index));
            let Some((path, file)) = shard else {
                let (what, hint) = (format!("entry {index}"), "mistral.rs wrote none");
                return Err(Error::model(out, what, "an entry of a UQFF", "none", hint));
            };
            let entry = file.entry(index)?;
            let (shape, expected) = (entry.layout().shape, module.kind.shape(spec));
            if shape != expected {
                let place = format!("tensor `{index}`");
                let (expected, found) = (format!("{expected:?}"), format!("{shape:?}"));
                let hint = "its linear layers are not those of its config.json";
                return Err(Error::model(*path, place, expected, found, hint));
            }
            let entry = entry.plus_bias(bias)?;
            let bytes = entry.bytes();
            writer.push(&index.to_string(), Dtype::U8, &[bytes.len()], bytes)?;
        }
        writer.finish(BTreeMap::new())?;
        Ok(())
    })
}

/// The number of a module in a UQFF.
fn place(module: &TargetModule) -> usize {
    uqff::index(module.layer, module.kind)
}

/// Removes what mistral.rs writes next to a UQFF: the builder finds the other weights where it
/// found them before.
fn keep_only_uqff(directory: &Path) -> Result<()> {
    let io = |e| Fault::read(directory, e);
    for file in std::fs::read_dir(directory).map_err(io)? {
        let file = file.map_err(io)?.path();
        if file.extension().is_none_or(|e| e != "uqff") {
            std::fs::remove_file(&file).map_err(|e| Fault::write(&file, e))?;
        }
    }
    Ok(())
}

/// The settings of a builder that change the weights, as they can be read after loading.
fn settings(config: &AddModelConfig) -> Result<String> {
    let wrong = |reason: &str| Error::Runtime {
        place: "builder".into(),
        reason: reason.into(),
    };
    let loader = config.loader_config.as_ref();
    let loader = loader
        .ok_or_else(|| wrong("it does not say how it loaded; this needs mistral.rs 0.8.1"))?;
    let ModelSelected::Plain {
        arch,
        topology,
        organization,
        imatrix,
        calibration_file,
        ..
    } = &loader.model_selected
    else {
        return Err(wrong("it loaded something else than a text model"));
    };
    let revision = &loader.hf_revision;
    let source = (revision, arch, topology, imatrix, calibration_file);
    let organization = organization.map(|o| format!("{o:?}"));
    let (isq, dtype, device) = (loader.isq, loader.dtype, &loader.device);
    Ok(format!(
        "{isq:?} {dtype:?} {device:?} {source:?} {organization:?}"
    ))
}

/// A bias is added as f32 to what hqq, afq and 8-bit floats put out, which has the model's
/// dtype: mistral.rs would say so at the first request only.
fn checked(file: &Path, loaded: Loaded) -> Result<Loaded> {
    let dtype = loaded.2.loader_config.as_ref().map(|l| l.dtype);
    let Some(uqff) = ModelDir::at(file)?.open_uqff()? else {
        return Ok(loaded);
    };
    for index in uqff.indices() {
        let entry = uqff.entry(index)?;
        let stored = entry.layout().stored;
        let plain = matches!(stored, WeightType::F32 | WeightType::Ggml(_));
        if entry.layout().bias.is_some() && !plain && dtype != Some(ModelDType::F32) {
            return Err(Error::Bake {
                what: format!("into {stored} of this dtype"),
                reason: "mistral.rs 0.8.1 adds an f32 bias there; say \
                         `.with_dtype(ModelDType::F32)` on the builder, or take a Q type"
                    .into(),
            });
        }
    }
    Ok(loaded)
}
