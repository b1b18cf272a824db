//! What is measured of a model: one name for each number, in tables and in claims.

use crate::model_row::ModelRow;
use crate::outcomes::{Poles, Verdict};
use crate::table::Column;
use serde::{Deserialize, Serialize};

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
            Self::ClaimsPositive => Some(row.claims.positive_share()),
            Self::ClaimsNegative => Some(row.claims.negative_share()),
            Self::ChoicesPositive => row.choices.map(|c| c.positive_share()),
            Self::ChoicesNegative => row.choices.map(|c| c.negative_share()),
            Self::LogOdds => row.log_odds,
            Self::Perplexity => row.perplexity,
            Self::Divergence => row.divergence,
        };
        value.filter(|x| x.is_finite())
    }

    /// Of which items it is a share, and for each whether it counts; none where it is no
    /// share, or where the verdicts are not known.
    pub(crate) fn hits(self, row: &ModelRow) -> Option<(&'static str, Vec<bool>)> {
        let (claims, choices) = (
            ("claims", &row.claim_verdicts),
            ("choices", &row.choice_verdicts),
        );
        let ((items, verdicts), wanted) = match self {
            Self::ClaimsPositive => (claims, Verdict::Positive),
            Self::ClaimsNegative => (claims, Verdict::Negative),
            Self::ChoicesPositive => (choices, Verdict::Positive),
            Self::ChoicesNegative => (choices, Verdict::Negative),
            Self::LogOdds | Self::Perplexity | Self::Divergence => return None,
        };
        let hits = || verdicts.iter().map(|v| *v == wanted).collect();
        (!verdicts.is_empty()).then(|| (items, hits()))
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
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ClaimsPositive => "claims_positive",
            Self::ClaimsNegative => "claims_negative",
            Self::ChoicesPositive => "choices_positive",
            Self::ChoicesNegative => "choices_negative",
            Self::LogOdds => "log_odds",
            Self::Perplexity => "perplexity",
            Self::Divergence => "kl",
        }
    }

    /// A column of it.
    pub(crate) fn column(self, poles: &Poles) -> Column<ModelRow> {
        let format: fn(f64) -> String = match self {
            Self::LogOdds => |x| format!("{x:+.2}"),
            Self::Divergence => |x| format!("{x:.4}"),
            _ => |x| format!("{x:.3}"),
        };
        Column::number(&self.heading(poles), self.name(), format, move |r| {
            self.of(r)
        })
    }
}
