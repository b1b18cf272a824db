//! What a model answers and predicts by itself, and what a dose changes in it.

use crate::activation_cache::ActivationCache;
use crate::chat::Chat;
use crate::data::{Claim, claim_question};
use crate::error::{Error, Result};
use crate::extract::{CapturedPairs, Extracted};
use crate::grid::{GridCell, SteeringGrid};
use crate::recipe::{Recipe, Selection};
use crate::score::{Choice, ModelVariant, PackedChoices, ReferenceLogits, TextKind};
use reptune_adapters::{HookedModel, Positions, files};
use serde::{Deserialize, Serialize};

/// What a selection chooses from.
#[derive(Clone, Copy)]
pub struct SelectionInputs<'a> {
    /// The model.
    pub model: &'a dyn HookedModel,
    /// Its tokenizer and template.
    pub chat: &'a Chat,
    /// What is asked, where directions are added (`steering.positions`), and what is tried
    /// (`selection`).
    pub recipe: &'a Recipe,
    /// The directions of every place.
    pub found: &'a [Extracted],
    /// Rows of held-out claims at the same places.
    pub held_out: &'a CapturedPairs,
    /// The claims that are asked.
    pub claims: &'a [Claim],
}

/// What is measured of a dose.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct DoseScores {
    /// Mean shift of the log-odds, times the sign of the coeff.
    #[serde(with = "exact")]
    pub shift: f64,
    /// Mean KL on neutral text.
    #[serde(with = "exact")]
    pub kl: f64,
}

/// Numbers as text: JSON readers differ in the last bit of a number, and know no NaN.
mod exact {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(x: &f64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(x)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// Compares doses with the unsteered model.
pub(super) struct Doses<'a> {
    model: &'a dyn HookedModel,
    choices: Vec<Choice>,
    /// Log-odds of the unsteered model.
    odds: Vec<f64>,
    neutral: ReferenceLogits,
    /// Activations below the last dose: the same for all doses there.
    cache: Option<ActivationCache>,
}

impl<'a> Doses<'a> {
    /// Asks the unsteered model.
    pub fn new(inputs: SelectionInputs<'a>, settings: &Selection) -> Result<Self> {
        let (model, chat, recipe) = (inputs.model, inputs.chat, inputs.recipe);
        let claims = inputs.claims.iter().take(settings.claims);
        let questions: Vec<_> = claims.map(|c| claim_question(recipe, c)).collect();
        let system = [recipe.prompt.system.clone()];
        let choices = Choice::of_questions(chat, recipe, &system, &questions)?;
        let (kind, texts): (_, Vec<Vec<u32>>) = match settings.texts.as_slice() {
            // What follows the last token is the answer, which is meant to move.
            [] => {
                let prompts = choices.iter().take(settings.neutral).map(|c| &c.prompt);
                let begun = prompts.map(|p| p[..p.len() - 1].to_vec()).collect();
                (TextKind::Prompt, begun)
            }
            texts => {
                let texts = texts.iter().take(settings.neutral);
                let texts = texts.map(|t| chat.encode(t)).collect::<Result<_>>()?;
                (TextKind::Generated, texts)
            }
        };
        let texts: Vec<Vec<u32>> = texts.into_iter().filter(|t| !t.is_empty()).collect();
        let tokens: usize = texts.iter().map(Vec::len).sum();
        if choices.is_empty() || tokens == 0 {
            let expected = "validation claims and neutral text";
            let found = format!("{} claims and {tokens} tokens of text", choices.len());
            let (name, hint) = (&recipe.name, "give more data, or selection.texts");
            return Err(Error::input(name, "selection", expected, found, hint));
        }
        let base = ModelVariant::base(model);
        Ok(Self {
            model,
            odds: crate::score::log_odds(&base, &choices, &mut |_| {})?,
            choices,
            neutral: ReferenceLogits::new(&base, texts, kind)?,
            cache: None,
        })
    }

    /// A hash of what all doses depend on. What the unsteered model answers identifies the
    /// weights.
    pub fn inputs(&self, positions: &Positions) -> String {
        let bits = self.odds.iter().map(|x| x.to_bits().to_string());
        let bits: Vec<String> = bits.collect();
        let (texts, kind) = match (self.neutral.texts(), self.neutral.kind()) {
            (texts, TextKind::Prompt) => (texts, ""),
            (texts, TextKind::Generated) => (texts, " generated"),
        };
        let (choices, bits) = (&self.choices, bits.join(" "));
        let what = format!("{choices:?} {texts:?} {bits} {positions}{kind}");
        files::sha256([what.as_bytes()])
    }

    /// Measures the dose of `cell`.
    pub fn measure(&mut self, grid: &SteeringGrid, cell: &GridCell) -> Result<DoseScores> {
        let steering = [grid.intervention(cell)?];
        let variant = ModelVariant {
            interventions: &steering,
            ..ModelVariant::base(self.model)
        };
        let packed = PackedChoices::new(self.model.spec(), &self.choices, grid.mask())?;
        let prompts = || [packed.prompts(), self.neutral.texts().to_vec()].concat();
        self.cache = variant.cache(self.cache.take(), prompts)?;
        let cache = self.cache.as_ref();
        let steered = packed.log_odds(&variant, cache, &mut |_| {})?;
        let shifts = steered.iter().zip(&self.odds).map(|(s, b)| s - b);
        let sign = cell.total.signum();
        Ok(DoseScores {
            shift: sign * shifts.sum::<f64>() / self.odds.len() as f64,
            kl: self.neutral.divergence(&variant, cache)?,
        })
    }
}
