//! Steering and tuning on mistral.rs's own builder.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use mistralrs::{IsqType, TextModelBuilder};
//! use reptune::{Steer, Steering};
//!
//! let model = TextModelBuilder::new("meta-llama/Llama-2-13b-chat-hf")
//!     .with_isq(IsqType::Q8_0)
//!     .steered(Steering::from_file("honesty.safetensors")?.layers(11..=17).coeff(19.0))
//!     .build()
//!     .await?;
//! # Ok(())
//! # }
//! ```
//!
//! mistral.rs itself loads the model as its builder says (quantization, dtype, adapter)
//! and writes it as a UQFF. In a copy of that file the biases of [`bake`](crate::bake) are
//! set, and the same builder loads the copy. So nothing has to be said twice, and what is
//! not steered keeps its bits.
//!
//! The files are kept in the [`Store`]. What a builder was told can be read only after it
//! has loaded; so the first build loads twice, and later ones guess that nothing has
//! changed, load the copy, and look: a builder with other settings gets a file of its own.

mod biased;

mod steering;
mod variant;

pub use reptune_adapters::Dose;
pub use steering::{Part, Steering};
pub use variant::Variant;

use crate::bake::BakePlan;
use crate::error::{Error, Result};
use crate::model::hub;
use crate::model::uqff::{UQFF, UqffFile, WeightType};
use crate::model::{LlamaConfig, model_spec};
use crate::runtime::Applied;
use crate::session::model_key;
use crate::store::Store;
use candle_core::Tensor;
use mistralrs::core::{AddModelConfig, ModelSelected, Pipeline, SchedulerConfig};
use mistralrs::model_builder_trait::build_model_from_pipeline;
use mistralrs::{AnyModelBuilder, Model, ModelDType, TextModelBuilder};
use reptune_adapters::{ModelSpec, TargetModule, files, lora::peft};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Part of every key: what is written changes with these.
const VERSION: &str = concat!("mistralrs-0.8.1 reptune-", env!("CARGO_PKG_VERSION"));

/// Steering and tuning on a builder of mistral.rs.
pub trait Steer: Sized {
    /// Adds directions to the residual stream, at every token.
    fn steered(self, steering: Steering) -> Steered;

    /// Merges a PEFT directory into the weights while they load. Under steering the
    /// tuned model is what is steered.
    fn tuned(self, adapter: impl Into<PathBuf>) -> Steered;
}

impl Steer for TextModelBuilder {
    fn steered(self, steering: Steering) -> Steered {
        Steered::from(self).steered(steering)
    }

    fn tuned(self, adapter: impl Into<PathBuf>) -> Steered {
        Steered::from(self).tuned(adapter)
    }
}

impl Steer for Steered {
    fn steered(mut self, steering: Steering) -> Steered {
        self.steering = Some(match self.steering {
            Some(earlier) => earlier.and(steering),
            None => steering,
        });
        self
    }

    fn tuned(mut self, adapter: impl Into<PathBuf>) -> Steered {
        self.adapter = Some(adapter.into());
        self
    }
}

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

/// What mistral.rs makes of a builder, and what an engine is started from.
pub type Loaded = (
    Arc<tokio::sync::Mutex<dyn Pipeline>>,
    SchedulerConfig,
    AddModelConfig,
);

impl Steered {
    /// Keeps files in `cache` instead of the user's.
    pub fn with_cache(mut self, cache: Store) -> Self {
        self.cache = Some(cache);
        self
    }

    /// Loads the model and starts its engine.
    ///
    /// A `with_topology` that is not a file's is not seen when cached files are chosen:
    /// name another [`Store`] for each.
    ///
    /// # Errors
    /// Those of mistral.rs, of [`Steering::interventions`], of [`BakePlan::of`] and of
    /// [`peft::load`]; when the model is no full Llama, as adapters and steering need
    /// one; when the quantization takes no bias.
    pub async fn build(self) -> Result<Model> {
        let (pipeline, scheduler, config) = self.load().await?;
        // Its trial run blocks the thread that polls it, and takes wakes that were meant
        // for other futures there: two builds joined under one `block_on` would wait for
        // ever. So it is a task of its own.
        let starting = tokio::spawn(build_model_from_pipeline(pipeline, scheduler, config));
        starting.await.map_err(|e| Error::Runtime {
            place: "build".into(),
            reason: e.to_string(),
        })
    }

    /// Loads the model without starting an engine, as
    /// [`AnyModelBuilder::build_pipeline`] does.
    ///
    /// # Errors
    /// Those of [`Steered::build`].
    pub async fn load(self) -> Result<Loaded> {
        // The list of adapters belongs to a thread: all that loads stays on this one.
        let runtime = tokio::runtime::Handle::current();
        let loading = tokio::task::spawn_blocking(move || self.load_here(&runtime));
        loading.await.map_err(|e| Error::Runtime {
            place: "load".into(),
            reason: e.to_string(),
        })?
    }

    fn load_here(self, runtime: &tokio::runtime::Handle) -> Result<Loaded> {
        let id = AnyModelBuilder::from(self.builder.clone()).model_id();
        if self.steering.is_none() && self.adapter.is_none() {
            return load(runtime, &id, self.builder, None);
        }
        let directory = hub::resolve(&id)?;
        if !UqffFile::files(&directory)?.is_empty() {
            let hint = "merge or bake into it with the command line, and serve what comes out";
            return Err(Error::model(
                directory,
                "model",
                "full weights",
                "a UQFF",
                hint,
            ));
        }
        let spec = model_spec(&LlamaConfig::read(&directory)?, &directory)?;
        let adapter = match &self.adapter {
            Some(adapter) => Some(Adapter::read(adapter, &spec)?),
            None => None,
        };
        let biases = match &self.steering {
            Some(steering) => biases(&spec, steering)?,
            None => BTreeMap::new(),
        };
        let adapted = adapter.as_ref().map(|a| a.room.path());
        if biases.is_empty() {
            return load(runtime, &id, self.builder, adapted);
        }
        let cache = match self.cache {
            Some(cache) => cache,
            None => Store::open()?,
        };
        let identity = files::sha256([
            VERSION.as_bytes(),
            place(&directory).as_bytes(),
            model_key(&directory)?.as_bytes(),
            adapter.as_ref().map_or("", |a| &a.hash).as_bytes(),
        ]);
        let key = |settings: &str| files::sha256([identity.as_bytes(), settings.as_bytes()]);
        let from = |base: &Path, settings: &str| -> Result<(PathBuf, Loaded)> {
            let file = variant(&cache, &key(settings), base, &spec, &biases)?;
            #[allow(deprecated)] // its successor makes a builder of its own
            let builder = self.builder.clone().from_uqff(vec![file.clone()]);
            Ok((file, load(runtime, &id, builder, None)?))
        };
        // As the builder was set when it was last seen.
        if let Some(guess) = cache.note(&identity)
            && let Some(base) = cache.get(&key(&guess))
        {
            let (file, loaded) = from(&base, &guess)?;
            if settings(&loaded.2)? == guess {
                return checked(&file, loaded);
            }
        }
        let room = cache.room()?;
        let made = room.path().join("entry");
        let builder = self.builder.clone().write_uqff(made.join(UQFF));
        let settings = settings(&load(runtime, &id, builder, adapted)?.2)?;
        for file in std::fs::read_dir(&made).map_err(|e| reptune_adapters::Error::read(&made, e))? {
            let file = file
                .map_err(|e| reptune_adapters::Error::read(&made, e))?
                .path();
            // the builder finds the other weights where it found them before
            if file.extension().is_none_or(|e| e != "uqff") {
                std::fs::remove_file(&file)
                    .map_err(|e| reptune_adapters::Error::write(&file, e))?;
            }
        }
        let base = match cache.get(&key(&settings)) {
            Some(base) => base,
            None => cache.keep(&key(&settings), &made)?,
        };
        cache.keep_note(&identity, &settings)?;
        let (file, loaded) = from(&base, &settings)?;
        checked(&file, loaded)
    }
}

/// An adapter as mistral.rs reads it: one rank, one alpha, whole module paths.
struct Adapter {
    room: tempfile::TempDir,
    hash: String,
}

impl Adapter {
    /// Reads what PEFT may have written, and writes it as mistral.rs takes it: it would
    /// not see, or misread, what it does not know.
    fn read(directory: &Path, spec: &ModelSpec) -> Result<Self> {
        let update = peft::load(directory, spec)?;
        let room = tempfile::tempdir().map_err(|e| reptune_adapters::Error::write("adapter", e))?;
        peft::save(room.path(), &update, &spec.name)?;
        let mut parts = Vec::new();
        for name in ["adapter_config.json", "adapter_model.safetensors"] {
            parts.push(files::read(&room.path().join(name))?);
        }
        Ok(Self {
            hash: files::sha256(parts.iter().map(Vec::as_slice)),
            room,
        })
    }
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

/// Where a model lies, for a key.
fn place(directory: &Path) -> String {
    let real = directory.canonicalize();
    real.unwrap_or(directory.to_owned()).display().to_string()
}

/// The UQFF that is the one in `base`, kept under `key`, with `biases`.
fn variant(
    cache: &Store,
    key: &str,
    base: &Path,
    spec: &ModelSpec,
    biases: &BTreeMap<TargetModule, Tensor>,
) -> Result<PathBuf> {
    let mut parts = vec![key.as_bytes().to_vec()];
    for (module, bias) in biases {
        parts.push(module.to_string().into_bytes());
        let mut bytes = Vec::new();
        bias.write_bytes(&mut bytes)?;
        parts.push(bytes);
    }
    let key = files::sha256(parts.iter().map(Vec::as_slice));
    let entry = cache.entry(&key, |out| biased::write(base, spec, biases, out))?;
    Ok(entry.join(UQFF))
}

fn load(
    runtime: &tokio::runtime::Handle,
    id: &str,
    builder: TextModelBuilder,
    adapter: Option<&Path>,
) -> Result<Loaded> {
    let _applied = Applied::new(adapter)?;
    let loading = AnyModelBuilder::from(builder).build_pipeline();
    runtime.block_on(loading).map_err(|e| Error::Runtime {
        place: id.to_owned(),
        reason: told(&format!("{e:#}")),
    })
}

/// What mistral.rs said, without the backtrace that candle's messages end in when
/// RUST_BACKTRACE is set, and in plainer words where it is the quantization.
fn told(reason: &str) -> String {
    let said = reason.split("\n   0: ").next().unwrap_or_default();
    match said.contains("Cannot serialize non-quantized") {
        true => {
            format!("{said}: the rows of a weight do not divide into blocks of this `with_isq`")
        }
        false => said.to_owned(),
    }
}

/// All that a builder was told and that changes the weights, as it says after loading.
fn settings(config: &AddModelConfig) -> Result<String> {
    let Some(loader) = &config.loader_config else {
        return Err(Error::Runtime {
            place: "builder".into(),
            reason: "it does not say how it loaded; this needs mistral.rs 0.8.1".into(),
        });
    };
    let ModelSelected::Plain {
        arch,
        topology,
        organization,
        imatrix,
        calibration_file,
        ..
    } = &loader.model_selected
    else {
        return Err(Error::Runtime {
            place: "builder".into(),
            reason: "it loaded something else than a text model".into(),
        });
    };
    let source = (
        &loader.hf_revision,
        arch,
        topology,
        imatrix,
        calibration_file,
    );
    let organization = organization.map(|o| format!("{o:?}"));
    Ok(format!(
        "{:?} {:?} {:?} {source:?} {organization:?}",
        loader.isq, loader.dtype, loader.device
    ))
}

/// A bias is added as f32 to what hqq, afq and 8-bit floats put out, which has the model's
/// dtype: mistral.rs would say so at the first request only.
fn checked(file: &Path, loaded: Loaded) -> Result<Loaded> {
    let dtype = loaded.2.loader_config.as_ref().map(|l| l.dtype);
    let Some(uqff) = UqffFile::find(file)? else {
        return Ok(loaded);
    };
    for index in uqff.indices() {
        let entry = uqff.entry(index)?;
        let plain = matches!(entry.layout().stored, WeightType::F32 | WeightType::Ggml(_));
        if entry.layout().bias.is_some() && !plain && dtype != Some(ModelDType::F32) {
            return Err(Error::Bake {
                what: format!("into {} of this dtype", entry.layout().stored),
                reason: "mistral.rs 0.8.1 adds an f32 bias there; say \
                         `.with_dtype(ModelDType::F32)` on the builder, or take a Q type"
                    .into(),
            });
        }
    }
    Ok(loaded)
}
