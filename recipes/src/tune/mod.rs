//! Tuning LoRA or full deltas under the dual loss of Representation Tuning
//! (arXiv 2409.06927).
//!
//! It differs from the paper in what is trained by default: LoRA with one learning rate,
//! instead of full weights with two. Full deltas, and parameter groups with learning rates
//! and weights of their own, are the paper's own setting.

mod cached_activations;
mod checkpoint;
mod early_stop;
mod gradients;
mod losses;
pub mod memory;
mod metrics;
pub mod objective;
mod order;
mod prompt;
mod run;
mod share;
#[cfg(test)]
mod tests;

pub use metrics::Metrics;
pub use objective::{Objective, Term};
pub use prompt::TuningPrompt;

use crate::activation_cache::SharedActivations;
use crate::chat::Chat;
use crate::data::Claim;
use crate::error::Result;
use crate::recipe::{Mode, Recipe, Tuning, UpdateKind};
use candle_core::Tensor;
use memory::{MemorySettings, TuningSize};
pub(crate) use order::batches;
use reptune_adapters::{Adapter, DirectionSet, HookedModel, LoraInit, TargetModule, files};
use run::Run;
use share::Share;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Validation prompts of one forward.
pub(crate) const VALIDATION: usize = 32;

/// Called after every step.
type Progress<'p> = &'p mut dyn FnMut(&Metrics);

/// What one tuning needs.
pub struct Tuner<'a> {
    host: &'a dyn HookedModel,
    settings: &'a Tuning,
    mode: Mode,
    objective: Objective,
    directions: Vec<(usize, Tensor)>,
    train: Vec<TuningPrompt>,
    validation: Vec<TuningPrompt>,
    seed: u64,
    shared: Arc<SharedActivations>,
    within: MemorySettings,
}

impl<'a> Tuner<'a> {
    /// Prepares a tuning of `mode`.
    ///
    /// # Errors
    /// When a layer or a direction is missing, or a prompt is too short for a position.
    pub fn new(
        host: &'a dyn HookedModel,
        chat: &Chat,
        recipe: &'a Recipe,
        mode: Mode,
        directions: &DirectionSet,
        train: &[Claim],
        validation: &[Claim],
    ) -> Result<Self> {
        let prompts = |claims: &[Claim]| -> Result<Vec<TuningPrompt>> {
            let prompt = |c| TuningPrompt::new(chat, recipe, c);
            claims.iter().map(prompt).collect()
        };
        let data = [prompts(train)?, prompts(validation)?];
        Self::of(host, &recipe.tuning, mode, directions, data, recipe.seed)
    }

    /// Prepares a tuning of `mode` on prompts that are tokens already: those that are
    /// trained on, and those for validation.
    ///
    /// # Errors
    /// When a layer or a direction is missing.
    pub fn of(
        host: &'a dyn HookedModel,
        settings: &'a Tuning,
        mode: Mode,
        directions: &DirectionSet,
        [train, validation]: [Vec<TuningPrompt>; 2],
        seed: u64,
    ) -> Result<Self> {
        host.spec().check_layers(&settings.layers)?;
        host.spec().check_layers(&settings.representation_layers)?;
        let directions = settings
            .all_representation_layers()
            .iter()
            .map(|&l| {
                let unit = directions.layer(l)?.unit.as_slice();
                Ok((l, Tensor::new(unit, host.device())?))
            })
            .collect::<Result<_>>()?;
        let objective = Objective::of(mode);
        let size = TuningSize {
            spec: host.spec(),
            tuning: settings,
            reads_rows: objective.reads_rows(),
            train: &train,
            validation: &validation,
            seed,
        };
        Ok(Self {
            within: size.within_budget(),
            objective,
            host,
            settings,
            mode,
            directions,
            train,
            validation,
            seed,
            shared: Arc::default(),
        })
    }

    /// The same, with the activations of other tunings of the same model.
    pub fn sharing(self, shared: &Arc<SharedActivations>) -> Self {
        let shared = shared.clone();
        Self { shared, ..self }
    }

    /// Steps of a whole run.
    pub fn steps(&self) -> usize {
        self.settings.epochs * self.train.len().div_ceil(self.settings.batch)
    }

    /// The prompts of every step, by their number.
    pub fn batches(&self) -> Vec<Vec<usize>> {
        let (prompts, batch) = (self.train.len(), self.settings.batch);
        batches(self.seed, prompts, batch, self.steps())
    }

    /// The learning rate of every step, of modules that are in no group.
    pub fn rates(&self) -> Vec<f64> {
        let (t, total) = (self.settings, self.steps());
        let rate = |step| t.schedule.rate(t.learning_rate, step, total, t.warmup);
        (0..total).map(rate).collect()
    }

    /// Initial LoRA factors, and full deltas of zero, for the recipe's target modules.
    ///
    /// # Errors
    /// When rank or alpha do not fit.
    pub fn fresh(&self) -> Result<Adapter> {
        let (t, spec) = (self.settings, self.host.spec());
        let mut update = Adapter::init(
            spec,
            &LoraInit {
                layers: &t.layers,
                kinds: &t.target_modules,
                rank: t.rank,
                alpha: t.alpha,
                seed: self.seed,
            },
        )?;
        let modules = update.modules.keys().copied();
        let full: Vec<TargetModule> = modules
            .filter(|module| Share::of(t, module).update == UpdateKind::Full)
            .collect();
        update.make_direct(spec, &full)?;
        Ok(update)
    }

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
        Run::start(self, update, metrics)?.finish(progress)
    }

    /// Goes on from the checkpoint beside `metrics` as if the run had never been cut
    /// off: the result and the metrics are those of [`Tuner::tune`] bit for bit.
    /// `progress` hears of the steps that are left.
    ///
    /// # Errors
    /// When there is no checkpoint, it is of another run or was changed, the
    /// metrics are not those it was made with; and as [`Tuner::tune`].
    pub fn resume(&self, metrics: &Path, progress: &mut dyn FnMut(&Metrics)) -> Result<Adapter> {
        Run::resume(self, metrics)?.finish(progress)
    }

    /// Whether a checkpoint of this very run (model, recipe, data, directions, mode)
    /// is beside `metrics`.
    pub fn can_resume(&self, metrics: &Path) -> bool {
        checkpoint::is_of(&Self::checkpoint(metrics), &self.hash())
    }

    /// How well `update` does on the validation claims: the sum of the terms without their
    /// weights and without `m`, so that runs with other weights compare. Lower is better.
    ///
    /// # Errors
    /// When a forward fails.
    pub fn score(&self, update: &Adapter) -> Result<f64> {
        let losses = self.validate(update)?;
        let terms = self.objective.terms().iter().zip(losses);
        Ok(terms
            .map(|(term, loss)| term.without_factor(loss, self.settings.m))
            .sum())
    }

    /// Where the checkpoint of the run with these `metrics` is.
    pub fn checkpoint(metrics: &Path) -> PathBuf {
        metrics.with_file_name("checkpoint.safetensors")
    }

    /// SHA-256 of what the run is made of, but for the update it starts with.
    fn hash(&self) -> String {
        let mut parts: Vec<Vec<u8>> = vec![
            self.host.spec().fingerprint.clone().into_bytes(),
            serde_json::to_vec(self.settings).unwrap_or_default(),
            format!("{} {}", self.mode, self.seed).into_bytes(),
        ];
        for (layer, direction) in &self.directions {
            parts.push(format!("{layer}").into_bytes());
            let values: Vec<f32> = direction.to_vec1().unwrap_or_default();
            parts.push(values.iter().flat_map(|x| x.to_le_bytes()).collect());
        }
        for prompts in [&self.train, &self.validation] {
            parts.push(format!("{} prompts", prompts.len()).into_bytes());
            for p in prompts {
                parts.push(format!("{:?} {} {}", p.ids, p.right, p.wrong).into_bytes());
            }
        }
        files::sha256(parts.iter().map(Vec::as_slice))
    }

    /// Mean losses over the validation claims, by term.
    fn validate(&self, update: &Adapter) -> Result<Vec<f64>> {
        let update = update.snapshot()?;
        let mut means = vec![0.; self.objective.terms().len()];
        for some in self.validation.chunks(VALIDATION) {
            let losses = self.losses(&some.iter().collect::<Vec<_>>(), &update)?;
            let share = some.len() as f64 / self.validation.len() as f64;
            for (mean, loss) in means.iter_mut().zip(losses.numbers()?) {
                *mean += share * loss;
            }
        }
        Ok(means)
    }

    /// Losses with the names of their terms, for messages.
    fn named(&self, losses: &[f64]) -> String {
        let terms = self.objective.terms().iter().zip(losses);
        let named = terms.map(|(term, loss)| format!("{} loss {loss}", term.name()));
        named.collect::<Vec<_>>().join(", ")
    }
}
