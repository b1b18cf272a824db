//! Loads a model in mistral.rs itself. All loading goes through [`pipeline`]:
//!
//! - Adapters and the quantization of the last `with_isq` belong to the thread that loads, and
//!   mistral.rs never clears them: they are cleared before and after.
//! - A panic while it loads becomes an error.
//! - A UQFF is loaded in f32: mistral.rs does not convert what a UQFF holds unquantized, and
//!   quantized weights run under any type.
//! - Messages have no backtrace.

use super::differs::check;
use crate::error::{Error, Result, panic_text};
use crate::model::ModelDir;
use candle_core::{DType, Device};
use mistralrs::core::{AddModelConfig, Pipeline, SchedulerConfig};
use mistralrs::model_builder_trait::build_model_from_pipeline;
use mistralrs::{AnyModelBuilder, Model, ModelDType, TextModelBuilder, UqffTextModelBuilder};
use mistralrs_quant::{
    LoraAdapter, LoraConfig, ShardedSafeTensors, clear_applied_loras, clear_immediate_isq,
    push_applied_lora,
};
use reptune_adapters::files;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use tokio::runtime::Handle;

/// What mistral.rs makes of a builder, and what an engine is started from.
pub type Loaded = (
    Arc<tokio::sync::Mutex<dyn Pipeline>>,
    SchedulerConfig,
    AddModelConfig,
);

/// A builder for the files of `model`, in f32; none for one that mistral.rs would compute wrongly.
pub(crate) fn builder(model: &ModelDir) -> Result<TextModelBuilder> {
    check(model)?;
    let builder = match model.is_quantized() {
        false => TextModelBuilder::new(model.path().display()),
        true => {
            let names = model.uqff.iter().filter_map(|f| f.file_name());
            let names = names.map(Into::into).collect();
            UqffTextModelBuilder::new(model.directory.display(), names).into_inner()
        }
    };
    Ok(builder.with_dtype(ModelDType::F32))
}

/// Loads what `builder` describes, on this thread. mistral.rs merges the PEFT directory
/// `adapter` into the weights. This thread must not be one that polls tasks. What mistral.rs
/// said is an error about `place`.
pub(crate) fn pipeline(
    runtime: &Handle,
    place: &str,
    builder: TextModelBuilder,
    adapter: Option<&Path>,
) -> Result<Loaded> {
    let _adapters = ThreadAdapters::set(adapter)?;
    let loading = AnyModelBuilder::from(builder).build_pipeline();
    match catch_unwind(AssertUnwindSafe(|| runtime.block_on(loading))) {
        Ok(Ok(loaded)) => Ok(loaded),
        Ok(Err(e)) => {
            let mut reason = without_backtrace(&format!("{e:#}")).to_owned();
            if reason.contains("Cannot serialize non-quantized") {
                reason += ": the rows of a weight do not divide into blocks of this `with_isq`";
            }
            Err(failed(place, reason))
        }
        Err(panic) => {
            let text = panic_text(&*panic);
            Err(failed(place, format!("it panicked while loading: {text}")))
        }
    }
}

/// Starts the engine of a loaded model.
pub(crate) async fn start((pipeline, scheduler, config): Loaded) -> Result<Model> {
    // Its trial run blocks the thread that polls it, and takes wakes that were meant for
    // other futures there: two builds joined under one `block_on` would wait for ever. So it
    // is a task of its own.
    let starting = tokio::spawn(build_model_from_pipeline(pipeline, scheduler, config));
    starting.await.map_err(|e| failed("build", e))
}

/// Runs `work`, which blocks, on a thread of its own; a panic becomes an error about `place`.
pub(crate) async fn on_own_thread<T: Send + 'static>(
    place: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| failed(place, e))?
}

/// An [`Error::Runtime`] about the model or the request `place`.
pub(super) fn failed(place: impl Display, reason: impl Display) -> Error {
    Error::Runtime {
        place: place.to_string(),
        reason: without_backtrace(&reason.to_string()).to_owned(),
    }
}

/// A message without the backtrace that candle appends when RUST_BACKTRACE is set.
pub(crate) fn without_backtrace(reason: &str) -> &str {
    reason.split("\n   0: ").next().unwrap_or_default()
}

/// The adapters that mistral.rs merges into what this thread loads.
///
/// mistral.rs 0.8.1 takes adapters only from the hub, but its list is public and belongs to
/// the thread. It is never cleared, so the next model loaded on the thread would get the
/// adapter too; nor is the quantization of the last `with_isq`. Both are cleared when this is
/// made and when it is dropped.
struct ThreadAdapters;

impl ThreadAdapters {
    /// Leaves only the adapter of a PEFT directory on the list, or nothing.
    fn set(adapter: Option<&Path>) -> Result<Self> {
        clear();
        let adapters = Self; // cleared from here on, whatever happens
        if let Some(directory) = adapter {
            push_applied_lora(read(directory)?);
        }
        Ok(adapters)
    }
}

impl Drop for ThreadAdapters {
    fn drop(&mut self) {
        clear();
    }
}

fn clear() {
    clear_applied_loras();
    clear_immediate_isq();
}

fn read(directory: &Path) -> Result<LoraAdapter> {
    let path = directory.join("adapter_config.json");
    let config = serde_json::from_slice::<LoraConfig>(&files::read(&path)?);
    let config = config.map_err(|e| failed(path.display(), e))?;
    let path = directory.join("adapter_model.safetensors");
    let tensors = candle_core::safetensors::load(&path, &Device::Cpu);
    let tensors = Box::new(tensors.map_err(|e| failed(path.display(), e))?);
    let weights = ShardedSafeTensors::wrap(tensors, DType::F32, Device::Cpu);
    Ok(LoraAdapter { config, weights })
}
