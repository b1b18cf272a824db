//! A recipe with its model loaded and its items read: what every stage starts from.

use crate::decoder::{Llama, LoadOptions};
use crate::error::Result;
use crate::model::ModelDir;
use crate::progress;
use crate::runtime::Engine;
use reptune_adapters::{
    Adapter, Decide, DirectionSet, Dose, Gate, HookedModel, Intervention, files,
};
use reptune_recipes::activation_cache::{ActivationCache, SharedActivations};
use reptune_recipes::data::{Items, Question, claim_question, sequences, texts as texts_of};
use reptune_recipes::effect_check::check_effect;
use reptune_recipes::evaluate::{Answerer, OwnForward, ask, asked, perplexity, verdicts};
use reptune_recipes::generate::Generation;
use reptune_recipes::score::{Choice, ModelVariant, divergence, log_odds};
use reptune_recipes::{Chat, Message, Recipe};
use reptune_report::{ModelRow, Outcomes};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Claims on which steering is seen to do something.
const PROBED: usize = 4;

/// A recipe, its model and its items.
pub struct Session {
    /// The recipe.
    pub recipe: Recipe,
    /// Its file.
    pub file: PathBuf,
    /// Directory of the model.
    pub directory: PathBuf,
    /// The model.
    pub llama: Llama,
    /// Its tokenizer and template.
    pub chat: Chat,
    /// Claims and questions.
    pub items: Items,
    /// What its tunings share.
    pub trunks: Arc<SharedActivations>,
    /// The weights and how they were loaded.
    weights: String,
}

impl Session {
    /// Reads the recipe at `path` and loads its model, or `model` instead of it.
    ///
    /// # Errors
    /// When the recipe, the data or the model is wrong.
    pub fn open(path: &Path, model: Option<&str>, options: LoadOptions) -> Result<Self> {
        let recipe = Recipe::read(path)?;
        let items = Items::read(&recipe)?;
        let found = ModelDir::resolve(model.unwrap_or(&recipe.model))?;
        let directory = found.path().to_owned();
        progress::note(format_args!("loading {}", directory.display()));
        let (isq, device) = (options.isq, options.device.location());
        let loaded = format!("{isq:?} {device:?} {:?}", options.dtype);
        Ok(Self {
            weights: format!("{} {loaded}", found.key()?),
            file: path.to_owned(),
            llama: Llama::load(&directory, options)?,
            chat: Chat::load(&directory)?,
            recipe,
            directory,
            items,
            trunks: Arc::default(),
        })
    }

    /// What a stage depends on: the weights, `parts` of the recipe, and the user's files
    /// that it names.
    pub fn inputs(&self, parts: &[&dyn Part]) -> String {
        let parts: Vec<String> = parts.iter().map(|p| p.json()).collect();
        let files: Vec<String> = (self.recipe.files().iter())
            .filter_map(|file| files::read(file).ok())
            .map(|bytes| files::sha256([bytes.as_slice()]))
            .collect();
        format!("{} {} {files:?}", self.weights, parts.join(" "))
    }

    /// Test claims as questions.
    pub fn claim_questions(&self) -> Vec<Question> {
        self.items
            .test
            .iter()
            .map(|c| claim_question(&self.recipe, c))
            .collect()
    }

    /// The system prompt without a persona.
    pub fn plain(&self) -> Vec<String> {
        vec![self.recipe.prompt.system.clone()]
    }

    /// Our own forward under `interventions` and `adapter`.
    pub fn own<'a>(
        &'a self,
        interventions: &'a [Intervention],
        adapter: Option<&'a Adapter>,
    ) -> OwnForward<'a> {
        let how = Generation {
            interventions,
            adapter,
            ..Generation::default()
        };
        OwnForward {
            model: &self.llama,
            chat: &self.chat,
            how,
        }
    }

    /// Asks `answerer` all that the recipe measures on test items.
    ///
    /// # Errors
    /// When the model fails, or a text file cannot be read.
    pub fn measure(
        &self,
        model: &str,
        answerer: &dyn Answerer,
        systems: &[String],
        progress: &mut dyn FnMut(usize),
    ) -> Result<Measured> {
        let evaluation = &self.recipe.evaluation;
        let claims = self.claim_questions();
        let mut put = |questions: &[Question], from: usize| {
            let (chat, recipe) = (&self.chat, &self.recipe);
            let mut progress = |done| progress(from + done);
            ask(answerer, chat, recipe, systems, questions, &mut progress)
        };
        let (texts, verdicts) = put(&claims, 0)?;
        let choices = match self.items.choices.as_slice() {
            [] => None,
            choices => Some(put(choices, claims.len())?.1),
        };
        let mut row = ModelRow {
            model: model.to_owned(),
            claims: Outcomes::of(&verdicts),
            choices: choices.as_deref().map(Outcomes::of),
            claim_verdicts: verdicts,
            choice_verdicts: choices.unwrap_or_default(),
            sample: texts
                .first()
                .map(|t| t.trim().to_owned())
                .unwrap_or_default(),
            ..ModelRow::default()
        };
        let mut odds = Vec::new();
        // What is read off logits has no generation in which a gate could be decided.
        if let Some(variant) = answerer
            .variant()
            .filter(|c| !decided_once(c.interventions))
        {
            // Labels of several tokens can be read from text, but have no log-odds.
            let choices = Choice::of_questions(&self.chat, &self.recipe, systems, &claims);
            if let Ok(choices) = choices {
                odds = log_odds(&variant, &choices, &mut |_| {})?;
                row.log_odds = Some(odds.iter().sum::<f64>() / odds.len().max(1) as f64);
            }
            // These texts have no system prompt, so a persona would change nothing.
            let plain = systems == self.plain();
            if let (Some(from), true) = (&evaluation.perplexity, plain) {
                let texts = sequences(&self.chat, from)?;
                row.perplexity = Some(perplexity(&variant, &texts)?);
            }
            if let (Some(from), true) = (&evaluation.neutral, plain) {
                let encode = |t: &String| self.chat.encode(t);
                let texts = texts_of(from)?;
                let ids = texts.iter().map(encode);
                let ids = ids.collect::<reptune_recipes::Result<Vec<_>>>()?;
                let base = ModelVariant::base(variant.model);
                row.divergence = Some(divergence(&base, &variant, &ids)?);
            }
        }
        Ok(Measured {
            row,
            odds,
            open: Vec::new(),
        })
    }

    /// Answers to the recipe's open questions, if there are any.
    ///
    /// # Errors
    /// When their file cannot be read, or the model fails.
    pub fn open_answers(&self, answerer: &dyn Answerer, systems: &[String]) -> Result<Vec<String>> {
        let Some(open) = &self.recipe.evaluation.open_ended else {
            return Ok(Vec::new());
        };
        let system = systems.first().map_or("", |s| s);
        let prompt = |q: &String| self.chat.prompt(&Message::conversation(system, q));
        let prompts = self.open_questions()?;
        let prompts = prompts.iter().map(prompt);
        let prompts = prompts.collect::<reptune_recipes::Result<Vec<_>>>()?;
        let said = answerer.answer(&prompts, open.max_new_tokens, &mut |_| {})?;
        Ok(said.iter().map(|text| text.trim().to_owned()).collect())
    }

    /// The recipe's open questions.
    ///
    /// # Errors
    /// When their file cannot be read.
    pub fn open_questions(&self) -> Result<Vec<String>> {
        let Some(open) = &self.recipe.evaluation.open_ended else {
            return Ok(Vec::new());
        };
        let mut questions = texts_of(&open.texts())?;
        questions.truncate(open.limit);
        Ok(questions)
    }

    /// The directions that steer: the extracted ones, changed as the recipe says.
    ///
    /// # Errors
    /// When a direction file cannot be read or does not fit.
    pub fn steering_directions(&self, extracted: &DirectionSet) -> Result<DirectionSet> {
        let spec = self.llama.spec();
        Ok(self.recipe.steering.directions(extracted, spec)?)
    }

    /// `coeff` as tables show it: with the fraction of the mean residual norm that each
    /// steered layer gets, where norms are known.
    pub fn dose(&self, directions: &DirectionSet, coeff: f64) -> String {
        let layers = &self.recipe.steering.layers;
        match directions.natural_coeff(layers, layers.len() as f64) {
            Ok(whole) => format!("{coeff:+.1} ({:+.2} norm)", coeff / whole),
            Err(_) => format!("{coeff:+.1}"),
        }
    }

    /// The recipe's steering with `coeff`, seen to do something on a few claims.
    ///
    /// # Errors
    /// When the directions lack a layer, or nothing changes.
    pub fn steering(&self, directions: &DirectionSet, coeff: f64) -> Result<Intervention> {
        let steering = &self.recipe.steering;
        let intervention =
            steering.intervention(directions, Dose::Total(coeff), self.llama.spec())?;
        let effect = check_effect(&self.llama, &intervention, &self.probed()?, None, 2)?;
        // A dose of zero and a gate may be meant to do nothing here.
        if coeff != 0. && steering.gate.is_none() {
            effect.require()?;
        }
        Ok(intervention)
    }

    /// A few claims as prompts, on which steering is seen to do something.
    ///
    /// # Errors
    /// When the template fails.
    pub fn probed(&self) -> Result<Vec<Vec<u32>>> {
        let prompts = self.items.validation.iter().take(PROBED).map(|claim| {
            let question = claim_question(&self.recipe, claim);
            self.chat.prompt(&Message::conversation(
                &self.recipe.prompt.system,
                &question.text,
            ))
        });
        Ok(prompts.collect::<reptune_recipes::Result<_>>()?)
    }

    /// The coeffs for the positive and the negative direction: the recipe's own, or
    /// of its fractions those under which most validation claims are answered
    /// honestly and least. `progress` is called with the number of fractions tried.
    ///
    /// # Errors
    /// When the model fails, or the directions have no reference norms.
    pub fn coeffs(
        &self,
        directions: &DirectionSet,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Coeffs> {
        let s = &self.recipe.steering;
        if let Some(coeff) = s.total() {
            return Ok(Coeffs {
                positive: coeff,
                negative: -coeff,
                tried: Vec::new(),
            });
        }
        let questions: Vec<Question> = self
            .items
            .validation
            .iter()
            .map(|c| claim_question(&self.recipe, c))
            .collect();
        let prompts = asked(&self.chat, &self.plain(), &questions)?;
        let cache = ActivationCache::for_generation(&self.llama, &prompts, &s.layers, None)?;
        let (mut doses, mut variants) = (Vec::new(), Vec::new());
        for sign in [1., -1.] {
            for fraction in s.fractions.iter().map(|fraction| sign * fraction) {
                let coeff = directions.natural_coeff(&s.layers, fraction)? * s.layers.len() as f64;
                variants.push(vec![self.steering(directions, coeff)?]);
                doses.push((coeff, fraction));
            }
        }
        let mut own = self.own(&[], None);
        own.how.cache = Some(&cache);
        let new = self.recipe.evaluation.max_new_tokens;
        let mut done = |answers| progress(answers / questions.len().max(1));
        let answers = own.answer_variants(&prompts, &variants, new, &mut done)?;
        let tried = doses.into_iter().zip(answers);
        let tried = tried.map(|((coeff, fraction), texts)| Tried {
            coeff,
            fraction,
            outcomes: Outcomes::of(&verdicts(&texts, &questions, &self.recipe)),
        });
        let tried: Vec<Tried> = tried.collect();
        // Of equal effects the smallest dose.
        let best = |sign: f64, score: &dyn Fn(&Tried) -> usize| {
            let side = tried.iter().filter(|t| t.fraction * sign > 0.);
            side.max_by(|a, b| {
                score(a)
                    .cmp(&score(b))
                    .then(b.coeff.abs().total_cmp(&a.coeff.abs()))
            })
            .map_or(0., |t| t.coeff)
        };
        Ok(Coeffs {
            positive: best(1., &|t| t.outcomes.positive),
            negative: best(-1., &|t| t.outcomes.negative),
            tried,
        })
    }
}

impl Answerer for Engine {
    fn answer(
        &self,
        prompts: &[Vec<u32>],
        max_new_tokens: usize,
        progress: &mut dyn FnMut(usize),
    ) -> reptune_recipes::Result<Vec<String>> {
        let mut answers = Vec::new();
        for ids in prompts {
            let answer = self.generate(ids, max_new_tokens);
            answers.push(answer.map_err(|e| reptune_recipes::Error::Runtime(Box::new(e)))?);
            progress(answers.len());
        }
        Ok(answers)
    }
}

/// A part of a recipe, of any type.
pub trait Part {
    /// As JSON.
    fn json(&self) -> String;
}

impl<T: serde::Serialize> Part for T {
    fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// Whether one of them has a gate that is decided while a prompt is generated from.
fn decided_once(interventions: &[Intervention]) -> bool {
    let gates = interventions.iter().filter_map(Intervention::gate);
    gates
        .map(Gate::decide)
        .any(|d| matches!(d, Decide::OncePerPrompt { .. }))
}

/// What a model answered.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Measured {
    /// Its row of the report.
    pub row: ModelRow,
    /// Log-odds of the true letter of the test claims; none where logits cannot be read.
    pub odds: Vec<f64>,
    /// Its answers to the open questions.
    pub open: Vec<String>,
}

/// A coeff that was tried on the validation claims.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Tried {
    /// The coeff.
    pub coeff: f64,
    /// It as a fraction of the mean residual norm, per layer.
    pub fraction: f64,
    /// What was answered.
    pub outcomes: Outcomes,
}

/// The coeffs of a run.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Coeffs {
    /// Above 0.
    pub positive: f64,
    /// Below 0.
    pub negative: f64,
    /// What was tried, if the recipe left it open.
    pub tried: Vec<Tried>,
}
