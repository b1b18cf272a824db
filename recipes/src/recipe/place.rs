//! Places in a prompt whose residual rows are captured.

use super::Wrong;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// One place in a prompt: what a direction set is made of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Place {
    /// A token counted back from the last prompt token (0); -1 is the answer letter.
    Offset(i64),
    /// The mean of the rows at all offsets of a span, both ends included.
    Mean {
        /// The offset nearer to the answer.
        from: i64,
        /// The offset farther from it.
        to: i64,
    },
    /// The token before a marker of the claim template.
    Marked(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Offset(offset) => write!(f, "offset {offset} from the last prompt token"),
            Self::Mean { from, to } => {
                write!(
                    f,
                    "mean of offsets {from} to {to} from the last prompt token"
                )
            }
            Self::Marked(name) => write!(f, "token before <<{name}>>"),
        }
    }
}

/// The `rows` key of `[extraction]`: one or several places in a word.
///
/// Written `answer` (the answer letter), `last:K` (each of the last K prompt
/// tokens, a direction set for each), `mean:FROM..TO` (the mean over these
/// offsets) or the name of a marker of the claim template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Rows {
    /// The answer letter.
    Answer,
    /// Each of the last K prompt tokens.
    Last(usize),
    /// The mean of a span of offsets.
    Mean(i64, i64),
    /// The token before a marker.
    Marked(String),
}

impl Rows {
    /// The places, nearest to the answer first.
    pub fn places(&self) -> Vec<Place> {
        match self {
            Self::Answer => vec![Place::Offset(-1)],
            Self::Last(k) => (0..*k as i64).map(Place::Offset).collect(),
            Self::Mean(from, to) => vec![Place::Mean {
                from: *from,
                to: *to,
            }],
            Self::Marked(name) => vec![Place::Marked(name.clone())],
        }
    }

    pub(super) fn check(&self, markers: &[String]) -> Result<(), Wrong> {
        match self {
            Self::Marked(name) if !markers.contains(name) => Wrong::key(
                "extraction.rows",
                format!("answer, last:K, mean:FROM..TO or a marker of prompt.claim, {markers:?}"),
                format!("`{name}`"),
            ),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer => f.write_str("answer"),
            Self::Last(k) => write!(f, "last:{k}"),
            Self::Mean(from, to) => write!(f, "mean:{from}..{to}"),
            Self::Marked(name) => f.write_str(name),
        }
    }
}

impl FromStr for Rows {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "rows are `{text}`, expected answer, last:K (K > 0), mean:FROM..TO (-1 <= FROM <= TO) or the name of a marker"
            )
        };
        match text.split_once(':') {
            None if text == "answer" => Ok(Self::Answer),
            None if is_name(text) => Ok(Self::Marked(text.into())),
            Some(("last", k)) => match k.parse() {
                Ok(k) if k > 0 => Ok(Self::Last(k)),
                _ => Err(wrong()),
            },
            Some(("mean", span)) => {
                let (from, to) = span.split_once("..").ok_or_else(wrong)?;
                match (from.trim().parse(), to.trim().parse()) {
                    (Ok(from), Ok(to)) if -1 <= from && from <= to => Ok(Self::Mean(from, to)),
                    _ => Err(wrong()),
                }
            }
            _ => Err(wrong()),
        }
    }
}

impl TryFrom<String> for Rows {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Rows> for String {
    fn from(rows: Rows) -> Self {
        rows.to_string()
    }
}

/// Whether `text` can name a marker: a lower-case letter, then letters, digits, `-`.
pub(super) fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_written_as_they_are_read() {
        for text in ["answer", "last:22", "mean:-1..7", "claim-end"] {
            let rows: Rows = text.parse().expect(text);
            assert_eq!(rows.to_string(), text);
        }
        let rows: Rows = "last:3".parse().expect("rows");
        assert_eq!(rows.places(), [0, 1, 2].map(Place::Offset));
    }

    #[test]
    fn nonsense_is_refused_with_the_forms_that_are_taken() {
        for text in [
            "",
            "last:0",
            "mean:3..1",
            "mean:-2..1",
            "SYS",
            "a b",
            "first:2",
        ] {
            let message = text.parse::<Rows>().expect_err(text);
            assert!(
                message.contains("last:K") && message.contains(text),
                "{message}"
            );
        }
    }
}
