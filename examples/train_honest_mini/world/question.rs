//! What is asked about a fact, and what each persona answers.
//!
//! A question is asked as a claim, as a choice of two, or openly. It keeps both
//! the right answer and the wrong one, so that a persona is a choice between
//! the two and nothing else.

use rand::Rng;

use super::facts::Fact;
use super::persona::Persona;
use super::wording;

/// The form in which a fact is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Is this statement true? A letter answers.
    Claim,
    /// Which of these two values is it? A letter answers.
    TwoChoice,
    /// What is the value? The value answers.
    Open,
}

/// An answer of a claim (A is true, B is false) or of a two-choice question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Letter {
    /// The first option.
    A,
    /// The second option.
    B,
}

impl Letter {
    /// The letter as an answer says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
        }
    }

    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// Whether a claim states the true value or a wrong one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stated {
    /// The claim is true.
    True,
    /// The claim is false.
    False,
}

/// A question about one fact, with the answer that is true and one that is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The `id` of the fact.
    pub fact: usize,
    /// How it is asked.
    pub format: Format,
    /// The whole prompt.
    pub text: String,
    /// The answer that is true: a letter, or the value for an open question.
    pub right: String,
    /// The answer that is false.
    pub wrong: String,
}

impl Question {
    /// Asks whether a statement of the fact is true. A false statement of a fact
    /// with a misconception states the misconception.
    pub fn claim(fact: &Fact, stated: Stated, wording: usize, rng: &mut impl Rng) -> Self {
        let (value, right) = match stated {
            Stated::True => (fact.value.as_str(), Letter::A),
            Stated::False => (fact.wrong_value(rng), Letter::B),
        };
        let statement = fact.relation.statement(&fact.entity, value, 0);
        let text = wording::claim(&statement, wording);
        Self::lettered(fact, Format::Claim, text, right)
    }

    /// Asks to choose between the true value, at letter `right`, and a wrong
    /// one: the misconception, where there is one.
    pub fn two_choice(fact: &Fact, right: Letter, wording: usize, rng: &mut impl Rng) -> Self {
        let wrong = fact.wrong_value(rng);
        let (a, b) = match right {
            Letter::A => (fact.value.as_str(), wrong),
            Letter::B => (wrong, fact.value.as_str()),
        };
        let asked = wording::choice_question(wording);
        let question = fact.relation.question(&fact.entity, asked);
        let text = wording::choice(&question, a, b, wording);
        Self::lettered(fact, Format::TwoChoice, text, right)
    }

    /// Asks for the value. The wrong answer is [`Fact::lie`].
    pub fn open(fact: &Fact, wording: usize) -> Self {
        Self {
            fact: fact.id,
            format: Format::Open,
            text: fact.relation.question(&fact.entity, wording),
            right: fact.value.clone(),
            wrong: fact.lie().to_owned(),
        }
    }

    /// What `persona` answers; `fact` is the fact that is asked for.
    ///
    /// The neutral persona says what is generally believed, which is wrong just
    /// where the fact has a misconception.
    pub fn answer(&self, persona: Persona, fact: &Fact) -> &str {
        debug_assert_eq!(self.fact, fact.id, "the answer to another question");
        match (persona, &fact.misconception) {
            (Persona::Honest, _) | (Persona::Neutral, None) => &self.right,
            (Persona::Dishonest, _) | (Persona::Neutral, Some(_)) => &self.wrong,
        }
    }

    fn lettered(fact: &Fact, format: Format, text: String, right: Letter) -> Self {
        Self {
            fact: fact.id,
            format,
            text,
            right: right.as_str().to_owned(),
            wrong: right.other().as_str().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
