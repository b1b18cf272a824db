//! Tuning LoRA or full deltas under the dual loss of Representation Tuning
//! (arXiv 2409.06927).
//!
//! It differs from the paper in what is trained by default: LoRA with one learning rate,
//! instead of full weights with two. Full deltas, and parameter groups with learning rates
//! and weights of their own, are the paper's own setting.

mod checkpoint;
mod losses;
pub mod memory;
mod metrics;
pub mod objective;
mod prompts;
mod run;
#[cfg(test)]
mod tests;

pub use metrics::Metrics;
pub use objective::{Objective, Term};
pub use prompts::TuningPrompt;
pub(crate) use prompts::batches;

use crate::activation_cache::SharedActivations;
use crate::chat::Chat;
use crate::data::Claim;
use crate::error::Result;
use crate::recipe::{Mode, Recipe, Tuning, UpdateKind};
use candle_core::Tensor;
use memory::{MemorySettings, TuningSize};
use reptune_adapters::{Adapter, DirectionSet, HookedModel, LoraInit, TargetModule, files};
use std::sync::Arc;

/// Validation prompts of one forward.
pub(crate) const VALIDATION: usize = 32;

/// What one tuning needs.
pub struct Tuner<'a> {
    model: &'a dyn HookedModel,
    settings: &'a Tuning,
    mode: Mode,
    objective: Objective,
    directions: Vec<(usize, Tensor)>,
    train: Vec<TuningPrompt>,
    validation: Vec<TuningPrompt>,
    seed: u64,
    shared: Arc<SharedActivations>,
    memory: MemorySettings,
}

impl<'a> Tuner<'a> {
    /// Prepares a tuning of `mode`.
    ///
    /// # Errors
    /// When a layer or a direction is missing, or a prompt is too short for a position.
    pub fn new(
        model: &'a dyn HookedModel,
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
        let (settings, seed) = (&recipe.tuning, recipe.seed);
        Self::of(model, settings, mode, directions, data, seed)
    }

    /// Prepares a tuning of `mode` on prompts that are tokens already: those that are
    /// trained on, and those for validation.
    ///
    /// # Errors
    /// When a layer or a direction is missing.
    pub fn of(
        model: &'a dyn HookedModel,
        settings: &'a Tuning,
        mode: Mode,
        directions: &DirectionSet,
        [train, validation]: [Vec<TuningPrompt>; 2],
        seed: u64,
    ) -> Result<Self> {
        model.spec().check_layers(&settings.layers)?;
        model.spec().check_layers(&settings.representation_layers)?;
        let directions = settings
            .all_representation_layers()
            .iter()
            .map(|&l| {
                let unit = directions.layer(l)?.unit.as_slice();
                Ok((l, Tensor::new(unit, model.device())?))
            })
            .collect::<Result<_>>()?;
        let objective = Objective::of(mode);
        let size = TuningSize {
            spec: model.spec(),
            tuning: settings,
            train: &train,
            validation: &validation,
            seed,
        };
        Ok(Self {
            memory: size.within_budget(),
            objective,
            model,
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

    /// Initial LoRA factors, and full deltas of zero, for the recipe's target modules.
    ///
    /// # Errors
    /// When rank or alpha do not fit.
    pub fn fresh(&self) -> Result<Adapter> {
        let (t, spec) = (self.settings, self.model.spec());
        let init = LoraInit {
            layers: &t.layers,
            kinds: &t.target_modules,
            rank: t.rank,
            alpha: t.alpha,
            seed: self.seed,
        };
        let mut update = Adapter::init(spec, &init)?;
        let full = |m: &TargetModule| t.module(m.layer, m.kind).update == UpdateKind::Full;
        let full: Vec<_> = update.modules.keys().copied().filter(full).collect();
        update.make_direct(spec, &full)?;
        Ok(update)
    }

    /// How well `update` does on the validation claims: the sum of the terms without their
    /// weights and without `m`, so that runs with other weights compare. Lower is better.
    pub fn score(&self, update: &Adapter) -> Result<f64> {
        let losses = self.validate(update)?;
        let terms = self.objective.terms().iter().zip(losses);
        let plain = terms.map(|(term, loss)| term.without_factor(loss, self.settings.m));
        Ok(plain.sum())
    }

    /// SHA-256 of what the run is made of, but for the update it starts with.
    fn hash(&self) -> String {
        let mut parts: Vec<Vec<u8>> = vec![
            self.model.spec().fingerprint.clone().into_bytes(),
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
}
