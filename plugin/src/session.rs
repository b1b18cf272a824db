//! A recipe with its model loaded and its items read: what every stage starts from.

use crate::decoder::{Llama, LoadOptions};
use crate::{error::Result, model::ModelDir, progress, runtime::Engine, store::Store};
use reptune_adapters::{Adapter, Decide, DirectionSet, Dose, HookedModel, Intervention, files};
use reptune_recipes::activation_cache::{ActivationCache, SharedActivations};
use reptune_recipes::data::{Claim, Items, Question, claim_question, sequences, texts as texts_of};
use reptune_recipes::effect_check::check_effect;
use reptune_recipes::evaluate::{Answerer, OwnForward, ask, asked, perplexity, verdicts};
use reptune_recipes::score::{Choice, ModelVariant, TextKind, divergence, log_odds};
use reptune_recipes::{Chat, Message, Recipe, generate::Generation, recipe::Mode, tune::Tuner};
use reptune_report::{ModelRow, Outcomes};
use serde::{Deserialize, Deserializer, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Claims on which the effect of steering is checked.
pub(crate) const CHECKED: usize = 4;

/// The most claims that calibrate.
const CALIBRATING: usize = 256;

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
    /// Activations of the model that its tunings share.
    pub activations: Arc<SharedActivations>,
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
        items.notes.iter().for_each(progress::line);
        let found = ModelDir::resolve(model.unwrap_or(&recipe.model))?;
        let directory = found.path().to_owned();
        progress::note(format_args!("loading {}", directory.display()));
        let (isq, device) = (options.isq, options.device.location());
        let loaded = format!("{isq:?} {device:?} {:?}", options.dtype);
        Ok(Self {
            weights: format!("{} {loaded}", found.key(Store::open().ok().as_ref())?),
            file: path.to_owned(),
            llama: Llama::load(&directory, options)?,
            chat: Chat::load(&directory)?,
            recipe,
            directory,
            items,
            activations: Arc::default(),
        })
    }

    /// What a stage depends on: the weights, `parts` of the recipe, and the content of the
    /// files that these parts name, wherever they lie.
    pub(crate) fn inputs(&self, parts: &[&dyn StageInput]) -> String {
        let parts: Vec<String> = parts.iter().map(|part| part.json()).collect();
        let mut parts = parts.join(" ");
        for file in self.recipe.files() {
            let name = file.json();
            // one that is missing is an error of the stage that reads it
            if let (true, Ok(bytes)) = (parts.contains(&name), files::read(&file))
                && !name.is_empty()
            {
                let content = files::sha256([bytes.as_slice()]);
                parts = parts.replace(&name, &content.json());
            }
        }
        format!("{} {parts}", self.weights)
    }

    /// What an extraction depends on.
    pub(crate) fn extraction_inputs(&self) -> String {
        let r = &self.recipe;
        let (claims, split) = (&r.data.claims, &r.data.split);
        self.inputs(&[
            &r.seed,
            &r.behaviour,
            &r.prompt,
            claims,
            split,
            &r.extraction,
        ])
    }

    /// What the answers of a model depend on, apart from the model.
    pub(crate) fn evaluation_inputs(&self) -> String {
        let r = &self.recipe;
        let mut evaluation = r.evaluation.clone();
        evaluation.judge = None; // who reads them later
        self.inputs(&[&r.seed, &r.prompt, &r.data, &evaluation])
    }

    /// `claims` as questions.
    pub fn questions(&self, claims: &[Claim]) -> Vec<Question> {
        let question = |claim| claim_question(&self.recipe, claim);
        claims.iter().map(question).collect()
    }

    /// Number of test questions.
    pub(crate) fn test_questions(&self) -> usize {
        self.items.test.len() + self.items.choices.len()
    }

    /// Prompts that calibrate the rounding of weights: training claims, as questions and as bare
    /// sentences.
    ///
    /// # Errors
    /// When the template fails.
    pub fn calibration(&self) -> Result<Vec<Vec<u32>>> {
        let mut prompts = Vec::new();
        for claim in self.items.train.iter().take(CALIBRATING) {
            let question = claim_question(&self.recipe, claim);
            let system = &self.recipe.prompt.system;
            let messages = Message::conversation(system, &question.text);
            prompts.push(self.chat.prompt(&messages)?);
            prompts.push(self.chat.encode(&claim.text)?);
        }
        let context = self.llama.spec().context;
        prompts.retain(|p| !p.is_empty() && p.len() <= context);
        Ok(prompts)
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
        OwnForward {
            model: &self.llama,
            chat: &self.chat,
            how: Generation {
                interventions,
                adapter,
                ..Generation::default()
            },
        }
    }

    /// A tuning of `mode` of `recipe` on `model`, with the claims of the session.
    pub(crate) fn tuner<'a>(
        &'a self,
        model: &'a dyn HookedModel,
        recipe: &'a Recipe,
        mode: Mode,
        directions: &DirectionSet,
    ) -> reptune_recipes::Result<Tuner<'a>> {
        let (train, validation) = (&self.items.train, &self.items.validation);
        Tuner::new(
            model, &self.chat, recipe, mode, directions, train, validation,
        )
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
        let (chat, recipe) = (&self.chat, &self.recipe);
        let claims = self.questions(&self.items.test);
        let mut put = |questions: &[Question], from: usize| {
            let mut progress = |done| progress(from + done);
            ask(answerer, chat, recipe, systems, questions, &mut progress)
        };
        let (texts, claim_verdicts) = put(&claims, 0)?;
        let choices = match self.items.choices.as_slice() {
            [] => None,
            choices => Some(put(choices, claims.len())?.1),
        };
        let mut row = ModelRow {
            model: model.to_owned(),
            claims: Outcomes::of(&claim_verdicts),
            choices: choices.as_deref().map(Outcomes::of),
            claim_verdicts,
            choice_verdicts: choices.unwrap_or_default(),
            sample: texts.first().map_or("", |t| t.trim()).to_owned(),
            ..ModelRow::default()
        };
        let mut odds = Vec::new();
        // What is read off logits has no generation in which a gate could be decided.
        let readable = |variant: &ModelVariant| {
            let mut gates = variant.interventions.iter().filter_map(Intervention::gate);
            !gates.any(|gate| matches!(gate.decide(), Decide::OncePerPrompt { .. }))
        };
        if let Some(variant) = answerer.variant().filter(readable) {
            // Labels of several tokens can be read from text, but have no log-odds.
            if let Ok(choices) = Choice::of_questions(chat, recipe, systems, &claims) {
                let read = log_odds(&variant, &choices, &mut |_| {});
                odds = or_left_out(read, model)?.unwrap_or_default();
                let mean = odds.iter().sum::<f64>() / odds.len() as f64;
                row.log_odds = Some(mean).filter(|_| !odds.is_empty());
            }
            // These texts have no system prompt, so a persona would change nothing.
            let plain = systems == self.plain();
            if let (Some(from), true) = (&recipe.evaluation.perplexity, plain) {
                let read = perplexity(&variant, &sequences(chat, from)?);
                row.perplexity = or_left_out(read, model)?;
            }
            if let (Some(from), true) = (&recipe.evaluation.neutral, plain) {
                let (texts, encode) = (texts_of(from)?, |t: &String| chat.encode(t));
                let ids: reptune_recipes::Result<Vec<_>> = texts.iter().map(encode).collect();
                let base = ModelVariant::base(variant.model);
                let read = divergence(&base, &variant, &ids?, TextKind::Generated);
                row.divergence = or_left_out(read, model)?;
            }
        }
        let open = Vec::new();
        Ok(Measured { row, odds, open })
    }

    /// Answers to the recipe's open questions, if there are any.
    pub(crate) fn open_answers(
        &self,
        answerer: &dyn Answerer,
        systems: &[String],
    ) -> Result<Vec<String>> {
        let Some(open) = &self.recipe.evaluation.open_ended else {
            return Ok(Vec::new());
        };
        let system = systems.first().map_or("", |s| s);
        let prompt = |q: &String| Ok(self.chat.prompt(&Message::conversation(system, q))?);
        let prompts = self.open_questions()?;
        let prompts: Vec<_> = prompts.iter().map(prompt).collect::<Result<_>>()?;
        let answers = answerer.answer(&prompts, open.max_new_tokens, &mut |_| {})?;
        Ok(answers.iter().map(|text| text.trim().to_owned()).collect())
    }

    /// The recipe's open questions.
    pub(crate) fn open_questions(&self) -> Result<Vec<String>> {
        let Some(open) = &self.recipe.evaluation.open_ended else {
            return Ok(Vec::new());
        };
        let mut questions = texts_of(&open.texts())?;
        questions.truncate(open.limit);
        Ok(questions)
    }

    /// `total` as tables show it: with the fraction of the mean residual norm that each
    /// steered layer gets, where norms are known.
    pub(crate) fn dose(&self, directions: &DirectionSet, total: f64) -> String {
        let layers = &self.recipe.steering.layers;
        match directions.natural_coeff(layers, layers.len() as f64) {
            Ok(whole) => format!("{total:+.1} ({:+.2} norm)", total / whole),
            Err(_) => format!("{total:+.1}"),
        }
    }

    /// The recipe's steering with `total`, after a check that it changes something on a few
    /// claims.
    ///
    /// # Errors
    /// When the directions lack a layer, or nothing changes.
    pub fn steering(&self, directions: &DirectionSet, total: f64) -> Result<Intervention> {
        let steering = &self.recipe.steering;
        let intervention =
            steering.intervention(directions, Dose::Total(total), self.llama.spec())?;
        let effect = check_effect(&self.llama, &intervention, &self.effect_prompts()?, None, 2)?;
        // A dose of zero and a gate may be meant to do nothing here.
        if total != 0. && steering.gate.is_none() {
            effect.require()?;
        }
        Ok(intervention)
    }

    /// A few claims as prompts, on which the effect of steering is checked.
    pub(crate) fn effect_prompts(&self) -> Result<Vec<Vec<u32>>> {
        let claims = &self.items.validation;
        let questions = self.questions(&claims[..claims.len().min(CHECKED)]);
        Ok(asked(&self.chat, &self.plain(), &questions)?)
    }

    /// The totals for the positive and the negative direction: the recipe's own, or
    /// of its fractions those under which most validation claims are answered
    /// honestly and least. `progress` is called with the number of fractions tried.
    pub(crate) fn totals(
        &self,
        directions: &DirectionSet,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Totals> {
        let s = &self.recipe.steering;
        if let Some(total) = s.total() {
            return Ok(Totals {
                positive: total,
                negative: -total,
                tried: Vec::new(),
            });
        }
        let questions = self.questions(&self.items.validation);
        let prompts = asked(&self.chat, &self.plain(), &questions)?;
        let cache = ActivationCache::for_generation(&self.llama, &prompts, &s.layers, None)?;
        let (mut tried, mut variants) = (Vec::new(), Vec::new());
        for sign in [1., -1.] {
            for fraction in s.fractions.iter().map(|fraction| sign * fraction) {
                let total = directions.natural_coeff(&s.layers, fraction)? * s.layers.len() as f64;
                variants.push(vec![self.steering(directions, total)?]);
                let outcomes = Outcomes::default();
                tried.push(Tried {
                    total,
                    fraction,
                    outcomes,
                });
            }
        }
        let mut own = self.own(&[], None);
        own.how.cache = Some(&cache);
        let new = self.recipe.evaluation.max_new_tokens;
        let mut done = |answers| progress(answers / questions.len().max(1));
        let answers = own.answer_variants(&prompts, &variants, new, &mut done)?;
        for (tried, texts) in tried.iter_mut().zip(answers) {
            tried.outcomes = Outcomes::of(&verdicts(&texts, &questions, &self.recipe));
        }
        // Of equal effects the smallest dose.
        let best = |sign: f64, score: fn(&Outcomes) -> usize| {
            let side = tried.iter().filter(|t: &&Tried| t.fraction * sign > 0.);
            let best = side.max_by(|a, b| {
                let scores = score(&a.outcomes).cmp(&score(&b.outcomes));
                scores.then(b.total.abs().total_cmp(&a.total.abs()))
            });
            best.map_or(0., |t| t.total)
        };
        Ok(Totals {
            positive: best(1., |o| o.positive),
            negative: best(-1., |o| o.negative),
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

/// What was read of `model`; none, and a line that says so, where its steering acts on nothing
/// that is read.
fn or_left_out<T>(read: reptune_recipes::Result<T>, model: &str) -> Result<Option<T>> {
    match read {
        Err(reptune_recipes::Error::Unsteered(e)) => {
            progress::line(format_args!("{model}: left out: {e}"));
            Ok(None)
        }
        read => Ok(Some(read?)),
    }
}

/// A part of a recipe as an input of [`Session::inputs`].
pub(crate) trait StageInput {
    fn json(&self) -> String;
}

impl<T: Serialize> StageInput for T {
    fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What a model answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Measured {
    /// Its row of the report.
    pub row: ModelRow,
    /// Log-odds of the true answer to the test claims; none where logits cannot be read.
    #[serde(deserialize_with = "numbers")]
    pub odds: Vec<f64>,
    /// Its answers to the open questions.
    pub open: Vec<String>,
}

/// Numbers of which JSON writes those that are not finite as null.
fn numbers<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Vec<f64>, D::Error> {
    let read: Vec<Option<f64>> = Vec::deserialize(from)?;
    Ok(read.into_iter().map(|x| x.unwrap_or(f64::NAN)).collect())
}

/// A total that was tried on the validation claims.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Tried {
    #[serde(alias = "coeff")]
    pub total: f64,
    /// The total as a fraction of the mean residual norm, per layer.
    pub fraction: f64,
    pub outcomes: Outcomes,
}

/// The totals of a run, above and below 0, and what was tried if the recipe leaves them open.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Totals {
    pub positive: f64,
    pub negative: f64,
    pub tried: Vec<Tried>,
}
