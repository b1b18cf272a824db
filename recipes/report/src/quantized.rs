//! What is left of a tuned behaviour in quantized weights.

use crate::aligned::aligned;
use crate::measure::Measure;
use crate::outcomes::{Outcomes, Poles};
use crate::section::Section;
use crate::table::{Column, Grid};
use serde::{Deserialize, Serialize};

/// Above the table.
pub(crate) const CAPTION: &str = "Effect retained: the share of what tuning changed in the \
unquantized model that the quantized model still has. It is measured on the balance of the answers \
(positive minus negative) and on the log-odds, both on the test claims; the smaller share counts. KL: \
from the same model unquantized, on the neutral texts. Delta: cosine and norm of what is left of the \
tuned change in the weights, mean over the tuned weights. Noise: the rounding error at the outputs of \
the tuned weights, as a share of what the change adds there.";

/// One model, quantized or not.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct QuantizedRow {
    /// `base`, or the mode that was tuned.
    pub model: String,
    /// How it was rounded; empty for an unquantized model.
    pub rounding: String,
    /// The type that was asked for; empty for an unquantized model.
    pub wanted: String,
    /// Types of the linear layers with their numbers, as `q4_0 x 43`.
    pub types: String,
    /// Bits per weight of the linear layers and the head.
    pub bits: f64,
    /// Bytes of the file with them; of an unquantized model those of a f32 file.
    pub bytes: u64,
    /// Test claims.
    pub claims: Outcomes,
    /// Two-choice questions, if the recipe has some.
    pub choices: Option<Outcomes>,
    /// Share of positive minus share of negative answers by log-odds, on the test claims.
    pub balance: f64,
    /// Mean log-odds of the true answer, on the test claims.
    pub log_odds: f64,
    /// Share of the tuned effect that is left; none for a base.
    pub effect_retained: Option<f64>,
    /// Mean cosine of the tuned tokens to the direction, on the test claims, where there is one.
    pub cosine: Option<f64>,
    /// Mean KL from the unquantized model of the same name, in nats.
    pub divergence: Option<f64>,
    /// Mean cosine of what is left of the delta to the delta.
    pub delta_cosine: Option<f64>,
    /// Mean norm of what is left of the delta, as a share of its norm.
    pub delta_norm: Option<f64>,
    /// Mean rounding error at the outputs of tuned weights, as a share of the delta's outputs.
    pub noise: Option<f64>,
}

impl QuantizedRow {
    fn columns(poles: &Poles) -> Vec<Column<Self>> {
        let words = |heading, name, text: fn(&Self) -> &str, empty: &'static str| {
            Column::text(heading, name, move |r: &Self| match text(r) {
                "" => empty.to_owned(),
                text => text.to_owned(),
            })
        };
        let share = |measure: Measure, get: fn(&Self) -> Option<f64>| {
            let format = |x: f64| format!("{x:.3}");
            Column::number(&measure.heading(poles), measure.name(), format, get)
        };
        vec![
            words("model", "model", |r| &r.model, ""),
            words("rounding", "rounding", |r| &r.rounding, "-"),
            words("type", "type", |r| &r.wanted, "unquantized"),
            words("", "types", |r| &r.types, ""),
            Column::number(
                "bits",
                "bits",
                |x| format!("{x:.2}"),
                |r: &Self| Some(r.bits),
            ),
            Column::count("KB", "", |r: &Self| Some(r.bytes as usize / 1000)),
            Column::count("", "bytes", |r: &Self| Some(r.bytes as usize)),
            share(Measure::ClaimsPositive, |r: &Self| {
                Some(r.claims.positive_share())
            }),
            share(Measure::ClaimsNegative, |r: &Self| {
                Some(r.claims.negative_share())
            }),
            share(Measure::ChoicesPositive, |r: &Self| {
                Some(r.choices?.positive_share())
            }),
            share(Measure::ChoicesNegative, |r: &Self| {
                Some(r.choices?.negative_share())
            }),
            Column::data("balance", |r: &Self| Some(r.balance)),
            Column::number(
                "log-odds",
                "log_odds",
                |x| format!("{x:+.2}"),
                |r: &Self| Some(r.log_odds),
            ),
            Column::number(
                "effect retained",
                "effect_retained",
                |x| format!("{x:.2}"),
                |r: &Self| r.effect_retained,
            ),
            Column::number(
                "cosine",
                "cosine",
                |x| format!("{x:+.3}"),
                |r: &Self| r.cosine,
            ),
            Column::number("KL", "kl", |x| format!("{x:.4}"), |r: &Self| r.divergence),
            Column::number(
                "delta: cosine",
                "delta_cosine",
                |x| format!("{x:.3}"),
                |r: &Self| r.delta_cosine,
            ),
            Column::number(
                "delta: norm",
                "delta_norm",
                |x| format!("{x:.2}"),
                |r: &Self| r.delta_norm,
            ),
            Column::number("noise", "noise", |x| format!("{x:.2}"), |r: &Self| r.noise),
        ]
    }

    /// The table for people.
    pub(crate) fn grid(all: &[Self], poles: &Poles) -> Grid {
        Grid::new(&Self::columns(poles), all)
    }
}

/// The part of the page about `all`.
pub(crate) fn section(all: &[QuantizedRow], poles: &Poles) -> Option<Section> {
    Section::new("quantized", "In quantized weights", CAPTION)
        .table(&QuantizedRow::columns(poles), all)
}

/// The rows as aligned text, for a terminal.
pub fn quantized_table(all: &[QuantizedRow], poles: &Poles) -> String {
    aligned(&QuantizedRow::grid(all, poles).lines())
}
