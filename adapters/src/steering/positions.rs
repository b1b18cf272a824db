//! Which tokens of a sequence something applies to: one grammar for extraction, steering
//! and tuning, in recipes and on the command line.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

#[cfg(test)]
mod tests;

/// A rule that names tokens of a sequence.
///
/// | written | tokens |
/// |---|---|
/// | `all` | every token of the prompt and every generated token |
/// | `prompt` | every prompt token |
/// | `generated` | every generated token |
/// | `last:K` | the last K prompt tokens |
/// | `at:P,Q,..` | listed prompt tokens: 0 is the first, -1 the last |
/// | `window:A..B` | tokens from A to B, counted from the prompt's last token, which is 0 |
/// | `answer` | the answer token: the first token after the prompt |
/// | `mean:A..B` | the mean over the tokens of `window:A..B` |
/// | `<name>` | the token before the marker `<<name>>` of the recipe's template |
///
/// Both ends of `A..B` belong to the window, and 1 is the first token after the prompt.
/// Not every form makes sense everywhere; see [`Positions::check`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
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
    /// Listed tokens of the prompt; negative ones count back from its end.
    At(Vec<i64>),
    /// Tokens whose offset from the prompt's last token is in `from..=to`.
    Window {
        /// First offset; negative before the prompt's last token.
        from: i64,
        /// Last offset; positive ones are generated tokens.
        to: i64,
    },
    /// The first token after the prompt.
    Answer,
    /// The mean over the tokens of a window.
    Mean {
        /// First offset.
        from: i64,
        /// Last offset.
        to: i64,
    },
    /// The token before a marker of the recipe's template.
    Marker(String),
}

/// What positions are used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PositionsUse {
    /// Tokens whose residual rows make a direction: each gives a direction set.
    Extraction,
    /// Tokens that an intervention changes.
    Steering,
    /// Tokens at which the representation loss compares with the direction.
    Tuning,
}

/// What can be written.
const FORMS: &str = "all, prompt, generated, last:K (K > 0), at:P,Q,.., window:A..B (A <= B), \
                     answer, mean:A..B (A <= B) or <marker>";

impl Positions {
    /// Whether the token at `position` of a sequence whose prompt has `prompt`
    /// tokens is chosen. Tokens from `prompt` on are generated ones.
    ///
    /// A mean and a marker choose no token: [`Positions::check`] refuses them for steering.
    pub fn chooses(&self, position: usize, prompt: usize) -> bool {
        match self {
            Self::All => true,
            Self::Prompt => position < prompt,
            Self::Generated => position >= prompt,
            Self::Last(k) => position < prompt && position + k >= prompt,
            Self::At(list) => {
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
            Self::Answer => position == prompt,
            Self::Mean { .. } | Self::Marker(_) => false,
        }
    }

    /// Whether it can choose a token of the prompt, from which the first token of an answer is
    /// read.
    pub fn in_prompt(&self) -> bool {
        match self {
            Self::Generated | Self::Answer => false,
            Self::Window { from, .. } => *from <= 0,
            _ => true,
        }
    }

    /// Refuses forms that make no sense for `purpose`.
    ///
    /// # Errors
    /// Names the forms that do.
    pub fn check(&self, purpose: PositionsUse) -> Result<()> {
        let fits = match (self, purpose) {
            (Self::Last(_), _) => true,
            (Self::At(list), PositionsUse::Tuning) => list.iter().all(|p| *p < 0),
            (Self::At(_), _) => true,
            (Self::Window { .. }, PositionsUse::Steering) => true,
            (Self::Window { to, .. }, PositionsUse::Tuning) => *to <= 0,
            (Self::Window { to, .. } | Self::Mean { to, .. }, PositionsUse::Extraction) => *to <= 1,
            (Self::Marker(_), purpose) => purpose == PositionsUse::Extraction,
            (Self::Answer, purpose) => purpose != PositionsUse::Tuning,
            (Self::All | Self::Prompt | Self::Generated, PositionsUse::Steering) => true,
            _ => false,
        };
        let repeated = match self {
            Self::At(list) => (1..list.len()).any(|i| list[..i].contains(&list[i])),
            _ => false,
        };
        let expected = match purpose {
            _ if fits && !repeated => return Ok(()),
            _ if repeated => "each position once",
            PositionsUse::Extraction => {
                "last:K, at:P,Q,.., window:A..B (B <= 1), answer, mean:A..B (B <= 1) or <marker>"
            }
            PositionsUse::Steering => {
                "all, prompt, generated, last:K, at:P,Q,.., window:A..B or answer"
            }
            PositionsUse::Tuning => "last:K, at:P,Q,.. (P < 0) or window:A..B (B <= 0)",
        };
        let (found, hint) = (format!("`{self}`"), "for example `last:1`");
        Err(Error::value("positions", expected, found, hint))
    }

    /// Reads a rule for steering, as the command line takes it.
    ///
    /// # Errors
    /// When it is none, or makes no sense for steering.
    pub fn for_steering(text: &str) -> Result<Self> {
        let rule: Self = text.parse()?;
        rule.check(PositionsUse::Steering)?;
        Ok(rule)
    }

    /// The single tokens, means and markers of which a rule for extraction or tuning
    /// consists, those nearest to the answer first; `at` keeps its order.
    ///
    /// ```
    /// use reptune_adapters::Positions;
    /// let each = "window:-2..1".parse::<Positions>()?.each();
    /// let each: Vec<String> = each.iter().map(Positions::to_string).collect();
    /// assert_eq!(each, ["answer", "at:-1", "at:-2", "at:-3"]);
    /// # Ok::<(), reptune_adapters::Error>(())
    /// ```
    pub fn each(&self) -> Vec<Self> {
        let one = |offset: i64| match offset {
            1 => Self::Answer,
            offset => Self::At(vec![offset - 1]),
        };
        match self {
            Self::Last(k) => (0..*k as i64).map(|back| one(-back)).collect(),
            Self::At(list) => list.iter().map(|p| Self::At(vec![*p])).collect(),
            Self::Window { from, to } => (*from..=*to).rev().map(one).collect(),
            other => vec![other.clone()],
        }
    }

    /// The tokens of a mean or of listed positions in a sequence whose prompt has `prompt`
    /// tokens, those nearest to the answer first; none where one lies outside of the prompt
    /// and its answer token, or the rule is of another form.
    pub fn tokens(&self, prompt: usize) -> Option<Vec<usize>> {
        let token = |offset: i64| {
            let at = usize::try_from(prompt as i64 - 1 + offset).ok();
            at.filter(|at| *at <= prompt)
        };
        match self {
            Self::At(list) => list
                .iter()
                .map(|p| match usize::try_from(*p) {
                    Ok(p) => Some(p).filter(|p| *p < prompt),
                    Err(_) => token(p + 1),
                })
                .collect(),
            Self::Answer => Some(vec![prompt]),
            Self::Mean { from, to } => (*from..=*to).rev().map(token).collect(),
            _ => None,
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
            Self::At(list) => {
                let list: Vec<_> = list.iter().map(i64::to_string).collect();
                write!(f, "at:{}", list.join(","))
            }
            Self::Window { from, to } => write!(f, "window:{from}..{to}"),
            Self::Answer => f.write_str("answer"),
            Self::Mean { from, to } => write!(f, "mean:{from}..{to}"),
            Self::Marker(name) => write!(f, "<{name}>"),
        }
    }
}

impl FromStr for Positions {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let window = |ends: &str| {
            let (from, to) = ends.split_once("..")?;
            let (from, to): (i64, i64) = (from.parse().ok()?, to.parse().ok()?);
            (from <= to).then_some((from, to))
        };
        let marker = |name: &str| {
            let name = name.strip_prefix('<')?.strip_suffix('>')?;
            (!name.is_empty() && !name.contains(['<', '>'])).then(|| name.to_owned())
        };
        let read = match (text, text.split_once(':')) {
            ("all", _) => Some(Self::All),
            ("prompt", _) => Some(Self::Prompt),
            ("generated", _) => Some(Self::Generated),
            ("answer", _) => Some(Self::Answer),
            (name, None) => marker(name).map(Self::Marker),
            (_, Some(("last", k))) => k.parse().ok().filter(|k| *k > 0).map(Self::Last),
            (_, Some(("at", list))) => {
                let list = list.split(',').map(|p| p.trim().parse().ok());
                list.collect::<Option<_>>().map(Self::At)
            }
            (_, Some(("window", ends))) => window(ends).map(|(from, to)| Self::Window { from, to }),
            (_, Some(("mean", ends))) => window(ends).map(|(from, to)| Self::Mean { from, to }),
            _ => None,
        };
        read.ok_or_else(|| {
            let hint = match text.strip_prefix("positions:") {
                Some(list) => format!("listed positions are written `at:{list}`"),
                None => "for example `last:3`".to_owned(),
            };
            Error::value("positions", FORMS, format!("`{text}`"), hint)
        })
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
