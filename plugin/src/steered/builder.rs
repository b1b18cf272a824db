//! [`Steer`]: steering and tuning as methods of mistral.rs's own builder.

use super::adapter::Adapter;
use super::biases::{biases, variant};
use super::steering::Steering;
use crate::error::{Error, Result};
use crate::model::ModelDir;
use crate::model::uqff::{UQFF, WeightType};
use crate::runtime::{Loaded, on_own_thread, pipeline, start};
use crate::store::{Store, StoreKey};
use mistralrs::core::{AddModelConfig, ModelSelected};
use mistralrs::{AnyModelBuilder, Model, ModelDType, TextModelBuilder};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

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
        let (_, spec) = model.config()?;
        let adapter = match &self.adapter {
            Some(adapter) => Some(Adapter::read(adapter, &spec)?),
            None => None,
        };
        let biases = match &self.steering {
            Some(steering) => biases(&spec, steering)?,
            None => BTreeMap::new(),
        };
        let adapted = adapter.as_ref().map(Adapter::directory);
        if biases.is_empty() {
            return pipeline(runtime, &id, self.builder, adapted);
        }
        let cache = match self.cache {
            Some(cache) => cache,
            None => Store::open()?,
        };
        let place = model.path().display();
        let identity = StoreKey::new(
            format!("{place}, steered on a builder"),
            [
                model.key()?.as_str(),
                adapter.as_ref().map_or("", |a| &a.hash),
            ],
        );
        let key = |settings: &str| identity.and(settings);
        let from = |base: &Path, settings: &str| -> Result<(PathBuf, Loaded)> {
            let file = variant(&cache, &key(settings), base, &spec, &biases)?;
            #[allow(deprecated)] // its successor makes a builder of its own
            let builder = self.builder.clone().from_uqff(vec![file.clone()]);
            Ok((file, pipeline(runtime, &id, builder, None)?))
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
        let temporary = cache.temporary()?;
        let made = temporary.path().join("entry");
        let builder = self.builder.clone().write_uqff(made.join(UQFF));
        let settings = settings(&pipeline(runtime, &id, builder, adapted)?.2)?;
        keep_only_uqff(&made)?;
        let base = match cache.get(&key(&settings)) {
            Some(base) => base,
            None => cache.keep(&key(&settings), &made)?,
        };
        cache.keep_note(&identity, &settings)?;
        let (file, loaded) = from(&base, &settings)?;
        checked(&file, loaded)
    }
}

/// Removes what mistral.rs writes beside a UQFF: the builder finds the other weights where it
/// found them before.
fn keep_only_uqff(directory: &Path) -> Result<()> {
    let io = |e| reptune_adapters::Error::read(directory, e);
    for file in std::fs::read_dir(directory).map_err(io)? {
        let file = file.map_err(io)?.path();
        if file.extension().is_none_or(|e| e != "uqff") {
            std::fs::remove_file(&file).map_err(|e| reptune_adapters::Error::write(&file, e))?;
        }
    }
    Ok(())
}

/// The settings of a builder that change the weights, as they can be read after loading.
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
    let Some(uqff) = ModelDir::at(file)?.open_uqff()? else {
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
