//! Contrast pairs of prompts, and the rows of them that are captured.

use crate::chat::{Chat, Message};
use crate::data::Claim;
use crate::error::{Error, Result};
use crate::recipe::{Pairing, Place, Recipe};

/// A prompt that ends in an answer.
pub(super) struct Side {
    pub ids: Vec<u32>,
    /// Index of the answer letter in `ids`.
    pub answer: usize,
    /// Which label the letter is: 0 or 1.
    pub letter: usize,
    /// For every place, the indices in `ids` whose mean row is captured.
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
    /// When a prompt is shorter than an offset, or a label is not one token.
    pub fn all(chat: &Chat, recipe: &Recipe, claims: &[Claim]) -> Result<Vec<Self>> {
        let (yes, no): (Vec<&Claim>, Vec<&Claim>) = claims.iter().partition(|c| c.label);
        let side = |personas: &[String], turn: usize, claim: &Claim, letter: usize| {
            Side::new(
                chat,
                recipe,
                &personas[turn % personas.len()],
                claim,
                letter,
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
        letter: usize,
    ) -> Result<Self> {
        let worded = recipe.prompt.worded(&claim.text);
        let messages = Message::conversation(persona, &worded.text);
        let mut ids = chat.prompt(&messages)?;
        let answer = ids.len();
        ids.push(chat.label_token(&messages, &recipe.prompt.labels[letter])?);
        let at = |key: &str, offset: i64| {
            let index = answer as i64 - 1 - offset;
            if index < 0 || index > answer as i64 {
                return Err(Error::input(
                    &recipe.name,
                    key,
                    format!("-1 to {}", answer - 1),
                    offset.to_string(),
                    format!("the prompt of `{}` has {answer} tokens", claim.text),
                ));
            }
            Ok(index as usize)
        };
        let key = match (
            &recipe.extraction.rows,
            recipe.extraction.offsets.as_slice(),
        ) {
            (Some(_), _) => "extraction.rows",
            (None, []) => "extraction.offset",
            (None, _) => "extraction.offsets",
        };
        let rows = |place: &Place| match place {
            Place::Offset(offset) => Ok(vec![at(key, *offset)?]),
            Place::Mean { from, to } => (*from..=*to).map(|o| at(key, o)).collect(),
            Place::Marked(name) => {
                let byte = worded.markers.get(name).ok_or_else(|| {
                    Error::input(
                        &recipe.name,
                        key,
                        format!("a marker of prompt.claim, {:?}", recipe.prompt.markers()),
                        format!("`{name}`"),
                        format!("write <<{name}>> after the token that is meant"),
                    )
                })?;
                Ok(vec![chat.token_before(&messages, *byte)?])
            }
        };
        let places = recipe.extraction.places();
        let captured = places.iter().map(rows).collect::<Result<_>>()?;
        Ok(Self {
            ids,
            answer,
            letter,
            captured,
        })
    }
}
