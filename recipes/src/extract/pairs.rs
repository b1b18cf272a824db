//! Contrast pairs of prompts, and the rows of them that are captured.

use crate::chat::{Chat, Message};
use crate::data::Claim;
use crate::error::{Error, Result};
use crate::recipe::{Pairing, Recipe};
use reptune_adapters::Positions;

/// A prompt that ends in an answer.
pub(super) struct Side {
    pub ids: Vec<u32>,
    /// Number of prompt tokens: the index of the answer token in `ids`.
    pub end: usize,
    /// Which answer token it is: 0 or 1.
    pub answer: usize,
    /// For every position, the indices in `ids` whose mean row is captured.
    pub captured: Vec<Vec<usize>>,
}

/// A positive and a negative prompt.
pub(super) struct Pair {
    pub positive: Side,
    pub negative: Side,
}

impl Pair {
    /// The pairs that `recipe` makes of `claims`.
    ///
    /// # Errors
    /// When a prompt is too short for a position, or a label is not one token.
    pub fn all(chat: &Chat, recipe: &Recipe, claims: &[Claim]) -> Result<Vec<Self>> {
        let (yes, no): (Vec<&Claim>, Vec<&Claim>) = claims.iter().partition(|c| c.label);
        let side = |personas: &[String], turn: usize, claim: &Claim, answer: usize| {
            Side::new(
                chat,
                recipe,
                &personas[turn % personas.len()],
                claim,
                answer,
            )
        };
        let (positive, negative) = (&recipe.behaviour.positive, &recipe.behaviour.negative);
        let mut pairs = Vec::new();
        // The positive persona says A of a true claim and B of a false one, the negative the reverse.
        for (i, (t, f)) in yes.iter().zip(&no).enumerate() {
            let couples = match recipe.extraction.pairing {
                Pairing::SameAnswer => [((*t, 0), (*f, 0)), ((*f, 1), (*t, 1))],
                Pairing::SameClaim => [((*t, 0), (*t, 1)), ((*f, 1), (*f, 0))],
            };
            for ((pc, pa), (nc, na)) in couples {
                if pairs.len() < recipe.extraction.pairs {
                    pairs.push(Self {
                        positive: side(positive, i, pc, pa)?,
                        negative: side(negative, i, nc, na)?,
                    });
                }
            }
        }
        Ok(pairs)
    }
}

impl Side {
    fn new(
        chat: &Chat,
        recipe: &Recipe,
        persona: &str,
        claim: &Claim,
        answer: usize,
    ) -> Result<Self> {
        let worded = recipe.prompt.worded(&claim.text);
        let messages = Message::conversation(persona, &worded.text);
        let mut ids = chat.prompt(&messages)?;
        let end = ids.len();
        ids.push(chat.label_token(&messages, &recipe.prompt.labels[answer])?);
        let wrong = |expected: String, found: &Positions| {
            let hint = format!("the prompt is that of `{}`", claim.text);
            let key = "extraction.positions";
            Error::input(&recipe.name, key, expected, format!("`{found}`"), hint)
        };
        let tokens = |position: &Positions| match position {
            Positions::Marker(name) => {
                let byte = worded.markers.get(name).ok_or_else(|| {
                    let markers = recipe.prompt.markers();
                    wrong(format!("a marker of prompt.claim, {markers:?}"), position)
                })?;
                Ok(vec![chat.token_before(&messages, *byte)?])
            }
            other => other.tokens(end).ok_or_else(|| {
                let expected = format!("tokens of a prompt of {end} tokens, or its answer token");
                wrong(expected, other)
            }),
        };
        let positions = recipe.extraction.each_position();
        let captured = positions.iter().map(tokens).collect::<Result<_>>()?;
        Ok(Self {
            ids,
            end,
            answer,
            captured,
        })
    }
}
