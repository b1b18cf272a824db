//! What a dose of the direction does to the answers.

use crate::canvas::Ink;
use crate::chart::{Axes, Point, plot};
use crate::number::{extent, layer_set};
use crate::outcomes::{Outcomes, Poles};
use crate::section::{Plot, Section};
use crate::sheet::Sheet;
use crate::table::Column;
use serde::{Deserialize, Serialize};

/// The answers under one dose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct DosePoint {
    /// Signed coeff, as given to the intervention; 0 is the base model.
    pub coeff: f64,
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
        doses.sort_by(|a, b| a.coeff.total_cmp(&b.coeff));
        doses
    }

    /// The residual norm that coeffs are fractions of, read off the largest dose.
    fn norm(&self) -> Option<f64> {
        let sized = self.sorted().into_iter();
        let sized = sized.filter_map(|d| Some((d.coeff, d.fraction?)));
        let largest = sized.max_by(|a, b| a.0.abs().total_cmp(&b.0.abs()))?;
        let norm = largest.0 / largest.1;
        (norm.is_finite() && norm > 0.).then_some(norm)
    }

    /// The pictures: claims, two-choice questions, perplexity, as far as they were measured.
    fn plots(&self) -> Vec<Plot> {
        let doses = self.sorted();
        let Some(x) = extent(doses.iter().map(|d| d.coeff)) else {
            return Vec::new();
        };
        let axes = Axes {
            x,
            y: (0., 1.),
            x_name: "coeff",
            y_name: "share",
            x_least: 0.,
            above: self.norm().map(|n| (n, "fraction of the residual norm")),
        };
        let name = layer_set(&self.layers);
        let claims: Vec<_> = doses.iter().map(|d| (d.coeff, d.claims)).collect();
        let choices = doses.iter().filter_map(|d| Some((d.coeff, d.choices?)));
        let sets = [
            ("Claims", claims),
            ("Two-choice questions", choices.collect()),
        ];
        let sets = sets
            .into_iter()
            .filter(|(_, outcomes)| !outcomes.is_empty());
        let mut plots: Vec<Plot> = sets
            .map(|(set, outcomes)| shares(&format!("{set}, {name}"), axes, &outcomes))
            .collect();
        let perplexities = doses
            .iter()
            .filter_map(|d| Some((d.coeff, d.perplexity.filter(|p| p.is_finite())?)));
        let perplexities: Vec<Point> = perplexities.collect();
        if let Some((_, highest)) = extent(perplexities.iter().map(|p| p.1)) {
            let axes = Axes {
                y: (0., highest * 1.05),
                y_name: "perplexity",
                ..axes
            };
            let title = format!("Perplexity, {name}");
            plots.push(plot(&title, &title, axes, |chart| {
                chart.dotted_line(&perplexities, Ink::Text);
            }));
        }
        plots
    }
}

/// A share and its interval, read off outcomes.
type Side = (fn(&Outcomes) -> f64, fn(&Outcomes) -> (f64, f64), Ink);

/// Both shares over the coeff, each with the band of its Wilson intervals.
fn shares(title: &str, axes: Axes<'_>, outcomes: &[(f64, Outcomes)]) -> Plot {
    let sides: [Side; 2] = [
        (
            Outcomes::positive_share,
            Outcomes::positive_interval,
            Ink::Positive,
        ),
        (
            Outcomes::negative_share,
            Outcomes::negative_interval,
            Ink::Negative,
        ),
    ];
    plot(title, title, axes, |chart| {
        for (_, interval, ink) in sides {
            let edges = outcomes.iter().map(|(x, o)| (*x, interval(o)));
            let edges: Vec<_> = edges.map(|(x, (low, high))| (x, low, high)).collect();
            chart.band(&edges, ink);
        }
        for (share, _, ink) in sides {
            let points: Vec<Point> = outcomes.iter().map(|(x, o)| (*x, share(o))).collect();
            chart.dotted_line(&points, ink);
        }
    })
}

/// The part of the page about `curves`.
pub(crate) fn section(curves: &[DoseCurve], poles: &Poles) -> Option<Section> {
    type Line = (String, DosePoint);
    let lines: Vec<Line> = curves
        .iter()
        .flat_map(|c| c.sorted().into_iter().map(|d| (layer_set(&c.layers), d)))
        .collect();
    let mut columns = vec![
        Column::text("", "layers", |(layers, _): &Line| layers.clone()),
        Column::data("coeff", |(_, d): &Line| Some(d.coeff)),
        Column::data("fraction", |(_, d): &Line| d.fraction),
        Column::data("perplexity", |(_, d): &Line| d.perplexity),
    ];
    columns.extend(Column::outcomes(("", "claims"), poles, |(_, d): &Line| {
        Some(d.claims)
    }));
    columns.extend(Column::outcomes(("", "choices"), poles, |(_, d): &Line| {
        d.choices
    }));
    Section::new(
        "doses",
        "Dose and response",
        "Bands are Wilson 95 % intervals. Look for a share that changes with the coeff while the two \
         shares still add up to 1; where they no longer do, the model stops answering.",
    )
    .legend(&[
        (&poles.positive, Ink::Positive),
        (&poles.negative, Ink::Negative),
    ])
    .data(Sheet::of("doses", &columns, &lines))
    .plots(curves.iter().flat_map(DoseCurve::plots).collect())
}
