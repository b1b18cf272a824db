//! What tuning a recipe needs, before any weight is read.

use crate::error::{Error, Result};
use crate::{decoder::parse_isq, model::ModelDir, progress};
use candle_core::quantized::GgmlDType;
use reptune_adapters::{GradientCheckpointing, ModelSpec, model::ModuleKind};
use reptune_recipes::data::{Claim, Items};
use reptune_recipes::tune::{TuningPrompt, memory::TuningSize};
use reptune_recipes::{
    Chat, Recipe, activation_cache::CacheStorage, plan::TuningPlan, recipe::Mode,
};
use serde::Serialize;
use std::path::Path;

/// What tuning needs, mode by mode.
#[derive(Serialize)]
pub struct Planned {
    pub model: String,
    #[serde(skip)]
    pub spec: ModelSpec,
    pub parameters: u64,
    /// Bytes of its weights in memory.
    pub weights: u64,
    /// Floating-point operations a second, if they were measured.
    #[serde(rename = "operations_per_second")]
    pub rate: Option<f64>,
    pub modes: Vec<ModePlan>,
}

/// What tuning one mode needs.
#[derive(Serialize)]
pub struct ModePlan {
    pub mode: Mode,
    pub plan: TuningPlan,
    pub cache_on_disk: bool,
    /// Whether blocks are computed again in the backward pass.
    pub gradient_checkpointing: bool,
    /// The estimated time, if the speed was measured.
    pub seconds: Option<f64>,
}

/// Counts what tuning the recipe in `file` needs on the model in `directory`, for all its
/// modes or one; reads config.json and the tokenizer, but no weights. With `measure`, measures
/// how fast this machine is.
pub fn plan(
    file: &Path,
    model: Option<&str>,
    only: Option<Mode>,
    quantize: Option<&str>,
    measure: bool,
) -> Result<Planned> {
    let recipe = Recipe::read(file)?;
    let items = Items::read(&recipe)?;
    items.notes.iter().for_each(progress::line);
    let directory = Path::new(model.unwrap_or(&recipe.model));
    if !directory.is_dir() {
        let expected = "a directory with config.json and tokenizer.json";
        let hint = "weights are not needed";
        return Err(Error::model(directory, "model", expected, "none", hint));
    }
    let (config, spec) = ModelDir::at(directory)?.config()?;
    spec.check_layers(&recipe.tuning.layers)?;
    let chat = Chat::load(directory)?;
    let prompts = |claims: &[Claim]| {
        let all = claims.iter().map(|c| TuningPrompt::new(&chat, &recipe, c));
        all.collect::<reptune_recipes::Result<Vec<_>>>()
    };
    let (train, validation) = (prompts(&items.train)?, prompts(&items.validation)?);
    let (blocks, rest) = sizes(&spec, config.tie_word_embeddings);
    let bits = quantize.map_or(Ok(32.), bits)?;
    let mut planned = Planned {
        parameters: blocks + rest,
        weights: (blocks as f64 * bits / 8.) as u64 + 4 * rest,
        rate: None,
        modes: Vec::new(),
        model: spec.name.clone(),
        spec,
    };
    for mode in only.map_or(recipe.tuning.modes.clone(), |only| vec![only]) {
        let size = TuningSize {
            spec: &planned.spec,
            tuning: &recipe.tuning,
            train: &train,
            validation: &validation,
            seed: recipe.seed,
        };
        if measure && planned.rate.is_none() {
            planned.rate = Some(size.rate()?);
        }
        let (within, plan) = (size.within_budget(), TuningPlan::of(&size));
        planned.modes.push(ModePlan {
            mode,
            seconds: planned.rate.map(|rate| plan.work.total() / rate),
            plan,
            cache_on_disk: within.cache == CacheStorage::Disk,
            gradient_checkpointing: within.activations == GradientCheckpointing::On,
        });
    }
    Ok(planned)
}

/// Parameters of the linear layers, which a quantization changes, and of the rest.
fn sizes(spec: &ModelSpec, tied: bool) -> (u64, u64) {
    let (h, v) = (spec.hidden as u64, spec.vocab as u64);
    let shapes = ModuleKind::ALL.iter().map(|kind| kind.shape(spec));
    let block: u64 = shapes.map(|(o, i)| (o * i) as u64).sum();
    let layers = spec.layers as u64;
    let head = if tied { 0 } else { v * h };
    (layers * block + head, v * h + h + layers * 2 * h)
}

/// Bits of a weight in a quantized type.
fn bits(name: &str) -> Result<f64> {
    let dtype = GgmlDType::try_from(parse_isq(name)?).map_err(|_| {
        let (found, hint) = (format!("`{name}`"), "its size is not known in advance");
        reptune_adapters::Error::value("--quantize", "a ggml type such as q8_0", found, hint)
    })?;
    Ok(8. * dtype.type_size() as f64 / dtype.block_size() as f64)
}
