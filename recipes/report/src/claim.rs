//! Claims about the models of a study, compared with what the run measured.

use crate::comparison::McNemar;
use crate::model_row::{Measure, ModelRow};
use crate::number::short;
use crate::result_table::{ResultTable, SeedRepeats};
use crate::section::Section;
use crate::table::{Column, name_in_json};
use serde::{Deserialize, Serialize};

/// A claim: one number is above, below or equal to another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StudyClaim {
    /// The claim in words, as tables show it.
    pub name: String,
    /// What was published about it, in words; empty if nothing was.
    #[serde(default)]
    pub published: String,
    /// The number that the claim is about.
    pub left: ClaimQuantity,
    /// How it compares with `right`.
    pub relation: ClaimRelation,
    /// The number that it is compared with.
    pub right: ClaimQuantity,
    /// How far `left` may be on the wrong side of `right`; negative to ask for a lead.
    #[serde(default)]
    pub margin: Margin,
}

/// A number of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimQuantity {
    /// Name of its row in the result table, or the beginning of that name: `steered +`.
    pub model: String,
    /// Which number.
    pub measure: Measure,
}

/// How `left` compares with `right`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClaimRelation {
    /// `left > right - margin`
    #[serde(rename = ">")]
    Above,
    /// `left < right + margin`
    #[serde(rename = "<")]
    Below,
    /// `|left - right| <= margin`
    #[serde(rename = "=")]
    Equal,
}

/// A tolerance: a number, or `{ relative = 0.02 }` for 2 % of `right`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Margin {
    /// In the unit of the numbers.
    Absolute(f64),
    /// A share of `right`.
    Relative {
        /// The share.
        relative: f64,
    },
}

impl Default for Margin {
    fn default() -> Self {
        Self::Absolute(0.)
    }
}

impl Margin {
    /// The number that was given.
    pub fn value(self) -> f64 {
        self.of(1.)
    }

    fn of(self, right: f64) -> f64 {
        match self {
            Self::Absolute(x) => x,
            Self::Relative { relative } => relative * right.abs(),
        }
    }
}

/// What a run says about a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClaimOutcome {
    /// It holds, with every seed.
    Holds,
    /// It does not hold with any seed.
    DoesNotHold,
    /// Seeds disagree, or both numbers are the same where one should be higher.
    Undecided,
    /// One of its numbers was not measured.
    NotMeasured,
}

/// A claim and what this run says about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// The claim.
    pub claim: StudyClaim,
    /// Whether it holds here.
    pub outcome: ClaimOutcome,
    /// The left number; the mean where there are several seeds.
    pub left: Option<f64>,
    /// The right number; the mean where there are several seeds.
    pub right: Option<f64>,
    /// The share of the seeds with which it holds, where there are several.
    pub seeds: Option<f64>,
    /// McNemar's test, where both numbers are shares of the same items; the largest p of the
    /// seeds.
    pub p: Option<f64>,
}

impl ClaimQuantity {
    /// The rows of the model: one for each seed, or the one of the result table.
    fn rows<'a>(&self, table: &'a ResultTable, repeats: &'a [SeedRepeats]) -> &'a [ModelRow] {
        if let Some(repeat) = repeats.iter().find(|r| r.model == self.model) {
            return &repeat.rows;
        }
        let exact = table.rows.iter().position(|r| r.model == self.model);
        let start = |r: &ModelRow| r.model.starts_with(&self.model);
        let at = exact.or_else(|| table.rows.iter().position(start));
        at.map_or(&[], |i| &table.rows[i..=i])
    }
}

impl StudyClaim {
    /// What the rows of a run say about it. A model that was tuned with several seeds is
    /// compared seed by seed.
    pub fn judge(&self, table: &ResultTable, repeats: &[SeedRepeats]) -> Finding {
        let left = self.left.rows(table, repeats);
        let right = self.right.rows(table, repeats);
        // The row of a seed, or the one that stands for all.
        let pair = |i| {
            let [l, r] = [left, right].map(|rows| rows.get(i).or(rows.first()));
            Some((l?, r?))
        };
        let pairs: Vec<_> = (0..left.len().max(right.len())).filter_map(pair).collect();
        let (of, of_other) = (self.left.measure, self.right.measure);
        let values = pairs
            .iter()
            .map(|(l, r)| Some((of.of(l)?, of_other.of(r)?)));
        let values: Vec<(f64, f64)> = values.collect::<Option<_>>().unwrap_or_default();
        let n = values.len();
        let mean = |side: fn(&(f64, f64)) -> f64| {
            (n > 0).then(|| values.iter().map(side).sum::<f64>() / n as f64)
        };
        let held = values.iter().filter(|(l, r)| self.holds(*l, *r)).count();
        // Equal numbers, such as two shares of 1.000, say nothing about which is higher.
        let equal = self.relation != ClaimRelation::Equal
            && self.margin.value() == 0.
            && values.iter().all(|(l, r)| (l - r).abs() < 1e-12);
        let p = pairs.iter().map(|(l, r)| self.p(l, r));
        let p = p.collect::<Option<Vec<f64>>>().filter(|_| n > 0);
        Finding {
            claim: self.clone(),
            outcome: match held {
                _ if n == 0 => ClaimOutcome::NotMeasured,
                _ if equal => ClaimOutcome::Undecided,
                0 => ClaimOutcome::DoesNotHold,
                held if held == n => ClaimOutcome::Holds,
                _ => ClaimOutcome::Undecided,
            },
            left: mean(|v| v.0),
            right: mean(|v| v.1),
            seeds: (n > 1).then(|| held as f64 / n as f64),
            p: p.and_then(|p| p.into_iter().reduce(f64::max)),
        }
    }

    fn holds(&self, left: f64, right: f64) -> bool {
        let margin = self.margin.of(right);
        match self.relation {
            ClaimRelation::Above => left - right > -margin,
            ClaimRelation::Below => right - left > -margin,
            ClaimRelation::Equal => (left - right).abs() <= margin,
        }
    }

    fn p(&self, left: &ModelRow, right: &ModelRow) -> Option<f64> {
        let (of, one) = self.left.measure.successes(left)?;
        let (of_other, other) = self.right.measure.successes(right)?;
        let (only_one, only_other) = McNemar::discordant(one, other);
        let same_items = of == of_other && one.0.len() == other.0.len();
        same_items.then(|| McNemar::new(only_one, only_other).p)
    }
}

impl Finding {
    fn numbers(&self) -> String {
        let numbers = [
            (self.claim.left.model.as_str(), self.left),
            (&self.claim.right.model, self.right),
            ("share of seeds for it", self.seeds),
            ("p", self.p),
        ];
        let numbers = numbers.into_iter();
        let numbers = numbers.filter_map(|(name, x)| Some(format!("{name} {}", short(x?))));
        numbers.collect::<Vec<_>>().join("; ")
    }

    pub(crate) fn section(findings: &[Self]) -> Option<Section> {
        let words = |heading, name, text: fn(&Self) -> String| {
            Column::plain(heading, name, move |f: &Self| Some(text(f)))
        };
        let outcome = |f: &Self| name_in_json(&f.outcome).replace('_', " ");
        let columns = [
            words("claim", "claim", |f| f.claim.name.clone()),
            words("outcome", "outcome", outcome),
            words("here", "", Self::numbers),
            Column::data("left", |f: &Self| f.left),
            Column::data("right", |f: &Self| f.right),
            Column::data("share_of_seeds", |f: &Self| f.seeds),
            Column::data("p", |f: &Self| f.p),
            words("published", "published", |f| f.claim.published.clone()),
        ];
        Section::new("claims", "Claims").table(&columns, findings)
    }
}

#[cfg(test)]
mod tests;
