//! How well each layer's direction tells positives from negatives.

use super::canvas::{WIDTH, draw};
use super::chart::{Axes, Chart, HEIGHT};
use super::ink::Ink;
use super::number::extent;
use super::section::{Key, Plot, Section};
use super::sheet::{Cell, Sheet};
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// One layer: its direction against the rows of the pairs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct LayerCosine {
    /// Layer, 0-based.
    pub layer: usize,
    /// Mean cosine of positives with the direction.
    pub positive: f64,
    /// Mean cosine of negatives.
    pub negative: f64,
    /// Share of pairs whose positive projects higher.
    pub ordered: f64,
}

type Points = Vec<(f64, f64)>;

/// The part of the page about `layers`.
pub(super) fn section(layers: &[LayerCosine]) -> Result<Option<Section>> {
    let points = |value: fn(&LayerCosine) -> f64| -> Points {
        let points = layers.iter();
        points.map(|l| (l.layer as f64, value(l))).collect()
    };
    let positive = points(|l| l.positive);
    let negative = points(|l| l.negative);
    let ordered = points(|l| l.ordered);
    let Some(x) = extent(layers.iter().map(|l| l.layer as f64)) else {
        return Ok(None);
    };
    let cosines = positive.iter().chain(&negative).map(|p| p.1);
    let low_high = extent(cosines.chain([0.])).unwrap_or((-1., 1.));
    let plot = |title: &str, y, lines: &[(&Points, Ink)], rule: f64| -> Result<Plot> {
        let svg = draw(title, WIDTH, HEIGHT, |canvas| {
            let axes = Axes {
                x,
                y,
                x_name: "layer",
                y_name: "",
                x_least: 1.,
                above: None,
            };
            let chart = Chart::new(canvas, axes)?;
            chart.rule(rule)?;
            for (points, ink) in lines {
                chart.line(points, *ink, 1., 2)?;
                chart.dots(points, *ink, 1.)?;
            }
            Ok(())
        })?;
        Ok(Plot {
            title: title.into(),
            svg,
        })
    };
    let least = extent(ordered.iter().map(|p| p.1)).map_or(0.5, |e| e.0);
    let rows = layers.iter().map(|l| {
        let numbers = [l.positive, l.negative, l.ordered].map(Cell::Number);
        [Cell::Count(l.layer)].into_iter().chain(numbers).collect()
    });
    Ok(Some(Section {
        legend: vec![
            Key::new("positives", Ink::Positive),
            Key::new("negatives", Ink::Negative),
            Key::new("pairs ordered rightly", Ink::Text),
        ],
        plots: vec![
            plot(
                "Mean cosine with the direction",
                low_high,
                &[(&positive, Ink::Positive), (&negative, Ink::Negative)],
                0.,
            )?,
            plot(
                "Share of pairs ordered rightly",
                (least.min(0.4), 1.),
                &[(&ordered, Ink::Text)],
                0.5,
            )?,
        ],
        sheet: Some(Sheet::new(
            "layers",
            ["layer", "positive", "negative", "ordered"],
            rows,
        )),
        ..Section::new(
            "layers",
            "The direction, layer by layer",
            "Look for the layers where the two lines lie far apart and nearly all pairs are ordered; \
             the rule at .5 is chance.",
        )
    }))
}
