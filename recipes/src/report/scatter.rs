//! The rows of positives and negatives in two principal components.

use super::canvas::{WIDTH, draw};
use super::chart::{Axes, Chart, HEIGHT};
use super::ink::Ink;
use super::number::extent;
use super::section::{Key, Plot, Section};
use super::sheet::{Cell, Sheet};
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// Rows of one layer, projected on their first two principal components.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Scatter {
    /// Layer, 0-based.
    pub layer: usize,
    /// Share of the variance along each component, if known.
    pub explained: Option<[f64; 2]>,
    /// Positives.
    pub positive: Vec<[f64; 2]>,
    /// Negatives.
    pub negative: Vec<[f64; 2]>,
}

impl Scatter {
    fn axis(&self, component: usize) -> String {
        let share = self.explained.map(|e| e[component] * 100.);
        let share = share.map_or_else(String::new, |s| format!(" ({s:.0} %)"));
        format!("component {}{share}", component + 1)
    }

    /// The picture; none if there is nothing to show.
    fn plot(&self) -> Result<Option<Plot>> {
        let all = || self.positive.iter().chain(&self.negative);
        let range = |component: usize| extent(all().map(|p| p[component]));
        let (Some(x), Some(y)) = (range(0), range(1)) else {
            return Ok(None);
        };
        let wider = |(low, high): (f64, f64)| {
            let margin = (high - low) * 0.04;
            (low - margin, high + margin)
        };
        let points = |set: &[[f64; 2]]| -> Vec<(f64, f64)> {
            let finite = set.iter().filter(|p| p[0].is_finite());
            finite.map(|p| (p[0], p[1])).collect()
        };
        let alt = format!("Principal components, layer {}", self.layer);
        let (x_name, y_name) = (self.axis(0), self.axis(1));
        let svg = draw(&alt, WIDTH, HEIGHT, |canvas| {
            let axes = Axes {
                x: wider(x),
                y: wider(y),
                x_name: &x_name,
                y_name: &y_name,
                x_least: 0.,
                above: None,
            };
            let chart = Chart::new(canvas, axes)?;
            chart.dots(&points(&self.positive), Ink::Positive, 0.55)?;
            chart.rings(&points(&self.negative), Ink::Negative, 0.9)
        })?;
        let title = format!("Layer {}", self.layer);
        Ok(Some(Plot { title, svg }))
    }
}

/// The part of the page about `layers`.
pub(super) fn section(layers: &[Scatter]) -> Result<Option<Section>> {
    let plots = layers.iter().filter_map(|l| l.plot().transpose());
    let plots: Vec<Plot> = plots.collect::<Result<_>>()?;
    if plots.is_empty() {
        return Ok(None);
    }
    let rows = layers.iter().flat_map(|l| {
        let sets = [("positive", &l.positive), ("negative", &l.negative)];
        sets.into_iter().flat_map(move |(set, points)| {
            let row = move |p: &[f64; 2]| {
                let [first, second] = p.map(Cell::Number);
                vec![Cell::Count(l.layer), Cell::text(set), first, second]
            };
            points.iter().map(row)
        })
    });
    Ok(Some(Section {
        legend: vec![
            Key::new("positives (dots)", Ink::Positive),
            Key::new("negatives (rings)", Ink::Negative),
        ],
        plots,
        sheet: Some(Sheet::new(
            "components",
            ["layer", "set", "component_1", "component_2"],
            rows,
        )),
        ..Section::new(
            "components",
            "Principal components",
            "Look for two clouds: if they part along an axis, what the pairs differ in is the main \
             thing these rows say.",
        )
    }))
}
