//! Reads from free text which of two answers it gives.
//!
//! Text becomes words that know what ends them; names of the two answers are looked
//! for in the words of one sentence, and negations are counted over one clause.

use crate::data::Question;
use reptune_report::Verdict;

const NEGATIONS: [&str; 9] = [
    "not", "never", "cannot", "isnt", "wasnt", "arent", "doesnt", "dont", "cant",
];
const REJECTIONS: [&str; 4] = ["wrong", "incorrect", "untrue", "false"];
/// After a negation: the speaker says nothing about what follows.
const KNOWING: [&str; 8] = [
    "sure", "certain", "clear", "know", "tell", "say", "decide", "whether",
];
/// Nothing is said of what follows.
const OPEN: [&str; 3] = ["whether", "if", "neither"];
/// After `no`, show that it is a reply even without a comma.
const SUBJECTS: [&str; 10] = [
    "it", "it's", "that", "that's", "this", "the", "i", "they", "he", "she",
];
/// Where what was negated is over.
const TURNS: [&str; 7] = [
    "but", "because", "since", "as", "while", "rather", "instead",
];
const JOINS: [&str; 3] = ["and", "or", "nor"];
const BEING: [&str; 5] = ["is", "was", "isn't", "isnt", "wasn't"];

/// Reads an answer from text: the label, the option's own text, or for a claim
/// (options `true` and `false`) true, false, yes or no; all of them may be negated.
///
#[doc = include_str!("answers.md")]
pub fn verdict(text: &str, question: &Question, labels: &[String; 2]) -> Verdict {
    match Reader::new(&question.options, labels).read(text) {
        Some(said) if said == question.right => Verdict::Positive,
        Some(_) => Verdict::Negative,
        None => Verdict::Unscored,
    }
}

/// What stands between a word and the next, the weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tail {
    Space,
    Symbol,
    Clause,
    Sentence,
    Line,
    Question,
}

struct Word {
    /// In lower case.
    text: String,
    capital: bool,
    tail: Tail,
}

impl Word {
    fn is(&self, among: &[&str]) -> bool {
        among.contains(&self.text.as_str())
    }

    fn negates(&self) -> bool {
        self.is(&NEGATIONS) || self.text.ends_with("n't")
    }
}

/// A name of one of the two answers.
struct Name {
    words: Vec<String>,
    answer: usize,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Label,
    Text,
    /// Yes or no: counts when nothing else is named.
    Reply,
}

/// Knows the names of two answers.
struct Reader {
    names: Vec<Name>,
}

impl Reader {
    /// Answer i is named by its label and its option; with the options true and
    /// false also by yes and no.
    fn new(options: &[String; 2], labels: &[String; 2]) -> Self {
        let mut names = Vec::new();
        let mut add = |text: &str, answer, kind| {
            let words: Vec<String> = words(text).into_iter().map(|w| w.text).collect();
            if !words.is_empty() {
                names.push(Name {
                    words,
                    answer,
                    kind,
                });
            }
        };
        for i in 0..2 {
            add(&labels[i], i, Kind::Label);
            add(&options[i], i, Kind::Text);
            if let Some((first, rest)) = options[i].split_once(' ')
                && ["a", "an", "the"].contains(&first.to_lowercase().as_str())
            {
                add(rest, i, Kind::Text);
            }
        }
        let options = options.each_ref().map(|o| o.trim().to_lowercase());
        for i in 0..2 {
            if options[i] == "true" && options[1 - i] == "false" {
                add("yes", i, Kind::Reply);
                add("no", 1 - i, Kind::Reply);
                add("untrue", 1 - i, Kind::Text);
            }
        }
        Self { names }
    }

    /// The answer that `text` gives, 0 or 1; none if it gives none or both.
    fn read(&self, text: &str) -> Option<usize> {
        let mut words = words(text);
        for i in 0..words.len() {
            // `A. False` is one sentence.
            let starts = i == 0 || words[i - 1].tail >= Tail::Sentence;
            let label = |n: &Name| n.kind == Kind::Label && n.words == [words[i].text.as_str()];
            if starts && words[i].tail == Tail::Sentence && self.names.iter().any(label) {
                words[i].tail = Tail::Clause;
            }
        }
        let sentences: Vec<&[Word]> = words
            .split_inclusive(|w| w.tail >= Tail::Sentence)
            .filter(|s| s.last().is_some_and(|w| w.tail != Tail::Question))
            .collect();
        let mut replies = Vec::new();
        for (i, sentence) in sentences.iter().enumerate() {
            let said = self.said(sentence);
            let named: Vec<usize> = said.iter().filter(|s| !s.1).map(|s| s.0).collect();
            if let Some(&first) = named.first() {
                let lists = self.enumerates(sentence, first)
                    && sentences
                        .get(i + 1)
                        .is_some_and(|next| self.enumerates(next, 1 - first));
                return (!lists && named.iter().all(|n| *n == first)).then_some(first);
            }
            replies.extend(said.iter().map(|s| s.0));
        }
        let first = *replies.first()?;
        replies.iter().all(|r| *r == first).then_some(first)
    }

    /// Whether a sentence is an option of the question over again, as in `B) False`.
    fn enumerates(&self, sentence: &[Word], answer: usize) -> bool {
        let named = |i: usize, kind: Kind| {
            let name = self.name(sentence, i)?;
            (name.answer == answer && name.kind == kind).then_some(i + name.words.len())
        };
        named(0, Kind::Label)
            .filter(|end| sentence[end - 1].tail > Tail::Space)
            .and_then(|end| named(end, Kind::Text))
            .is_some_and(|end| end == sentence.len())
    }

    /// What the words of a sentence say: answers, and whether by yes or no.
    fn said(&self, words: &[Word]) -> Vec<(usize, bool)> {
        let mut said = Vec::new();
        let (mut negations, mut open) = (0, false);
        let mut i = 0;
        while let Some(word) = words.get(i) {
            let end = match self.name(words, i) {
                Some(name) if name.kind == Kind::Reply => {
                    said.push((name.answer, true));
                    i + name.words.len()
                }
                Some(name) => {
                    let end = i + name.words.len();
                    let flips = negations + self.rejected(words, end);
                    if !open {
                        said.push(((name.answer + flips) % 2, false));
                    }
                    // `not A or B` negates both.
                    let joined = words.get(end).is_some_and(|w| w.is(&JOINS));
                    if !joined || self.name(words, end + 1).is_none() {
                        negations = 0;
                    }
                    end
                }
                None => {
                    match word.text.as_str() {
                        "nor" => negations = 1,
                        "no" => {
                            let doubt = words.get(i + 1).is_some_and(|w| w.is(&["doubt"]));
                            negations += usize::from(!doubt && !reply(words, i));
                        }
                        _ if word.is(&TURNS) => (negations, open) = (0, false),
                        _ => {
                            negations += usize::from(word.negates() || word.is(&REJECTIONS));
                            open |= word.is(&OPEN) || negations > 0 && word.is(&KNOWING);
                        }
                    }
                    i + 1
                }
            };
            if words[end - 1].tail >= Tail::Clause {
                (negations, open) = (0, false);
            }
            i = end;
        }
        said
    }

    /// Negations in what is said of the name that ends before `end`: `A is not wrong`.
    fn rejected(&self, words: &[Word], end: usize) -> usize {
        if words[end - 1].tail >= Tail::Clause || !words.get(end).is_some_and(|w| w.is(&BEING)) {
            return 0;
        }
        let mut count = 0;
        for (i, word) in words.iter().enumerate().skip(end) {
            if word.is(&TURNS) || word.is(&JOINS) || self.name(words, i).is_some() {
                break;
            }
            count += usize::from(word.negates() || word.is(&REJECTIONS));
            if word.tail >= Tail::Clause {
                break;
            }
        }
        count
    }

    /// The longest name that starts at word `i`.
    fn name(&self, words: &[Word], i: usize) -> Option<&Name> {
        self.names
            .iter()
            .filter(|name| {
                let here = words.get(i..i + name.words.len());
                here.is_some_and(|w| w.iter().zip(&name.words).all(|(w, n)| w.text == *n))
                    && match name.kind {
                        Kind::Text => true,
                        Kind::Label => !self.article(words, i),
                        Kind::Reply => reply(words, i),
                    }
            })
            .max_by_key(|name| name.words.len())
    }

    /// Whether word `i` is the article `a`, not a label.
    fn article(&self, words: &[Word], i: usize) -> bool {
        let (word, Some(next)) = (&words[i], words.get(i + 1)) else {
            return false;
        };
        if word.text != "a" || word.tail > Tail::Space {
            return false;
        }
        // `A Red` names an option over again, `A red one` does not.
        let option = |n: &Name| {
            let end = i + 1 + n.words.len();
            let here = words.get(i + 1..end);
            n.kind == Kind::Text
                && here.is_some_and(|w| w.iter().zip(&n.words).all(|(w, n)| w.text == *n))
                && (end == words.len() || words[end - 1].tail > Tail::Space)
        };
        let label = next.is(&BEING)
            || next.is(&JOINS)
            || next.is(&TURNS)
            || next.negates()
            || word.capital && self.names.iter().any(option);
        !label
    }
}

/// Whether yes or no at word `i` is a reply: `no doubt` and `no one` are not.
fn reply(words: &[Word], i: usize) -> bool {
    let ends = i + 1 == words.len() || words[i].tail > Tail::Space;
    let heads = i == 0 || words[i - 1].tail >= Tail::Clause;
    let next = words.get(i + 1);
    ends || next.is_some_and(|w| w.is(&JOINS))
        || heads && (words[i].text == "yes" || next.is_some_and(|w| w.is(&SUBJECTS)))
}

/// Splits text into words. Apostrophes, hyphens and decimal points within a word
/// are part of it.
fn words(text: &str) -> Vec<Word> {
    let characters: Vec<char> = text
        .chars()
        .map(|c| if c == '’' { '\'' } else { c })
        .collect();
    let at = |i: usize| characters.get(i).copied().unwrap_or(' ');
    let mut words: Vec<Word> = Vec::new();
    let mut inside = false;
    for (i, &c) in characters.iter().enumerate() {
        let digits = i > 0 && at(i - 1).is_ascii_digit() && at(i + 1).is_ascii_digit();
        let infix = inside
            && (matches!(c, '\'' | '-') && at(i + 1).is_alphanumeric()
                || matches!(c, '.' | ',') && digits);
        if c.is_alphanumeric() || infix {
            if !inside {
                words.push(Word {
                    text: String::new(),
                    capital: c.is_uppercase(),
                    tail: Tail::Space,
                });
            }
            inside = true;
            if let Some(word) = words.last_mut() {
                word.text.extend(c.to_lowercase());
            }
            continue;
        }
        inside = false;
        let tail = match c {
            '?' => Tail::Question,
            '.' | '!' => Tail::Sentence,
            '\n' => Tail::Line,
            ',' | ';' | ':' | '–' | '—' => Tail::Clause,
            c if c.is_whitespace() => Tail::Space,
            _ => Tail::Symbol,
        };
        if let Some(word) = words.last_mut() {
            word.tail = word.tail.max(tail);
        }
    }
    words
}

#[cfg(test)]
mod tests;
