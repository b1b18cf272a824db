//! Curves of a study: what a dose of the direction does to the answers, and how tuning went.

use crate::canvas::Ink;
use crate::chart::{Axes, Point, plot};
use crate::number::{extent, layer_set};
use crate::outcomes::{Outcomes, Poles, Verdict};
use crate::section::{Plot, Section};
use crate::table::{Column, sheet};
use serde::{Deserialize, Serialize};

/// The answers under one dose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct DosePoint {
    /// Signed total of the coefficients of all layers; 0 is the base model.
    #[serde(alias = "coeff")]
    pub total: f64,
    /// The same as a signed fraction of the mean residual norm.
    pub fraction: Option<f64>,
    /// Claims.
    pub claims: Outcomes,
    /// Two-choice questions, if they were asked.
    pub choices: Option<Outcomes>,
    /// Perplexity of ordinary text, if it was measured.
    pub perplexity: Option<f64>,
}

/// The doses at one set of layers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DoseCurve {
    /// Layers that are steered together.
    pub layers: Vec<usize>,
    /// Doses in any order.
    pub doses: Vec<DosePoint>,
}

impl DoseCurve {
    /// Doses from the most negative to the most positive.
    fn sorted(&self) -> Vec<DosePoint> {
        let mut doses = self.doses.clone();
        doses.sort_by(|a, b| a.total.total_cmp(&b.total));
        doses
    }

    /// The residual norm that totals are fractions of, read off the largest dose.
    fn norm(&self) -> Option<f64> {
        let sized = self.sorted().into_iter();
        let sized = sized.filter_map(|d| Some((d.total, d.fraction?)));
        let largest = sized.max_by(|a, b| a.0.abs().total_cmp(&b.0.abs()))?;
        let norm = largest.0 / largest.1;
        (norm.is_finite() && norm > 0.).then_some(norm)
    }

    /// The pictures: claims, two-choice questions, perplexity, as far as they were measured.
    fn plots(&self) -> Option<[Option<Plot>; 3]> {
        let doses = self.sorted();
        let x = extent(doses.iter().map(|d| d.total))?;
        let axes = Axes {
            above: self.norm().map(|n| (n, "fraction of the residual norm")),
            ..Axes::new(["total", "share"], x, (0., 1.))
        };
        let name = layer_set(&self.layers);
        let shares = |set: &str, of: fn(&DosePoint) -> Option<Outcomes>| {
            let outcomes = doses.iter().filter_map(|d| Some((d.total, of(d)?)));
            let outcomes: Vec<_> = outcomes.collect();
            let title = format!("{set}, {name}");
            (!outcomes.is_empty()).then(|| shares(&title, axes, &outcomes))
        };
        let perplexity = |d: &DosePoint| d.perplexity.filter(|p| p.is_finite());
        let points = doses.iter().filter_map(|d| Some((d.total, perplexity(d)?)));
        let points: Vec<Point> = points.collect();
        let perplexity = extent(points.iter().map(|p| p.1)).map(|(_, highest)| {
            let axes = Axes {
                names: ["total", "perplexity"],
                y: (0., highest * 1.05),
                ..axes
            };
            let title = format!("Perplexity, {name}");
            plot(&title, &title, axes, |chart| {
                chart.dotted_line(&points, Ink::TEXT)
            })
        });
        let claims = shares("Claims", |d| Some(d.claims));
        let choices = shares("Two-choice questions", |d| d.choices);
        Some([claims, choices, perplexity])
    }

    pub(crate) fn section(curves: &[Self], poles: &Poles) -> Option<Section> {
        type Row = (String, DosePoint);
        let doses = |c: &Self| {
            let layers = layer_set(&c.layers);
            c.sorted().into_iter().map(move |d| (layers.clone(), d))
        };
        let rows: Vec<Row> = curves.iter().flat_map(doses).collect();
        let mut columns = vec![
            Column::plain("", "layers", |row: &Row| Some(row.0.clone())),
            Column::data("total", |row: &Row| Some(row.1.total)),
            Column::data("fraction", |row: &Row| row.1.fraction),
            Column::data("perplexity", |row: &Row| row.1.perplexity),
        ];
        let claims = |row: &Row| Some(row.1.claims);
        columns.extend(Column::outcomes(("", "claims"), poles, claims));
        let choices = |row: &Row| row.1.choices;
        let plots = curves.iter().filter_map(Self::plots);
        columns.extend(Column::outcomes(("", "choices"), poles, choices));
        Section::new("doses", "Dose and response")
            .sides(&poles.positive, &poles.negative)
            .sheet(sheet(&columns, &rows))
            .plots(plots.flatten().flatten().collect())
    }
}

/// Both shares over the total, each with the band of its Wilson intervals.
fn shares(title: &str, axes: Axes<'_>, outcomes: &[(f64, Outcomes)]) -> Plot {
    let sides = [
        (Verdict::Positive, Ink::POSITIVE),
        (Verdict::Negative, Ink::NEGATIVE),
    ];
    plot(title, title, axes, |chart| {
        for (verdict, ink) in sides {
            let edges = outcomes.iter().map(|(x, o)| (*x, o.interval(verdict)));
            chart.band(&edges.collect::<Vec<_>>(), ink);
        }
        for (verdict, ink) in sides {
            let points = outcomes.iter().map(|(x, o)| (*x, o.share(verdict)));
            chart.dotted_line(&points.collect::<Vec<_>>(), ink);
        }
    })
}

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

impl LossCurve {
    /// The picture; none if there is nothing to show.
    fn plot(&self) -> Option<Plot> {
        let points = |loss: fn(&LossStep) -> Option<f64>| -> Vec<Point> {
            let steps = self.steps.iter();
            let measured = steps.filter_map(|s| Some((s.step as f64, loss(s)?)));
            measured.collect()
        };
        let train = [
            (points(|s| s.token), Ink::TOKEN),
            (points(|s| s.representation), Ink::REPRESENTATION),
        ];
        let validation = [
            (points(|s| s.validation_token), Ink::TOKEN),
            (points(|s| s.validation_representation), Ink::REPRESENTATION),
        ];
        let losses = train.iter().chain(&validation).flat_map(|l| &l.0);
        let (_, highest) = extent(losses.map(|p| p.1))?;
        let x = extent(self.steps.iter().map(|s| s.step as f64))?;
        let y = (0., highest.max(f64::MIN_POSITIVE) * 1.05);
        let axes = Axes {
            x_least: 1.,
            ..Axes::new(["step", "loss"], x, y)
        };
        let alt = format!("Losses of {}", self.mode);
        Some(plot(&self.mode, &alt, axes, |chart| {
            for (points, ink) in &train {
                chart.line(points, *ink, 0.4, 1);
            }
            for (points, ink) in &validation {
                chart.dotted_line(points, *ink);
            }
        }))
    }

    pub(crate) fn section(curves: &[Self]) -> Option<Section> {
        type Row = (String, LossStep);
        let steps = |c: &Self| {
            let mode = c.mode.clone();
            c.steps.clone().into_iter().map(move |s| (mode.clone(), s))
        };
        let rows: Vec<Row> = curves.iter().flat_map(steps).collect();
        let columns = [
            Column::plain("", "mode", |row: &Row| Some(row.0.clone())),
            Column::plain("", "step", |row: &Row| Some(row.1.step)),
            Column::data("token", |row: &Row| row.1.token),
            Column::data("representation", |row: &Row| row.1.representation),
            Column::data("validation_token", |row: &Row| row.1.validation_token),
            Column::data("validation_representation", |row: &Row| {
                row.1.validation_representation
            }),
        ];
        Section::new("losses", "Losses")
            .legend([
                ("token loss", Ink::TOKEN),
                ("representation loss", Ink::REPRESENTATION),
            ])
            .sheet(sheet(&columns, &rows))
            .plots(curves.iter().filter_map(Self::plot).collect())
    }
}
