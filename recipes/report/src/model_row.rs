//! One model under test, as a row of the result table, and the numbers measured of it: one name
//! for each number, in tables and in claims.

use crate::comparison::{Comparison, Preferences, Successes};
use crate::outcomes::{Outcomes, Poles, Verdict};
use crate::table::{Column, name_in_json};
use serde::{Deserialize, Serialize};

/// One model under test.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelRow {
    /// What it is: base, prompted, steered, tuned, merged, baked.
    pub model: String,
    /// Test claims.
    pub claims: Outcomes,
    /// Two-choice questions, if the recipe has some.
    pub choices: Option<Outcomes>,
    /// The same, claim by claim; empty where only counts are known.
    pub claim_verdicts: Vec<Verdict>,
    /// The same, question by question.
    pub choice_verdicts: Vec<Verdict>,
    /// Its answer to the sample question.
    pub sample: String,
    /// Positive answers to the same claims, compared with those of the base.
    pub versus_base: Option<Comparison>,
    /// Mean log p(true answer) - log p(other answer) on the claims, where logits can be read.
    pub log_odds: Option<f64>,
    /// Perplexity of the recipe's text, where logits can be read.
    pub perplexity: Option<f64>,
    /// Mean KL(base || model) in nats on the recipe's neutral texts.
    pub divergence: Option<f64>,
    /// Open answers judged: those of the base are the first, the model's the second.
    pub judged: Option<Preferences>,
}

/// A number of a [`ModelRow`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Measure {
    /// Share of positive answers to the test claims.
    #[serde(rename = "claims.positive")]
    ClaimsPositive,
    /// Share of negative answers to the test claims.
    #[serde(rename = "claims.negative")]
    ClaimsNegative,
    /// Share of positive answers to the two-choice questions.
    #[serde(rename = "choices.positive")]
    ChoicesPositive,
    /// Share of negative answers to the two-choice questions.
    #[serde(rename = "choices.negative")]
    ChoicesNegative,
    /// Mean log-odds of the true answer to a test claim.
    #[serde(rename = "log_odds")]
    LogOdds,
    /// Perplexity of the recipe's text.
    #[serde(rename = "perplexity")]
    Perplexity,
    /// Mean KL divergence from the base on neutral texts.
    #[serde(rename = "kl")]
    Divergence,
}

impl Measure {
    /// What is compared over seeds.
    pub(crate) const REPEATED: [Self; 6] = [
        Self::ClaimsPositive,
        Self::ClaimsNegative,
        Self::ChoicesPositive,
        Self::ChoicesNegative,
        Self::Perplexity,
        Self::Divergence,
    ];

    /// Its value; none where it was not measured.
    pub fn of(self, row: &ModelRow) -> Option<f64> {
        let value = match self {
            Self::ClaimsPositive => Some(row.claims.share(Verdict::Positive)),
            Self::ClaimsNegative => Some(row.claims.share(Verdict::Negative)),
            Self::ChoicesPositive => row.choices.map(|c| c.share(Verdict::Positive)),
            Self::ChoicesNegative => row.choices.map(|c| c.share(Verdict::Negative)),
            Self::LogOdds => row.log_odds,
            Self::Perplexity => row.perplexity,
            Self::Divergence => row.divergence,
        };
        value.filter(|x| x.is_finite())
    }

    /// Of which questions it is a share, and their verdicts; none where it is no share, or where
    /// the verdicts are not known.
    pub(crate) fn successes(self, row: &ModelRow) -> Option<(&'static str, Successes<'_>)> {
        let claims = |wanted| ("claims", (&row.claim_verdicts[..], wanted));
        let choices = |wanted| ("choices", (&row.choice_verdicts[..], wanted));
        let found = match self {
            Self::ClaimsPositive => claims(Verdict::Positive),
            Self::ClaimsNegative => claims(Verdict::Negative),
            Self::ChoicesPositive => choices(Verdict::Positive),
            Self::ChoicesNegative => choices(Verdict::Negative),
            Self::LogOdds | Self::Perplexity | Self::Divergence => return None,
        };
        Some(found).filter(|(_, (verdicts, _))| !verdicts.is_empty())
    }

    /// The heading of its column.
    pub(crate) fn heading(self, poles: &Poles) -> String {
        match self {
            Self::ClaimsPositive => format!("claims: {}", poles.positive),
            Self::ClaimsNegative => format!("claims: {}", poles.negative),
            Self::ChoicesPositive => format!("two-choice: {}", poles.positive),
            Self::ChoicesNegative => format!("two-choice: {}", poles.negative),
            Self::LogOdds => "log-odds".into(),
            Self::Perplexity => "perplexity".into(),
            Self::Divergence => "KL from base".into(),
        }
    }

    /// Its name in the data.
    pub(crate) fn name(self) -> String {
        name_in_json(&self).replace('.', "_")
    }

    /// A column of it, read off a `T` by `get`.
    pub(crate) fn column<T>(
        self,
        poles: &Poles,
        get: impl Fn(&T) -> Option<f64> + 'static,
    ) -> Column<T> {
        let format: fn(f64) -> String = match self {
            Self::LogOdds => |x| format!("{x:+.2}"),
            Self::Divergence => |x| format!("{x:.4}"),
            _ => |x| format!("{x:.3}"),
        };
        Column::number(&self.heading(poles), &self.name(), format, get)
    }
}
