//! Positives and negatives in two principal components.

use crate::canvas::{Ink, Paint};
use crate::chart::{Axes, Point, plot};
use crate::number::extent;
use crate::section::{Plot, Section, both_sets};
use crate::sheet::{Cell, Sheet};
use serde::{Deserialize, Serialize};

/// Activations of one layer, projected on their first two principal components.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ScatterFigure {
    /// Layer, 0-based.
    pub layer: usize,
    /// Share of the variance along each component, if known.
    pub explained: Option<[f64; 2]>,
    /// Positives.
    pub positive: Vec<[f64; 2]>,
    /// Negatives.
    pub negative: Vec<[f64; 2]>,
}

impl ScatterFigure {
    fn axis(&self, component: usize) -> String {
        let share = self.explained.map(|e| e[component] * 100.);
        let share = share.map_or_else(String::new, |s| format!(" ({s:.0} %)"));
        format!("component {}{share}", component + 1)
    }

    /// The picture; none if there is nothing to show.
    fn plot(&self) -> Option<Plot> {
        let range = |component: usize| {
            let all = self.positive.iter().chain(&self.negative);
            let (low, high) = extent(all.map(|p| p[component]))?;
            let margin = (high - low) * 0.04;
            Some((low - margin, high + margin))
        };
        let points = |set: &[[f64; 2]]| -> Vec<Point> {
            let finite = set.iter().filter(|p| p[0].is_finite());
            finite.map(|p| (p[0], p[1])).collect()
        };
        let axes = Axes {
            x: range(0)?,
            y: range(1)?,
            x_name: &self.axis(0),
            y_name: &self.axis(1),
            x_least: 0.,
            above: None,
        };
        let alt = format!("Principal components, layer {}", self.layer);
        Some(plot(
            &format!("Layer {}", self.layer),
            &alt,
            axes,
            |chart| {
                chart.circles(&points(&self.positive), Paint::Fill(Ink::Positive), 0.55);
                chart.circles(&points(&self.negative), Paint::Border(Ink::Negative), 0.9);
            },
        ))
    }
}

/// The part of the page about `layers`.
pub(crate) fn section(layers: &[ScatterFigure]) -> Option<Section> {
    let lines = layers.iter().flat_map(|l| {
        both_sets(l.layer, (&l.positive, &l.negative), |p| {
            p.map(Cell::from).to_vec()
        })
    });
    let columns = ["layer", "set", "component_1", "component_2"];
    Section::new(
        "components",
        "Principal components",
        "Look for two clouds that are separated along one axis: in such a layer the pairs differ \
         mainly in the behaviour.",
    )
    .legend(&[
        ("positives (dots)", Ink::Positive),
        ("negatives (rings)", Ink::Negative),
    ])
    .data(Sheet::new("components", columns, lines))
    .plots(layers.iter().filter_map(ScatterFigure::plot).collect())
}
