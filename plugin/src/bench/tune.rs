//! A tuning, step by step.

use super::work::{self, Item, LABELS, Lengths, TuneWork};
use super::{loaded, peak_bytes};
use crate::error::Result;
use crate::llama::LoadOptions;
use candle_core::DType;
use reptune_adapters::lora::loss::{Label, Mode, Representation};
use reptune_adapters::{Adapter, Error, HookedModel, ModelSpec, lora::peft};
use reptune_recipes::plan::{Plan, Tuned};
use reptune_recipes::recipe::Tuning;
use reptune_recipes::tune::{Metrics, Prompt, Tuner};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Instant;

/// What a tuning is made of, where its directory does not hold it yet.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What is trained.
    pub mode: Mode,
    /// How.
    pub tuning: Tuning,
    /// Claims that are trained on.
    pub claims: usize,
    /// Claims for validation.
    pub validation: usize,
    /// Lengths of prompts; where both letters count, the letter is one of the tokens.
    pub lengths: Lengths,
    /// Leading steps whose time does not count.
    pub warm_up: usize,
    /// Of prompts, directions and factors.
    pub seed: u64,
}

/// Directory of the factors that a tuning starts with.
const ADAPTER: &str = "adapter";

/// Tunes as the workload in `directory` says, which is made of `settings` if it is not
/// there.
///
/// # Errors
/// When the model cannot be loaded, the workload is of another kind, or a step fails.
pub fn tune(
    model: &Path,
    options: LoadOptions,
    directory: &Path,
    settings: &Settings,
) -> Result<Value> {
    // A plan's rate is that of products on the CPU in f32.
    let planned = options.device.is_cpu() && options.dtype == DType::F32;
    let (llama, load_seconds) = loaded(model, options)?;
    let spec = llama.spec();
    let (work, directions) = work::read_or_make(directory, |directory| {
        make(spec, settings, &llama, directory)
    })?;
    let Some(directions) = directions else {
        return Err(missing(directory, "directions.safetensors").into());
    };
    let prompts = |items: &[Item]| items.iter().map(Item::prompt).collect::<Vec<Prompt>>();
    let data = [prompts(&work.items), prompts(&work.validation)];
    let tuner = Tuner::of(
        &llama,
        &work.tuning,
        work.mode,
        &directions,
        data,
        work.seed,
    )?;
    let update: Adapter = peft::load(&directory.join(ADAPTER), spec)?;
    let metrics = directory.join("metrics.jsonl");
    let mut losses = Vec::new();
    let mut validation = Vec::new();
    let mut times = Vec::new();
    let mut begun = Instant::now();
    tuner.tune(update, &metrics, &mut |m: &Metrics| {
        times.push(begun.elapsed().as_secs_f64());
        losses.push(json!([m.token_loss, m.representation_loss]));
        if let (Some(token), false) = (m.validation_token_loss, work.validation.is_empty()) {
            validation.push(json!([token, m.validation_representation_loss]));
        }
        begun = Instant::now();
    })?;
    // before the rate is measured, which holds weights of its own
    let peak = peak_bytes();
    let timed = &times[work.warm_up.min(times.len())..];
    let seconds: f64 = timed.iter().sum();
    let steps = work.steps.iter().skip(work.warm_up);
    let (train, held_out) = (prompts(&work.items), prompts(&work.validation));
    let tuned = Tuned {
        spec,
        parameters: 0,
        weights: weight_bytes(model)?,
        tuning: &work.tuning,
        representation: work.representation.is_some(),
        train: &train,
        validation: &held_out,
        seed: work.seed,
    };
    let plan = Plan::of(&tuned);
    let rate = match planned {
        true => Some(tuned.rate()?),
        false => None,
    };
    let flop = plan.work.steps / plan.steps.max(1) as f64;
    let doubled = if work.label == "soft" { 2 } else { 1 };
    let done = doubled * steps.map(Vec::len).sum::<usize>();
    Ok(json!({
        "work": "tune", "seconds": seconds, "steps": timed.len(),
        "seconds_per_step": median(timed), "prompts_per_second": done as f64 / seconds,
        "first_step_seconds": times.first(), "load_seconds": load_seconds,
        "peak_bytes": peak, "losses": losses, "validation": validation,
        "planned_bytes": plan.memory.total(), "planned_rows": plan.rows,
        "planned_seconds_per_step": rate.map(|rate| flop / rate),
        "flop": plan.work.total(), "flop_per_step": flop, "gflops": flop / median(timed) / 1e9,
    }))
}

/// Bytes of the checkpoint, which are those of its weights in f32.
fn weight_bytes(model: &Path) -> Result<u64> {
    let files = reptune_adapters::formats::safetensors::shards(model)?;
    let length = |path| std::fs::metadata(path).map_or(0, |m: std::fs::Metadata| m.len());
    Ok(files.iter().map(length).sum())
}

/// The middle one; 0 of none.
pub(super) fn median(times: &[f64]) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(0.)
}

fn missing(directory: &Path, name: &str) -> Error {
    let hint = "name another directory, and a workload is made there";
    Error::content(directory, name, "a file", "nothing", hint)
}

fn make(
    spec: &ModelSpec,
    s: &Settings,
    llama: &dyn HookedModel,
    directory: &Path,
) -> Result<(TuneWork, Option<reptune_adapters::DirectionSet>)> {
    let set = work::directions(spec, s.seed)?;
    let label = match s.mode.label() {
        Label::Soft => "soft",
        Label::Right => "right",
        Label::Wrong => "wrong",
    };
    let letter = usize::from(label == "soft");
    let lengths = Lengths {
        least: s.lengths.least - letter,
        most: s.lengths.most - letter,
        ..s.lengths
    };
    let all = work::prompts(spec, s.claims + s.validation, lengths, s.seed);
    let items = all.into_iter().enumerate().map(|(i, ids)| Item {
        ids,
        right: LABELS[i % 2],
        wrong: LABELS[1 - i % 2],
    });
    let mut items: Vec<Item> = items.collect();
    let validation = items.split_off(s.claims);
    let prompts = |items: &[Item]| items.iter().map(Item::prompt).collect();
    let data = [prompts(&items), prompts(&validation)];
    let tuner = Tuner::of(llama, &s.tuning, s.mode, &set, data, s.seed)?;
    peft::save(&directory.join(ADAPTER), &tuner.fresh()?, &spec.name)?;
    let an_epoch = items.len().div_ceil(s.tuning.batch);
    let work = TuneWork {
        kind: "tune".into(),
        mode: s.mode,
        label: label.into(),
        representation: s.mode.representation().map(|r| {
            match r {
                Representation::In => "in",
                Representation::InNegative => "in_negative",
                Representation::Out => "out",
            }
            .to_owned()
        }),
        m: s.tuning.m,
        token_weight: s.tuning.token_weight,
        representation_layers: s.tuning.all_representation_layers().to_vec(),
        offsets: s.tuning.all_offsets(),
        steps: tuner.batches(),
        rates: tuner.rates(),
        weight_decay: s.tuning.weight_decay,
        epsilon: s.tuning.epsilon,
        warm_up: s.warm_up,
        validate_after: match validation.is_empty() {
            true => Vec::new(),
            false => (1..=s.tuning.epochs).map(|e| e * an_epoch).collect(),
        },
        tuning: s.tuning.clone(),
        seed: s.seed,
        items,
        validation,
    };
    Ok((work, Some(set)))
}
