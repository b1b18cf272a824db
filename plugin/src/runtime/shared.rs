//! An engine of mistral.rs that many requests share, as the server holds it.

use super::differs::check;
use super::load::{self, failed};
use super::view::EngineView;
use crate::error::Result;
use crate::model::{ModelConfig, ModelDir};
use mistralrs_core::{MistralRs, MistralRsBuilder};
use reptune_adapters::Error as Fault;
use reptune_recipes::Chat;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::Mutex;

/// An engine of mistral.rs and the lock that orders its requests.
#[derive(Clone)]
pub struct SharedEngine {
    /// The engine.
    pub mistralrs: Arc<MistralRs>,
    /// Held by the request that is being answered. mistral.rs 0.8.1 mixes up sequences of
    /// different lengths that it computes at the same time on a CPU: of requests to one model
    /// at once some get answers that none of them gets alone. So they take turns.
    pub turn: Arc<Mutex<()>>,
    /// The tokenizer and chat template: prompts are rendered with it, never by the engine.
    pub chat: Arc<Chat>,
    /// Most tokens of a prompt with its answer.
    pub context: usize,
}

impl SharedEngine {
    /// Loads the model at `path` in f32. Must be called on a thread of its own within a tokio
    /// runtime, because loading blocks.
    ///
    /// # Errors
    /// [`Error::Runtime`](crate::Error::Runtime) with what mistral.rs said.
    pub fn load(path: &Path) -> Result<Self> {
        let place = path.display().to_string();
        let runtime = tokio::runtime::Handle::try_current();
        let runtime = runtime.map_err(|e| failed(&place, e))?;
        let model = ModelDir::at(path)?;
        check(&model)?;
        let chat = Chat::load(&model.directory)?;
        let view = EngineView::of(&model, &chat)?;
        let builder = load::builder(&view.model)?;
        let (pipeline, scheduler, config) = load::pipeline(&runtime, &place, builder, None)?;
        let engine = config.engine_config;
        let starting =
            MistralRsBuilder::new(pipeline, scheduler, engine.throughput_logging_enabled, None)
                .with_no_kv_cache(engine.no_kv_cache)
                .with_no_prefix_cache(engine.no_prefix_cache)
                .with_prefix_cache_n(engine.prefix_cache_n)
                .build();
        let mistralrs = runtime.block_on(starting);
        let context = mistralrs.max_sequence_length(None).ok().flatten();
        Ok(Self {
            mistralrs,
            turn: Arc::default(),
            chat: Arc::new(chat),
            context: context.unwrap_or(usize::MAX),
        })
    }

    /// Bytes of the weights that [`SharedEngine::load`] holds in memory.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn bytes(path: &Path) -> Result<u64> {
        let model = ModelDir::at(path)?;
        let mut bytes = 0;
        for file in model.weights()? {
            let length = std::fs::metadata(&file).map_err(|e| Fault::read(file, e))?;
            bytes += length.len();
        }
        // full weights are converted to f32
        let half =
            !model.is_quantized() && ModelConfig::read(&model.directory).is_ok_and(|c| c.is_half());
        Ok(if half { 2 * bytes } else { bytes })
    }
}
