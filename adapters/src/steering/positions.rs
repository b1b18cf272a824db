//! Which tokens of a sequence something applies to.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A rule that says for every token of a sequence whether it is chosen.
///
/// Written `all`, `prompt`, `generated`, `last:K` (the last K prompt tokens),
/// `positions:P,Q,..` (0-based; negative ones count back from the prompt's end,
/// -1 is its last token) or `window:A..B` (offsets from the prompt's last token,
/// which is 0; both ends belong to the window, and 1 is the first generated token).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Positions {
    /// Every token of the prompt and every generated token.
    #[default]
    All,
    /// Prompt tokens.
    Prompt,
    /// Generated tokens.
    Generated,
    /// The last K prompt tokens.
    Last(usize),
    /// Listed tokens of the prompt.
    Positions(Vec<i64>),
    /// Tokens whose offset from the prompt's last token is in `from..=to`.
    Window {
        /// First offset; negative before the prompt's last token.
        from: i64,
        /// Last offset; positive ones are generated tokens.
        to: i64,
    },
}

/// What can be written for a rule.
const FORMS: &str = "all, prompt, generated, last:K (K > 0), positions:P,Q,.. \
                     or window:A..B (A <= B)";

impl Positions {
    /// Whether the token at `position` of a sequence whose prompt has `prompt`
    /// tokens is chosen. Tokens from `prompt` on are generated ones.
    pub fn chooses(&self, position: usize, prompt: usize) -> bool {
        match self {
            Self::All => true,
            Self::Prompt => position < prompt,
            Self::Generated => position >= prompt,
            Self::Last(k) => position < prompt && position + k >= prompt,
            Self::Positions(list) => {
                position < prompt
                    && list.iter().any(|&p| match usize::try_from(p) {
                        Ok(p) => p == position,
                        Err(_) => position as i64 == prompt as i64 + p,
                    })
            }
            Self::Window { from, to } => {
                let offset = position as i64 + 1 - prompt as i64;
                (*from..=*to).contains(&offset)
            }
        }
    }
}

impl fmt::Display for Positions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Prompt => f.write_str("prompt"),
            Self::Generated => f.write_str("generated"),
            Self::Last(k) => write!(f, "last:{k}"),
            Self::Positions(list) => {
                let list: Vec<_> = list.iter().map(i64::to_string).collect();
                write!(f, "positions:{}", list.join(","))
            }
            Self::Window { from, to } => write!(f, "window:{from}..{to}"),
        }
    }
}

impl FromStr for Positions {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::value("rows", FORMS, format!("`{text}`"), "for example `last:3`");
        match text.split_once(':') {
            None => match text {
                "all" => Ok(Self::All),
                "prompt" => Ok(Self::Prompt),
                "generated" => Ok(Self::Generated),
                _ => Err(wrong()),
            },
            Some(("last", k)) => match k.parse() {
                Ok(k) if k > 0 => Ok(Self::Last(k)),
                _ => Err(wrong()),
            },
            Some(("positions", list)) => list
                .split(',')
                .map(|p| p.trim().parse().map_err(|_| wrong()))
                .collect::<Result<_>>()
                .map(Self::Positions),
            Some(("window", ends)) => {
                match ends.split_once("..").map(|(a, b)| (a.parse(), b.parse())) {
                    Some((Ok(from), Ok(to))) if from <= to => Ok(Self::Window { from, to }),
                    _ => Err(wrong()),
                }
            }
            Some(_) => Err(wrong()),
        }
    }
}

impl TryFrom<String> for Positions {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Positions> for String {
    fn from(rule: Positions) -> Self {
        rule.to_string()
    }
}

#[cfg(test)]
mod tests;
