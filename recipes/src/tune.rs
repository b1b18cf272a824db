//! Tuning low-rank updates under the dual loss of Representation Tuning
//! (arXiv 2409.06927); differs from it in what is trained: low-rank factors
//! instead of full weights, with one learning rate.

use crate::chat::{Chat, Message};
use crate::data::{Claim, claim_question};
use crate::error::{Error, Result};
use crate::recipe::{Recipe, Tuning};
use candle_core::{Device, Tensor};
use candle_nn::optim::{AdamW, Optimizer, ParamsAdamW};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use reptune_adapters::loss::{LabelRow, Mode, representation_loss, token_loss};
use reptune_adapters::{Cache, DirectionSet, Forest, Host, LowRankUpdate, Request};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::Path;

/// Validation prompts of one forward.
const VALIDATION: usize = 32;

/// A claim as a persona-free prompt with its two letters.
struct Prompt {
    ids: Vec<u32>,
    right: u32,
    wrong: u32,
}

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Optimizer step, from 1.
    pub step: usize,
    /// Token loss of the batch, not weighted.
    pub token_loss: f64,
    /// Representation loss of the batch; none in a mode without one.
    pub representation_loss: Option<f64>,
    /// Token loss of the validation claims, where they were measured.
    pub validation_token_loss: Option<f64>,
    /// Representation loss of the validation claims, where it was measured.
    pub validation_representation_loss: Option<f64>,
    /// Learning rate of the step.
    pub lr: f64,
}

/// Token and representation loss.
struct Losses {
    token: Tensor,
    representation: Option<Tensor>,
}

/// What one tuning needs.
pub struct Tuner<'a> {
    host: &'a dyn Host,
    settings: &'a Tuning,
    mode: Mode,
    directions: Vec<(usize, Tensor)>,
    train: Vec<Prompt>,
    validation: Vec<Prompt>,
    seed: u64,
}

impl<'a> Tuner<'a> {
    /// Prepares a tuning of `mode`.
    ///
    /// # Errors
    /// When a layer or a direction is missing, or a prompt is shorter than the offset.
    pub fn new(
        host: &'a dyn Host,
        chat: &Chat,
        recipe: &'a Recipe,
        mode: Mode,
        directions: &DirectionSet,
        train: &[Claim],
        validation: &[Claim],
    ) -> Result<Self> {
        let settings = &recipe.tuning;
        host.spec().check_layers(&settings.layers)?;
        let directions = settings
            .layers
            .iter()
            .map(|&l| {
                Ok((
                    l,
                    Tensor::new(directions.layer(l)?.unit.as_slice(), host.device())?,
                ))
            })
            .collect::<Result<_>>()?;
        let prompts = |claims: &[Claim]| -> Result<Vec<Prompt>> {
            claims.iter().map(|c| prompt(chat, recipe, c)).collect()
        };
        Ok(Self {
            host,
            settings,
            mode,
            directions,
            train: prompts(train)?,
            validation: prompts(validation)?,
            seed: recipe.seed,
        })
    }

    /// Steps of a whole run.
    pub fn steps(&self) -> usize {
        self.settings.epochs * self.train.len().div_ceil(self.settings.batch)
    }

    /// Fresh factors for the recipe's sites.
    ///
    /// # Errors
    /// When rank or alpha do not fit.
    pub fn fresh(&self) -> Result<LowRankUpdate> {
        let t = self.settings;
        Ok(LowRankUpdate::init(
            self.host.spec(),
            &t.layers,
            &t.projections,
            t.rank,
            t.alpha,
            self.seed,
        )?)
    }

    /// Trains `update` and returns it; every step's [`Metrics`] go to `metrics` as
    /// a line of JSON and to `progress`.
    ///
    /// # Errors
    /// When a loss is not finite (the step is named), or the metrics cannot be written.
    pub fn tune(
        &self,
        mut update: LowRankUpdate,
        metrics: &Path,
        progress: &mut dyn FnMut(&Metrics),
    ) -> Result<LowRankUpdate> {
        let t = self.settings;
        let io = |e| Error::Adapters(reptune_adapters::Error::write(metrics, e));
        let mut log = std::fs::File::create(metrics).map_err(io)?;
        let vars = update.trainable(self.host.device())?;
        let mut optimizer = AdamW::new(
            vars,
            ParamsAdamW {
                lr: t.learning_rate,
                beta1: 0.9,
                beta2: 0.999,
                eps: t.epsilon,
                weight_decay: t.weight_decay,
            },
        )?;
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let mut order: Vec<usize> = (0..self.train.len()).collect();
        let (total, an_epoch) = (self.steps(), self.train.len().div_ceil(t.batch));
        let every = if t.validate_every == 0 {
            an_epoch
        } else {
            t.validate_every
        };
        let mut best: Option<(f64, usize, LowRankUpdate)> = None;
        for step in 0..total {
            if step % an_epoch == 0 {
                order.shuffle(&mut rng);
            }
            let from = step % an_epoch * t.batch;
            let batch: Vec<&Prompt> = order[from..order.len().min(from + t.batch)]
                .iter()
                .map(|&i| &self.train[i])
                .collect();
            let losses = self.losses(&batch, &update)?;
            let lr = learning_rate(step, total, t);
            let mut line = Metrics {
                step: step + 1,
                token_loss: scalar(&losses.token)?,
                representation_loss: losses.representation.as_ref().map(scalar).transpose()?,
                validation_token_loss: None,
                validation_representation_loss: None,
                lr,
            };
            let loss = self.total(&losses)?;
            if !scalar(&loss)?.is_finite() {
                return Err(Error::input(
                    metrics,
                    format!("step {}", step + 1),
                    "a finite loss",
                    format!("{line:?}"),
                    "lower the learning rate",
                ));
            }
            optimizer.set_learning_rate(lr);
            optimizer.step(&loss.backward()?)?;
            let mut stop = false;
            if (step + 1) % every == 0 || step + 1 == total {
                let (token, representation) = self.validate(&update)?;
                line.validation_token_loss = Some(token);
                line.validation_representation_loss = representation;
                let watched = representation.unwrap_or(token);
                if let Some(early) = &t.early_stop {
                    match &mut best {
                        Some((lowest, waited, _)) if watched >= *lowest => {
                            *waited += 1;
                            stop = *waited >= early.patience && step + 1 >= early.min_steps;
                        }
                        _ => best = Some((watched, 0, update.snapshot()?)),
                    }
                }
            }
            let json = serde_json::to_string(&line).unwrap_or_default();
            writeln!(log, "{json}").map_err(io)?;
            progress(&line);
            if stop {
                break;
            }
        }
        log.sync_all().map_err(io)?;
        match best {
            Some((_, _, update)) => Ok(update),
            None => Ok(update.snapshot()?),
        }
    }

    /// Mean token and representation loss over the validation claims.
    fn validate(&self, update: &LowRankUpdate) -> Result<(f64, Option<f64>)> {
        let update = update.snapshot()?;
        let (mut token, mut representation) = (0., None);
        for some in self.validation.chunks(VALIDATION) {
            let losses = self.losses(&some.iter().collect::<Vec<_>>(), &update)?;
            let share = some.len() as f64 / self.validation.len() as f64;
            token += share * scalar(&losses.token)?;
            if let Some(r) = &losses.representation {
                *representation.get_or_insert(0.) += share * scalar(r)?;
            }
        }
        Ok((token, representation))
    }

    /// Losses of some prompts, packed into one forest. In `in+` and `in-` the paper
    /// shows every claim with both letters; the rows that are read come before the
    /// letter, so here both are one prompt with a soft label.
    fn losses(&self, prompts: &[&Prompt], update: &LowRankUpdate) -> Result<Losses> {
        let ids: Vec<&[u32]> = prompts.iter().map(|p| p.ids.as_slice()).collect();
        let (forest, rows) = Forest::pack(&ids);
        let mut last: Vec<u32> = rows.iter().map(|r| r[r.len() - 1]).collect();
        let labels = prompts
            .iter()
            .zip(&last)
            .map(|(p, row)| (*row, p.right, p.wrong))
            .collect::<Vec<_>>();
        last.sort_unstable();
        last.dedup();
        let labels: Vec<LabelRow> = labels
            .into_iter()
            .map(|(row, right, wrong)| LabelRow {
                row: last.partition_point(|r| *r < row) as u32,
                right,
                wrong,
            })
            .collect();
        let capture: Vec<usize> = match self.mode.representation() {
            Some(_) => self.settings.layers.clone(),
            None => Vec::new(),
        };
        let request = Request {
            capture: &capture,
            logits: &last,
            low_rank: Some(update),
            ..Request::default()
        };
        let pass = self.host.forward(&forest, &mut Cache::none(), &request)?;
        let logits = pass.logits.unwrap_or(Tensor::zeros(
            (1, 1),
            candle_core::DType::F32,
            &Device::Cpu,
        )?);
        let token = token_loss(&logits, &labels, self.mode.label())?;
        let representation = match self.mode.representation() {
            None => None,
            Some(kind) => {
                let at = rows.iter().map(|r| r[r.len() - 1 - self.settings.offset]);
                let at = Tensor::from_iter(at, self.host.device())?;
                let mut sum: Option<Tensor> = None;
                for (layer, direction) in &self.directions {
                    let h = pass.residuals[layer].index_select(&at, 0)?;
                    let loss = representation_loss(&h, direction, kind, self.settings.m)?;
                    sum = Some(match sum {
                        Some(sum) => (sum + loss)?,
                        None => loss,
                    });
                }
                sum.map(|s| s / self.directions.len() as f64).transpose()?
            }
        };
        Ok(Losses {
            token,
            representation,
        })
    }

    /// `representation + token_weight * token`, or the token loss alone.
    fn total(&self, losses: &Losses) -> Result<Tensor> {
        Ok(match &losses.representation {
            None => losses.token.clone(),
            Some(r) => (r + (&losses.token * self.settings.token_weight)?)?,
        })
    }
}

fn prompt(chat: &Chat, recipe: &Recipe, claim: &Claim) -> Result<Prompt> {
    let question = claim_question(recipe, claim);
    let messages = Message::conversation(&recipe.prompt.system, &question.text);
    let ids = chat.prompt(&messages)?;
    if recipe.tuning.offset >= ids.len() {
        return Err(Error::input(
            &recipe.name,
            "tuning.offset",
            format!("0 to {}", ids.len() - 1),
            recipe.tuning.offset.to_string(),
            format!("the prompt of `{}` has {} tokens", claim.text, ids.len()),
        ));
    }
    let label = |i: usize| chat.label_token(&messages, &recipe.prompt.labels[i]);
    Ok(Prompt {
        ids,
        right: label(question.right)?,
        wrong: label(1 - question.right)?,
    })
}

/// Linear warm-up, then linear decay to zero.
fn learning_rate(step: usize, total: usize, t: &Tuning) -> f64 {
    let warm = t.warmup.min(total.saturating_sub(1));
    if step < warm {
        return t.learning_rate * (step + 1) as f64 / warm as f64;
    }
    t.learning_rate * (total - step) as f64 / (total - warm) as f64
}

fn scalar(t: &Tensor) -> Result<f64> {
    Ok(f64::from(t.to_scalar::<f32>()?))
}
