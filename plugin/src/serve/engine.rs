//! mistral.rs's engine over a directory of files, as the server holds it.

use crate::error::{Error, Result};
use crate::model::uqff::UqffFile;
use crate::runtime::Applied;
use mistralrs::{AnyModelBuilder, ModelDType, TextModelBuilder, UqffTextModelBuilder};
use mistralrs_core::{MistralRs, MistralRsBuilder};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::Mutex;

/// An engine of mistral.rs, and whose turn it is.
#[derive(Clone)]
pub struct Engine {
    /// The engine.
    pub mistralrs: Arc<MistralRs>,
    /// Held by the request that is being answered. mistral.rs 0.8.1 mixes up sequences of
    /// different lengths that it computes at the same time on a CPU: of requests to one model
    /// at once some get answers that none of them gets alone. So they take turns.
    pub turn: Arc<Mutex<()>>,
}

/// Loads a Hugging Face or UQFF directory, or a `.uqff` file.
///
/// As f32: mistral.rs does not convert what a UQFF holds unquantized, and quantized
/// weights run under any type. Must be called on a thread of its own within a tokio
/// runtime, as loading blocks.
///
/// # Errors
/// [`Error::Runtime`] with what mistral.rs said.
pub fn load(path: &Path) -> Result<Engine> {
    let failed = |reason: String| Error::Runtime {
        place: path.display().to_string(),
        reason,
    };
    let files = UqffFile::files(path)?;
    let builder = match files.first() {
        None => TextModelBuilder::new(path.display()),
        Some(file) => {
            let directory = file.parent().unwrap_or(Path::new("."));
            let names = files.iter().filter_map(|f| f.file_name());
            UqffTextModelBuilder::new(directory.display(), names.map(Into::into).collect())
                .into_inner()
        }
    };
    let builder = AnyModelBuilder::from(builder.with_dtype(ModelDType::F32));
    // Whatever was loaded on this thread before leaves nothing behind.
    let _applied = Applied::new(None)?;
    let runtime = tokio::runtime::Handle::try_current().map_err(|e| failed(e.to_string()))?;
    runtime.block_on(async {
        let (pipeline, scheduler, config) = builder
            .build_pipeline()
            .await
            .map_err(|e| failed(format!("{e:#}")))?;
        let engine = config.engine_config;
        let mistralrs =
            MistralRsBuilder::new(pipeline, scheduler, engine.throughput_logging_enabled, None)
                .with_no_kv_cache(engine.no_kv_cache)
                .with_no_prefix_cache(engine.no_prefix_cache)
                .with_prefix_cache_n(engine.prefix_cache_n)
                .build()
                .await;
        Ok(Engine {
            mistralrs,
            turn: Arc::default(),
        })
    })
}

/// Bytes of the weights that [`load`] holds in memory.
///
/// # Errors
/// When the directory cannot be read.
pub fn bytes(path: &Path) -> Result<u64> {
    let directory = match path.is_file() {
        true => path.parent().unwrap_or(Path::new(".")),
        false => path,
    };
    let io = |e| reptune_adapters::Error::read(directory, e);
    let uqff = UqffFile::files(path)?;
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory).map_err(io)? {
        let file = entry.map_err(io)?.path();
        let tensors = file.extension().is_some_and(|e| e == "safetensors");
        if tensors || uqff.contains(&file) {
            bytes += std::fs::metadata(&file).map_err(io)?.len();
        }
    }
    // full weights are converted to f32
    let full = uqff.is_empty() && half(directory);
    Ok(if full { 2 * bytes } else { bytes })
}

/// Whether the configuration says that the weights have 16 bits.
fn half(directory: &Path) -> bool {
    let text = std::fs::read(directory.join("config.json")).unwrap_or_default();
    let config: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    let kind = config["torch_dtype"].as_str().or(config["dtype"].as_str());
    kind.is_some_and(|k| k.ends_with("16"))
}
