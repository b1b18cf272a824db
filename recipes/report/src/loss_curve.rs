//! How tuning went: both losses, training and validation.

use crate::canvas::Ink;
use crate::chart::{Axes, Point, plot};
use crate::number::extent;
use crate::section::{Plot, Section};
use crate::sheet::{Cell, Sheet};
use serde::{Deserialize, Serialize};

/// The losses at one step; what was not measured there is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct LossStep {
    /// Optimizer step, from 1.
    pub step: usize,
    /// Token loss of the batch.
    pub token: Option<f64>,
    /// Representation loss of the batch.
    pub representation: Option<f64>,
    /// Token loss of the validation claims.
    pub validation_token: Option<f64>,
    /// Representation loss of the validation claims.
    pub validation_representation: Option<f64>,
}

/// The losses of one tuning.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LossCurve {
    /// Mode, or the name of the tuning where a mode has several.
    pub mode: String,
    /// Steps in order.
    pub steps: Vec<LossStep>,
}

/// A loss: how it is read off a step, and its colour.
type Loss = (fn(&LossStep) -> Option<f64>, Ink);

const TRAIN: [Loss; 2] = [
    (|s| s.token, Ink::Token),
    (|s| s.representation, Ink::Representation),
];
const VALIDATION: [Loss; 2] = [
    (|s| s.validation_token, Ink::Token),
    (|s| s.validation_representation, Ink::Representation),
];

impl LossCurve {
    fn points(&self, loss: fn(&LossStep) -> Option<f64>) -> Vec<Point> {
        let steps = self.steps.iter();
        steps
            .filter_map(|s| Some((s.step as f64, loss(s)?)))
            .collect()
    }

    /// The picture; none if there is nothing to show.
    fn plot(&self) -> Option<Plot> {
        let losses = TRAIN.iter().chain(&VALIDATION);
        let values = losses.flat_map(|l| self.points(l.0)).map(|p| p.1);
        let (_, highest) = extent(values)?;
        let axes = Axes {
            x: extent(self.steps.iter().map(|s| s.step as f64))?,
            y: (0., highest.max(f64::MIN_POSITIVE) * 1.05),
            x_name: "step",
            y_name: "loss",
            x_least: 1.,
            above: None,
        };
        let alt = format!("Losses of {}", self.mode);
        Some(plot(&self.mode, &alt, axes, |chart| {
            for (loss, ink) in TRAIN {
                chart.line(&self.points(loss), ink, 0.4, 1);
            }
            for (loss, ink) in VALIDATION {
                chart.dotted_line(&self.points(loss), ink);
            }
        }))
    }
}

/// The part of the page about `curves`.
pub(crate) fn section(curves: &[LossCurve]) -> Option<Section> {
    let columns = [
        "mode",
        "step",
        "token",
        "representation",
        "validation_token",
        "validation_representation",
    ];
    let lines = curves.iter().flat_map(|c| {
        c.steps.iter().map(move |s| {
            let losses = TRAIN.iter().chain(&VALIDATION);
            let losses = losses.map(|l| Cell::from((l.0)(s)));
            let place = [Cell::from(c.mode.as_str()), Cell::from(s.step)];
            place.into_iter().chain(losses).collect()
        })
    });
    Section::new(
        "losses",
        "Losses",
        "Thin lines: batches; thick lines with dots: validation. Look for validation losses that \
         fall with those of the batches and do not rise again.",
    )
    .legend(&[
        ("token loss", Ink::Token),
        ("representation loss", Ink::Representation),
    ])
    .data(Sheet::new("losses", columns, lines))
    .plots(curves.iter().filter_map(LossCurve::plot).collect())
}
