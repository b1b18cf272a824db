//! How much of a tuning's effect a model shows: its answers, compared with the base and the
//! unquantized tuned model.

use crate::error::Result;
use reptune_adapters::DirectionSet;
use reptune_recipes::data::{Claim, claim_question, texts};
use reptune_recipes::evaluate::{ClaimScores, alignment};
use reptune_recipes::score::{Choice, ModelVariant, TextKind, divergence, log_odds};
use reptune_recipes::{Chat, Recipe};

/// Questions and texts on which models are compared.
pub struct RetentionCheck<'a> {
    choices: Vec<Choice>,
    ids: Vec<Vec<u32>>,
    neutral: Vec<Vec<u32>>,
    directions: Option<&'a DirectionSet>,
    recipe: &'a Recipe,
}

/// What a model did in a [`RetentionCheck`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetentionScores {
    /// Answers and log-odds.
    pub behaviour: ClaimScores,
    /// Mean cosine of the tuned positions to the direction, if there is one.
    pub cosine: Option<f64>,
    /// Mean KL divergence from the reference on the neutral texts, if there are some.
    pub divergence: Option<f64>,
}

impl<'a> RetentionCheck<'a> {
    /// A check on `claims`, and on the recipe's neutral texts.
    ///
    /// # Errors
    /// When a text cannot be read, or a label is more than one token.
    pub fn new(
        chat: &Chat,
        recipe: &'a Recipe,
        claims: &[Claim],
        directions: Option<&'a DirectionSet>,
    ) -> Result<Self> {
        let questions: Vec<_> = claims.iter().map(|c| claim_question(recipe, c)).collect();
        let system = std::slice::from_ref(&recipe.prompt.system);
        let choices = Choice::of_questions(chat, recipe, system, &questions)?;
        let mut neutral = Vec::new();
        if let Some(from) = &recipe.evaluation.neutral {
            for text in texts(from)? {
                neutral.push(chat.encode(&text)?);
            }
        }
        Ok(Self {
            ids: choices.iter().map(|c| c.prompt.clone()).collect(),
            choices,
            neutral,
            directions,
            recipe,
        })
    }

    /// Scores `model`; `reference` is the model from which the KL divergence is measured.
    ///
    /// # Errors
    /// When a forward fails.
    pub fn scores(
        &self,
        model: &ModelVariant,
        reference: Option<&ModelVariant>,
    ) -> Result<RetentionScores> {
        let odds = log_odds(model, &self.choices, &mut |_| {})?;
        let tuning = &self.recipe.tuning;
        let place = (tuning.all_representation_layers(), &*tuning.offsets());
        let cosine = |d| alignment(model, &self.ids, d, place);
        let divergence = match reference {
            Some(reference) if !self.neutral.is_empty() => Some(divergence(
                reference,
                model,
                &self.neutral,
                TextKind::Generated,
            )?),
            _ => None,
        };
        Ok(RetentionScores {
            behaviour: ClaimScores::of(&odds),
            cosine: self.directions.map(cosine).transpose()?,
            divergence,
        })
    }
}
