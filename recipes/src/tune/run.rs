//! A run: step after step, from the start or from a checkpoint.

use super::Tuner;
use super::checkpoint::{self, Checkpoint, State, Verdict, Watch};
use super::losses::Gradients;
use super::metrics::{Log, Metrics};
use super::objective::module_settings;
use super::prompts::{Order, TuningPrompt};
use crate::error::{Error, Result};
use crate::recipe::ModuleSettings;
use candle_core::Var;
use reptune_adapters::Adapter;
use reptune_adapters::lora::adamw::{AdamW, Constants};
use std::path::{Path, PathBuf};

impl Tuner<'_> {
    /// Trains `update` and returns it; every step's [`Metrics`] go to `metrics` as
    /// a line of JSON and to `progress`. Where the recipe asks for checkpoints they
    /// are written to [`Tuner::checkpoint`], and the last is removed at the end.
    ///
    /// # Errors
    /// When a loss or gradient is not finite (step and claims are named; the last
    /// checkpoint stays), or a file cannot be written.
    pub fn tune(
        &self,
        update: Adapter,
        metrics: &Path,
        progress: &mut dyn FnMut(&Metrics),
    ) -> Result<Adapter> {
        let log = Log::create(metrics)?;
        remove(&Self::checkpoint(metrics))?; // its metrics are gone
        Run::new(self, update, log)?.finish(progress)
    }

    /// Goes on from the checkpoint in the directory of `metrics` as if the run had never been cut
    /// off: the result and the metrics are those of [`Tuner::tune`] bit for bit.
    /// `progress` is called with the steps that are left.
    ///
    /// # Errors
    /// When there is no checkpoint, it is of another run or was changed, the
    /// metrics are not those it was made with; and as [`Tuner::tune`].
    pub fn resume(&self, metrics: &Path, progress: &mut dyn FnMut(&Metrics)) -> Result<Adapter> {
        let path = Self::checkpoint(metrics);
        let saved = Checkpoint::read(&path, &self.hash(), self.model.spec())?;
        let log = Log::reopen(metrics, &saved.state.metrics)?;
        let mut run = Run::new(self, saved.update, log)?;
        run.optimizer.restore(saved.state.steps, saved.moments)?;
        run.watch = saved.state.watch;
        run.steps = saved.state.steps;
        run.finish(progress)
    }

    /// Whether a checkpoint of this very run (model, recipe, data, directions, mode)
    /// is in the directory of `metrics`.
    pub fn can_resume(&self, metrics: &Path) -> bool {
        checkpoint::is_of(&Self::checkpoint(metrics), &self.hash())
    }

    /// Where the checkpoint of the run with these `metrics` is.
    pub fn checkpoint(metrics: &Path) -> PathBuf {
        metrics.with_file_name("checkpoint.safetensors")
    }
}

/// What a run carries from step to step.
struct Run<'t, 'a> {
    tuner: &'t Tuner<'a>,
    update: Adapter,
    vars: Vec<Var>,
    modules: Vec<ModuleSettings>,
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
    fn new(tuner: &'t Tuner<'a>, mut update: Adapter, log: Log) -> Result<Self> {
        let t = tuner.settings;
        let vars = update.trainable(tuner.model.device())?;
        let constants = Constants {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: t.epsilon,
            weight_decay: t.weight_decay,
        };
        let modules = module_settings(t, &update);
        let weights = modules.iter().map(|m| tuner.objective.weights(m));
        Ok(Self {
            tuner,
            weights: weights.collect(),
            modules,
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
    fn finish(mut self, progress: &mut dyn FnMut(&Metrics)) -> Result<Adapter> {
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
        let state = State {
            run: self.tuner.hash(),
            steps: self.steps,
            metrics: self.log.mark()?,
            watch: self.watch.clone(),
        };
        checkpoint::write(&self.checkpoint, &state, &self.update, &self.optimizer)
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
        let mut sum: Option<Gradients> = None;
        for some in batch.chunks(t.per_forward()) {
            let part = some.len() as f64 / batch.len() as f64;
            let losses = tuner.losses(some, &self.update)?;
            let numbers = losses.numbers()?;
            for (term, loss) in tuner.objective.terms().iter().zip(&numbers) {
                line.add(term.name(), part * loss);
            }
            self.check_losses(line.step, &numbers, || batch_of(some))?;
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
            let rates = self.modules.iter().map(|m| rate(m.learning_rate));
            let rates: Vec<f64> = rates.collect();
            self.optimizer.step(&gradients.0, &rates)?;
        }
        self.steps += 1;
        let every = t.steps_to_validation(self.order.an_epoch());
        if !self.steps.is_multiple_of(every) && self.steps != total {
            return Ok((line, Verdict::GoOn));
        }
        let numbers = tuner.validate(&self.update)?;
        for (term, loss) in tuner.objective.terms().iter().zip(&numbers) {
            line.set_validation(term.name(), *loss);
        }
        self.check_losses(line.step, &numbers, || "the validation claims".into())?;
        let verdict = match &t.early_stop {
            Some(early) => (self.watch).see(early, self.steps, numbers[0], &self.update)?,
            None => Verdict::GoOn,
        };
        Ok((line, verdict))
    }

    /// Refuses losses of a step that are not finite.
    fn check_losses(&self, step: usize, losses: &[f64], whose: impl Fn() -> String) -> Result<()> {
        if losses.iter().all(|x| x.is_finite()) {
            return Ok(());
        }
        let terms = self.tuner.objective.terms().iter().zip(losses);
        let named = terms.map(|(term, loss)| format!("{} loss {loss}", term.name()));
        let found = named.collect::<Vec<_>>().join(", ");
        Err(self.broken(step, &whose(), "a finite loss", found))
    }

    /// The error of a number that is not finite.
    fn broken(&self, step: usize, whose: &str, expected: &str, found: String) -> Error {
        let mut hint = "lower the learning rate, or clip the gradient".to_owned();
        if self.checkpoint.is_file() {
            let kept = self.checkpoint.display();
            hint += &format!("; the last good state is kept in {kept}");
        }
        let place = format!("step {step}, {whose}");
        let path = &self.log.path;
        Error::NotFinite(reptune_adapters::Error::content(
            path, place, expected, found, hint,
        ))
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
