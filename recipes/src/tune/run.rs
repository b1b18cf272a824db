//! A run: step after step, from the start or from a checkpoint.

use super::checkpoint::{self, Checkpoint, State};
use super::early_stop::{Verdict, Watch};
use super::gradients::Gradients;
use super::metrics::{Log, Metrics};
use super::order::Order;
use super::prompt::TuningPrompt;
use super::share::Share;
use super::{Progress, Tuner};
use crate::error::{Error, Result};
use candle_core::Var;
use reptune_adapters::Adapter;
use reptune_adapters::lora::adamw::{AdamW, Constants};
use std::path::{Path, PathBuf};

/// What a run carries from step to step.
pub(super) struct Run<'t, 'a> {
    tuner: &'t Tuner<'a>,
    update: Adapter,
    vars: Vec<Var>,
    shares: Vec<Share>,
    /// Weights of the terms, for each variable.
    weights: Vec<Vec<f64>>,
    optimizer: AdamW,
    order: Order,
    watch: Watch,
    log: Log,
    checkpoint: PathBuf,
    steps: usize,
}

impl<'t, 'a> Run<'t, 'a> {
    /// Starts with `update`. The checkpoint of an earlier run is removed, because its
    /// metrics are.
    pub(super) fn start(tuner: &'t Tuner<'a>, update: Adapter, metrics: &Path) -> Result<Self> {
        let log = Log::create(metrics)?;
        remove(&Tuner::checkpoint(metrics))?;
        Self::new(tuner, update, log)
    }

    /// Goes on from the checkpoint beside `metrics`.
    pub(super) fn resume(tuner: &'t Tuner<'a>, metrics: &Path) -> Result<Self> {
        let path = Tuner::checkpoint(metrics);
        let saved = Checkpoint::read(&path, &tuner.hash(), tuner.host.spec())?;
        let log = Log::reopen(metrics, &saved.state.metrics)?;
        let mut run = Self::new(tuner, saved.update, log)?;
        run.optimizer.restore(saved.state.steps, saved.moments)?;
        run.watch = saved.watch;
        run.steps = saved.state.steps;
        Ok(run)
    }

    fn new(tuner: &'t Tuner<'a>, mut update: Adapter, log: Log) -> Result<Self> {
        let t = tuner.settings;
        let vars = update.trainable(tuner.host.device())?;
        let constants = Constants {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: t.epsilon,
            weight_decay: t.weight_decay,
        };
        let shares = Share::of_all(t, &update);
        let weights = shares.iter().map(|s| tuner.objective.weights(s)).collect();
        Ok(Self {
            tuner,
            shares,
            weights,
            optimizer: AdamW::new(vars.clone(), constants)?,
            update,
            vars,
            order: Order::new(tuner.seed, tuner.train.len(), t.batch),
            watch: Watch::default(),
            checkpoint: Tuner::checkpoint(&log.path),
            log,
            steps: 0,
        })
    }

    /// Runs to the end, or to the early stop, and returns what is kept.
    pub(super) fn finish(mut self, progress: Progress) -> Result<Adapter> {
        let every = self.tuner.settings.checkpoint_every;
        while self.steps < self.tuner.steps() {
            let (line, verdict) = self.step()?;
            self.log.write(&line)?;
            progress(&line);
            if verdict == Verdict::Stop {
                break;
            }
            if every > 0 && self.steps.is_multiple_of(every) {
                self.save()?;
            }
        }
        self.log.mark()?;
        let kept = match self.watch.best {
            Some(best) => best,
            None => self.update.snapshot()?,
        };
        remove(&self.checkpoint)?;
        Ok(kept)
    }

    fn save(&self) -> Result<()> {
        let mark = self.log.mark()?;
        let state = State::new(self.tuner.hash(), self.steps, mark, &self.watch);
        let best = self.watch.best.as_ref();
        checkpoint::write(
            &self.checkpoint,
            &state,
            &self.update,
            &self.optimizer,
            best,
        )
    }

    /// One step of the optimizer, and a validation where it is due.
    fn step(&mut self) -> Result<(Metrics, Verdict)> {
        let (tuner, t) = (self.tuner, self.tuner.settings);
        let total = tuner.steps();
        let batch = self.order.batch(self.steps);
        let batch: Vec<&TuningPrompt> = batch.iter().map(|&i| &tuner.train[i]).collect();
        let rate = |peak: f64| t.schedule.rate(peak, self.steps, total, t.warmup);
        let mut line = Metrics {
            step: self.steps + 1,
            lr: rate(t.learning_rate),
            ..Metrics::default()
        };
        let together = match t.micro_batch {
            0 => batch.len(),
            some => some,
        };
        let mut sum: Option<Gradients> = None;
        for some in batch.chunks(together) {
            let part = some.len() as f64 / batch.len() as f64;
            let losses = tuner.losses(some, &self.update)?;
            let numbers = losses.numbers()?;
            for (term, loss) in tuner.objective.terms().iter().zip(&numbers) {
                line.add(term.name(), part * loss);
            }
            if !numbers.iter().all(|x| x.is_finite()) {
                let found = tuner.named(&numbers);
                return Err(self.broken(line.step, &batch_of(some), "a finite loss", found));
            }
            let gradients = Gradients::of(&losses, &self.vars, &self.weights, part)?;
            sum = Some(match sum {
                Some(sum) => sum.add(gradients)?,
                None => gradients,
            });
        }
        if let Some(mut gradients) = sum {
            let norm = gradients.norm()?;
            if !norm.is_finite() {
                let found = format!("a norm of {norm}");
                return Err(self.broken(line.step, &batch_of(&batch), "a finite gradient", found));
            }
            if let Some(longest) = t.clip {
                gradients = gradients.clip(norm, longest)?;
            }
            let rates: Vec<f64> = self.shares.iter().map(|s| rate(s.learning_rate)).collect();
            self.optimizer.step(gradients.as_slice(), &rates)?;
        }
        self.steps += 1;
        let every = match t.validate_every {
            0 => self.order.an_epoch(),
            some => some,
        };
        if !self.steps.is_multiple_of(every) && self.steps != total {
            return Ok((line, Verdict::GoOn));
        }
        let numbers = tuner.validate(&self.update)?;
        for (term, loss) in tuner.objective.terms().iter().zip(&numbers) {
            line.set_validation(term.name(), *loss);
        }
        if !numbers.iter().all(|x| x.is_finite()) {
            let found = tuner.named(&numbers);
            let whose = "the validation claims";
            return Err(self.broken(line.step, whose, "a finite loss", found));
        }
        let verdict = match &t.early_stop {
            Some(early) => self
                .watch
                .see(early, self.steps, numbers[0], &self.update)?,
            None => Verdict::GoOn,
        };
        Ok((line, verdict))
    }

    /// What a number that is not finite is answered with.
    fn broken(&self, step: usize, whose: &str, expected: &str, found: String) -> Error {
        let mut hint = "lower the learning rate, or clip the gradient".to_owned();
        if self.checkpoint.is_file() {
            hint += &format!(
                "; the last good state is kept in {}",
                self.checkpoint.display()
            );
        }
        Error::NotFinite {
            path: self.log.path.clone(),
            place: format!("step {step}, {whose}"),
            expected: expected.to_owned(),
            found,
            hint,
        }
    }
}

fn remove(checkpoint: &Path) -> Result<()> {
    match std::fs::remove_file(checkpoint) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(reptune_adapters::Error::write(checkpoint, e).into())
        }
        _ => Ok(()),
    }
}

fn batch_of(prompts: &[&TuningPrompt]) -> String {
    let claims: Vec<String> = prompts.iter().map(|p| format!("`{}`", p.claim)).collect();
    format!("batch of the claims {}", claims.join(", "))
}
