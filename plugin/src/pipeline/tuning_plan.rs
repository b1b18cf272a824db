//! What tuning a recipe needs, before any weight is read.

use crate::decoder::parse_isq;
use crate::error::{Error, Result};
use crate::model::ModelDir;
use candle_core::quantized::GgmlDType;
use reptune_adapters::model::ModuleKind;
use reptune_adapters::{GradientCheckpointing, ModelSpec};
use reptune_recipes::activation_cache::CacheStorage;
use reptune_recipes::data::{Claim, Items};
use reptune_recipes::plan::TuningPlan;
use reptune_recipes::recipe::Mode;
use reptune_recipes::tune::memory::TuningSize;
use reptune_recipes::tune::{Objective, TuningPrompt};
use reptune_recipes::{Chat, Recipe};
use std::path::Path;

/// What tuning needs, mode by mode.
pub struct Planned {
    /// The model.
    pub spec: ModelSpec,
    /// Its parameters.
    pub parameters: u64,
    /// Bytes of its weights in memory.
    pub weights: u64,
    /// Floating-point operations a second, if they were measured.
    pub rate: Option<f64>,
    /// One plan for each mode.
    pub modes: Vec<ModePlan>,
}

/// What tuning one mode needs.
pub struct ModePlan {
    /// The mode.
    pub mode: Mode,
    /// The counts.
    pub plan: TuningPlan,
    /// Whether the activation cache is kept on disk.
    pub cache_on_disk: bool,
    /// Whether blocks are computed again in the backward pass.
    pub checkpointing: bool,
}

/// Counts what tuning the recipe in `file` needs on the model in `directory`, for all its
/// modes or one; reads config.json and the tokenizer, but no weights.
///
/// # Errors
/// When recipe, data or model directory is wrong, or the recipe does not tune `only`.
pub fn plan(
    file: &Path,
    model: Option<&str>,
    only: Option<Mode>,
    quantize: Option<&str>,
    rate: Rate,
) -> Result<Planned> {
    let recipe = Recipe::read(file)?;
    let items = Items::read(&recipe)?;
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
    let (parameters, weights) = (blocks + rest, (blocks as f64 * bits / 8.) as u64 + 4 * rest);
    let wanted = |mode: &&Mode| only.is_none_or(|only| only == **mode);
    let (mut modes, mut measured) = (Vec::new(), None);
    for &mode in recipe.tuning.modes.iter().filter(wanted) {
        let size = TuningSize {
            spec: &spec,
            tuning: &recipe.tuning,
            reads_rows: Objective::of(mode).reads_rows(),
            train: &train,
            validation: &validation,
            seed: recipe.seed,
        };
        if rate == Rate::Measured && measured.is_none() {
            measured = Some(size.rate()?);
        }
        let within = size.within_budget();
        modes.push(ModePlan {
            mode,
            plan: TuningPlan::of(&size),
            cache_on_disk: within.cache == CacheStorage::Disk,
            checkpointing: within.activations == GradientCheckpointing::On,
        });
    }
    if modes.is_empty() {
        let names: Vec<&str> = recipe.tuning.modes.iter().map(|m| m.name()).collect();
        let (expected, hint) = (
            format!("one of {}", names.join(", ")),
            "add it to the recipe",
        );
        let found = only.map_or("none".to_owned(), |mode| format!("`{mode}`"));
        return Err(Error::model(
            file,
            "key `tuning.modes`",
            expected,
            found,
            hint,
        ));
    }
    Ok(Planned {
        spec,
        parameters,
        weights,
        rate: measured,
        modes,
    })
}

/// Whether the speed of this machine is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    /// No.
    Unknown,
    /// Yes, on blocks of the model's shape.
    Measured,
}

/// Parameters of the linear layers, which a quantization changes, and of the rest.
fn sizes(spec: &ModelSpec, tied: bool) -> (u64, u64) {
    let (h, v) = (spec.hidden as u64, spec.vocab as u64);
    let matrix = |p: &ModuleKind| {
        let (o, i) = p.shape(spec);
        (o * i) as u64
    };
    let block: u64 = ModuleKind::ALL.iter().map(matrix).sum();
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
