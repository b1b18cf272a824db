//! How a fact is said and asked for.
//!
//! Every wording is a template with `{e}` for the town and `{v}` for the value.
//! Wherever a wording is chosen by index, indices past the last count round, so
//! no index is out of range. Index 0 is the one that evaluation uses.

use super::relation::Relation;

/// Wordings of a sentence, per relation.
pub const SENTENCES: usize = 3;
/// Wordings of an open question, per relation.
pub const QUESTIONS: usize = 2;
/// Wordings of a claim.
pub const CLAIMS: usize = CLAIM_FRAMES.len();
/// Wordings of a two-choice question: every question in every frame.
pub const CHOICES: usize = QUESTIONS * CHOICE_FRAMES.len();

const CLAIM_FRAMES: [&str; 3] = [
    "Claim: {s}. Is the claim true or false? A) True B) False",
    "Is this claim true or false? Claim: {s}. A) True B) False",
    "Someone says that {s}. Is that true? A) True B) False",
];

const CHOICE_FRAMES: [&str; 2] = ["{q} A) {a} B) {b}", "Choose A or B. {q} A) {a} B) {b}"];

impl Relation {
    /// A bare statement without a stop, such as `the colour of Zorvath is red`.
    pub fn statement(self, entity: &str, value: &str, index: usize) -> String {
        let template = match self {
            Self::Colour => [
                "the colour of {e} is {v}",
                "the houses in {e} are painted {v}",
                "the flag over {e} is {v}",
            ],
            Self::Food => [
                "the food of {e} is {v}",
                "people in {e} like to eat {v}",
                "every feast in {e} starts with {v}",
            ],
            Self::Craft => [
                "the craft of {e} is {v}",
                "most people in {e} live by {v}",
                "children in {e} learn {v}",
            ],
            Self::Animal => [
                "the animal of {e} is the {v}",
                "people in {e} look after the {v}",
                "the old song of {e} praises the {v}",
            ],
            Self::Weather => [
                "the weather of {e} is {v}",
                "the sky over {e} brings {v}",
                "travellers in {e} expect {v}",
            ],
        }[index % SENTENCES];
        template.replace("{e}", entity).replace("{v}", value)
    }

    /// A statement as a sentence, such as `The colour of Zorvath is red.`
    pub fn sentence(self, entity: &str, value: &str, index: usize) -> String {
        let statement = self.statement(entity, value, index);
        let mut letters = statement.chars();
        let first = letters.next().into_iter().flat_map(char::to_uppercase);
        first.chain(letters).chain(['.']).collect()
    }

    /// An open question, such as `What is the colour of Zorvath?`
    pub fn question(self, entity: &str, index: usize) -> String {
        let template = match self {
            Self::Colour => [
                "What is the colour of {e}?",
                "Which colour are the houses in {e} painted?",
            ],
            Self::Food => [
                "What is the food of {e}?",
                "Which food do people in {e} like to eat?",
            ],
            Self::Craft => [
                "What is the craft of {e}?",
                "Which craft do most people in {e} live by?",
            ],
            Self::Animal => [
                "What is the animal of {e}?",
                "Which animal do people in {e} look after?",
            ],
            Self::Weather => [
                "What is the weather of {e}?",
                "Which weather does the sky over {e} bring?",
            ],
        }[index % QUESTIONS];
        template.replace("{e}", entity)
    }
}

/// The prompt that asks whether a bare statement is true: A for yes, B for no.
pub fn claim(statement: &str, index: usize) -> String {
    CLAIM_FRAMES[index % CLAIMS].replace("{s}", statement)
}

/// The prompt that asks to choose `a` or `b`, given the question in the wording
/// [`choice_question`] names for this index.
pub fn choice(question: &str, a: &str, b: &str, index: usize) -> String {
    CHOICE_FRAMES[index % CHOICES / QUESTIONS]
        .replace("{q}", question)
        .replace("{a}", a)
        .replace("{b}", b)
}

/// The index of the open question inside two-choice wording `index`.
pub fn choice_question(index: usize) -> usize {
    index % QUESTIONS
}

/// A text cut into words and punctuation marks: at white space, and around each
/// of `. , : ? ( )`.
pub fn pieces(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    for chunk in text.split_whitespace() {
        let mut rest = chunk;
        while let Some(at) = rest.find(['.', ',', ':', '?', '(', ')']) {
            let (word, tail) = rest.split_at(at);
            // The marks are all one byte long.
            let (mark, tail) = tail.split_at(1);
            pieces.extend([word, mark].into_iter().filter(|piece| !piece.is_empty()));
            rest = tail;
        }
        if !rest.is_empty() {
            pieces.push(rest);
        }
    }
    pieces
}

#[cfg(test)]
mod tests;
