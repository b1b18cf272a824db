//! A tuning, step by step.

use crate::workload::{
    DeviceArgs, LABELS, TuneWork, WorkArgs, WorkItem, directions, range, read_or_make,
};
use crate::{median, peak_bytes};
use anyhow::{Context, Result};
use clap::Args;
use reptune::Llama;
use reptune_adapters::lora::loss::{Label, Representation};
use reptune_adapters::{Adapter, DirectionSet, HookedModel, ModelSpec, lora::peft};
use reptune_recipes::plan::TuningPlan;
use reptune_recipes::recipe::Mode;
use reptune_recipes::recipe::Tuning;
use reptune_recipes::tune::memory::TuningSize;
use reptune_recipes::tune::{Metrics, Tuner, TuningPrompt};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Instant;

/// Directory of the LoRA factors that a tuning starts from.
const ADAPTER: &str = "adapter";

#[derive(Args)]
pub struct TuneArgs {
    #[command(flatten)]
    work: WorkArgs,
    #[command(flatten)]
    place: DeviceArgs,
    /// What is trained, such as in+ or "in- & lie"
    #[arg(long, default_value = "in+", value_parser = mode)]
    mode: Mode,
    /// Prompts of a step; where both answers are targets, an item is two of them
    #[arg(long, default_value_t = 4)]
    prompts: usize,
    /// Steps, in epochs of four; --claims and --epochs instead for a whole run
    #[arg(long, default_value_t = 12)]
    steps: usize,
    /// Claims that are trained on
    #[arg(long, requires = "epochs")]
    claims: Option<usize>,
    /// Claims for validation
    #[arg(long, default_value_t = 0)]
    validation: usize,
    /// Passes over the claims
    #[arg(long, requires = "claims")]
    epochs: Option<usize>,
    /// Layers that are trained, and whose output is read
    #[arg(long, default_value = "3-5", value_parser = range)]
    layers: (usize, usize),
    /// Rank of the updates
    #[arg(long, default_value_t = 16)]
    rank: usize,
    /// Most memory beside the weights, in MiB
    #[arg(long)]
    memory: Option<usize>,
}

fn mode(text: &str) -> Result<Mode, String> {
    let known = Mode::ALL.into_iter().find(|m| m.name() == text);
    known.ok_or_else(|| {
        let names: Vec<_> = Mode::ALL.iter().map(|m| m.name()).collect();
        format!("expected one of {}", names.join(", "))
    })
}

impl TuneArgs {
    /// Whether both answers are targets, each with half the weight.
    fn both(&self) -> bool {
        matches!(self.mode.losses().1, Label::Soft)
    }

    /// Items of a step.
    fn batch(&self) -> usize {
        (self.prompts / if self.both() { 2 } else { 1 }).max(1)
    }

    /// Training claims, and passes over them.
    fn claims_and_epochs(&self) -> (usize, usize) {
        match (self.claims, self.epochs) {
            (Some(claims), Some(epochs)) => (claims, epochs),
            _ => (4 * self.batch(), self.steps.div_ceil(4)),
        }
    }

    fn tuning(&self) -> Result<Tuning> {
        let layers: Vec<usize> = (self.layers.0..=self.layers.1).collect();
        let memory = self.memory.map(|m| format!("memory = {m}\n"));
        let text = format!(
            "modes = [{:?}]\nlayers = {layers:?}\nrank = {}\nalpha = {}.0\npositions = \"at:-8\"\n\
             batch = {}\nepochs = {}\nlearning_rate = 1e-3\nwarmup = 2\n{}",
            self.mode.name(),
            self.rank,
            2 * self.rank,
            self.batch(),
            self.claims_and_epochs().1,
            memory.unwrap_or_default(),
        );
        Ok(toml::from_str(&text)?)
    }
}

pub fn run(a: &TuneArgs) -> Result<Value> {
    let (llama, load_seconds) = a.place.load(&a.work.model)?;
    let (spec, loaded_bytes) = (llama.spec(), peak_bytes());
    let directory = &a.work.work;
    let (work, directions) = read_or_make(directory, |directory| make(&llama, a, directory))?;
    let directions = directions.context("the workload holds no directions")?;
    let prompts = |items: &[WorkItem]| items.iter().map(WorkItem::prompt).collect::<Vec<_>>();
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
    let mut started = Instant::now();
    tuner.tune(update, &metrics, &mut |m: &Metrics| {
        times.push(started.elapsed().as_secs_f64());
        losses.push(json!([m.loss("token"), m.loss("representation")]));
        if let (Some(token), false) = (m.validation_loss("token"), work.validation.is_empty()) {
            validation.push(json!([token, m.validation_loss("representation")]));
        }
        started = Instant::now();
    })?;
    let peak_bytes = peak_bytes();
    let timed = &times[work.warm_up.min(times.len())..];
    let seconds: f64 = timed.iter().sum();
    let steps = work.steps.iter().skip(work.warm_up);
    let each = if work.label == "soft" { 2 } else { 1 };
    let done = each * steps.map(Vec::len).sum::<usize>();
    let plan = plan(spec, &work);
    let flop = plan.work.steps / plan.steps.max(1) as f64;
    Ok(json!({
        "work": "tune", "seconds": seconds, "steps": timed.len(),
        "seconds_per_step": median(timed), "prompts_per_second": done as f64 / seconds,
        "first_step_seconds": times.first(), "load_seconds": load_seconds,
        "peak_bytes": peak_bytes, "loaded_bytes": loaded_bytes,
        "planned_bytes": plan.memory.total(), "losses": losses, "validation": validation,
        "gflops": flop / median(timed) / 1e9,
    }))
}

/// What the tuning takes, as `reptune tune --plan` counts it.
fn plan(spec: &ModelSpec, work: &TuneWork) -> TuningPlan {
    let train: Vec<TuningPrompt> = work.items.iter().map(WorkItem::prompt).collect();
    TuningPlan::of(&TuningSize {
        spec,
        tuning: &work.tuning,
        train: &train,
        validation: &[],
        seed: work.seed,
    })
}

fn make(llama: &Llama, a: &TuneArgs, directory: &Path) -> Result<(TuneWork, Option<DirectionSet>)> {
    let (spec, seed) = (llama.spec(), a.work.seed);
    let set = directions(spec, seed)?;
    let label = match a.mode.losses().1 {
        Label::Soft => "soft",
        Label::Right => "right",
        Label::Wrong => "wrong",
    };
    // where both answers are targets, the answer is one of a prompt's tokens
    let answer = usize::from(a.both());
    let prompts = WorkArgs {
        tokens: (a.work.tokens.0 - answer, a.work.tokens.1 - answer),
        ..a.work.clone()
    };
    let (claims, epochs) = a.claims_and_epochs();
    let all = prompts.prompts(spec, claims + a.validation).into_iter();
    let items = all.enumerate().map(|(i, ids)| WorkItem {
        ids,
        right: LABELS[i % 2],
        wrong: LABELS[1 - i % 2],
    });
    let mut items: Vec<WorkItem> = items.collect();
    let validation = items.split_off(claims);
    let tuning = a.tuning()?;
    let prompts = |items: &[WorkItem]| items.iter().map(WorkItem::prompt).collect();
    let data = [prompts(&items), prompts(&validation)];
    let tuner = Tuner::of(llama, &tuning, a.mode, &set, data, seed)?;
    peft::save(&directory.join(ADAPTER), &tuner.fresh()?, &spec.name)?;
    let an_epoch = items.len().div_ceil(tuning.batch);
    let (peak, total) = (tuning.learning_rate, tuner.steps());
    let rate = |step| tuning.schedule.rate(peak, step, total, tuning.warmup);
    let work = TuneWork {
        kind: "tune".into(),
        mode: a.mode,
        label: label.into(),
        representation: a.mode.losses().0.map(|r| {
            match r {
                Representation::In => "in",
                Representation::InNegative => "in_negative",
                Representation::Out => "out",
            }
            .to_owned()
        }),
        m: tuning.m,
        token_weight: tuning.token_weight,
        representation_layers: tuning.all_representation_layers().to_vec(),
        offsets: tuning.offsets(),
        steps: tuner.batches(),
        rates: (0..total).map(rate).collect(),
        weight_decay: tuning.weight_decay,
        epsilon: tuning.epsilon,
        warm_up: usize::from(a.epochs.is_none()),
        validate_after: match validation.is_empty() {
            true => Vec::new(),
            false => (1..=epochs).map(|e| e * an_epoch).collect(),
        },
        tuning,
        seed,
        items,
        validation,
    };
    Ok((work, Some(set)))
}
