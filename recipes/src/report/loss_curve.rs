//! How tuning went: both losses, training and validation.

use super::canvas::{WIDTH, draw};
use super::chart::{Axes, Chart, HEIGHT};
use super::ink::Ink;
use super::number::extent;
use super::section::{Key, Plot, Section};
use super::sheet::{Cell, Sheet};
use crate::error::Result;
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
    fn points(&self, loss: fn(&LossStep) -> Option<f64>) -> Vec<(f64, f64)> {
        let steps = self.steps.iter();
        steps
            .filter_map(|s| Some((s.step as f64, loss(s)?)))
            .collect()
    }

    /// The picture; none if there is nothing to show.
    fn plot(&self) -> Result<Option<Plot>> {
        let losses = || TRAIN.iter().chain(&VALIDATION);
        let values = losses().flat_map(|l| self.points(l.0)).map(|p| p.1);
        let steps = self.steps.iter().map(|s| s.step as f64);
        let (Some(x), Some((_, highest))) = (extent(steps), extent(values)) else {
            return Ok(None);
        };
        let svg = draw(
            &format!("Losses of {}", self.mode),
            WIDTH,
            HEIGHT,
            |canvas| {
                let axes = Axes {
                    x,
                    y: (0., highest.max(f64::MIN_POSITIVE) * 1.05),
                    x_name: "step",
                    y_name: "loss",
                    x_least: 1.,
                    above: None,
                };
                let chart = Chart::new(canvas, axes)?;
                for (loss, ink) in TRAIN {
                    chart.line(&self.points(loss), ink, 0.4, 1)?;
                }
                for (loss, ink) in VALIDATION {
                    chart.line(&self.points(loss), ink, 1., 2)?;
                    chart.dots(&self.points(loss), ink, 1.)?;
                }
                Ok(())
            },
        )?;
        let title = self.mode.clone();
        Ok(Some(Plot { title, svg }))
    }
}

/// The part of the page about `curves`.
pub(super) fn section(curves: &[LossCurve]) -> Result<Option<Section>> {
    let plots = curves.iter().filter_map(|c| c.plot().transpose());
    let plots: Vec<Plot> = plots.collect::<Result<_>>()?;
    if plots.is_empty() {
        return Ok(None);
    }
    let columns = [
        "mode",
        "step",
        "token",
        "representation",
        "validation_token",
        "validation_representation",
    ];
    let rows = curves.iter().flat_map(|c| {
        c.steps.iter().map(move |s| {
            let losses = TRAIN.iter().chain(&VALIDATION);
            let losses = losses.map(|l| Cell::number((l.0)(s)));
            let place = [Cell::text(&c.mode), Cell::Count(s.step)];
            place.into_iter().chain(losses).collect()
        })
    });
    Ok(Some(Section {
        legend: vec![
            Key::new("token loss", Ink::Token),
            Key::new("representation loss", Ink::Representation),
        ],
        plots,
        sheet: Some(Sheet::new("losses", columns, rows)),
        ..Section::new(
            "losses",
            "Losses",
            "Thin: batches; thick with dots: validation. Look for validation curves that fall with the \
             batches and do not turn up again.",
        )
    }))
}
