//! What is left of a tuned behaviour in quantized weights.

use crate::model_row::{Measure, ModelRow};
use crate::outcomes::{Outcomes, Poles};
use crate::section::Section;
use crate::table::{Column, aligned, grid};
use serde::{Deserialize, Serialize};

/// What the columns are.
const CAPTION: &str = "Effect retained: the share of what tuning changed in the \
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
        // The data name a column as its heading does: `delta: norm` is `delta_norm`.
        let name = |heading: &str| {
            heading
                .to_lowercase()
                .replace(": ", "_")
                .replace([' ', '-'], "_")
        };
        let words = |heading: &str, text: fn(&Self) -> &str, empty: &'static str| {
            Column::plain(heading, &name(heading), move |r: &Self| match text(r) {
                "" => Some(empty.to_owned()),
                text => Some(text.to_owned()),
            })
        };
        let number = |heading: &str, show: fn(f64) -> String, get: fn(&Self) -> Option<f64>| {
            Column::number(heading, &name(heading), show, get)
        };
        let measured = |measure: Measure| {
            measure.column(poles, move |r: &Self| {
                measure.of(&ModelRow {
                    claims: r.claims,
                    choices: r.choices,
                    log_odds: Some(r.log_odds),
                    ..ModelRow::default()
                })
            })
        };
        vec![
            words("model", |r| &r.model, ""),
            words("rounding", |r| &r.rounding, "-"),
            words("type", |r| &r.wanted, "unquantized"),
            Column::plain("", "types", |r: &Self| Some(r.types.clone())),
            number("bits", |x| format!("{x:.2}"), |r| Some(r.bits)),
            Column::plain("KB", "", |r: &Self| Some(r.bytes / 1000)),
            Column::plain("", "bytes", |r: &Self| Some(r.bytes)),
            measured(Measure::ClaimsPositive),
            measured(Measure::ClaimsNegative),
            measured(Measure::ChoicesPositive),
            measured(Measure::ChoicesNegative),
            Column::data("balance", |r: &Self| Some(r.balance)),
            measured(Measure::LogOdds),
            number(
                "effect retained",
                |x| format!("{x:.2}"),
                |r| r.effect_retained,
            ),
            number("cosine", |x| format!("{x:+.3}"), |r| r.cosine),
            number("KL", |x| format!("{x:.4}"), |r| r.divergence),
            number("delta: cosine", |x| format!("{x:.3}"), |r| r.delta_cosine),
            number("delta: norm", |x| format!("{x:.2}"), |r| r.delta_norm),
            number("noise", |x| format!("{x:.2}"), |r| r.noise),
        ]
    }

    pub(crate) fn section(all: &[Self], poles: &Poles) -> Option<Section> {
        let section = Section {
            note: Some(CAPTION.to_owned()),
            ..Section::new("quantized", "In quantized weights")
        };
        section.table(&Self::columns(poles), all)
    }
}

/// The rows as aligned text, for a terminal.
pub fn quantized_table(all: &[QuantizedRow], poles: &Poles) -> String {
    aligned(&grid(&QuantizedRow::columns(poles), all))
}
