//! How well each layer's direction separates positives from negatives.

use crate::canvas::Ink;
use crate::chart::{Axes, Point, plot};
use crate::number::extent;
use crate::section::{Plot, Section};
use crate::sheet::{Cell, Sheet};
use serde::{Deserialize, Serialize};

/// One layer: its direction compared with the activations of the pairs.
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

/// The part of the page about `layers`.
pub(crate) fn section(layers: &[LayerCosine]) -> Option<Section> {
    let points = |value: fn(&LayerCosine) -> f64| -> Vec<Point> {
        let points = layers.iter();
        points.map(|l| (l.layer as f64, value(l))).collect()
    };
    let positive = points(|l| l.positive);
    let negative = points(|l| l.negative);
    let ordered = points(|l| l.ordered);
    let x = extent(layers.iter().map(|l| l.layer as f64))?;
    let cosines = positive.iter().chain(&negative).map(|p| p.1);
    let low_high = extent(cosines.chain([0.])).unwrap_or((-1., 1.));
    let least = extent(ordered.iter().map(|p| p.1)).map_or(0.5, |e| e.0);
    let figure = |title: &str, y, lines: &[(&[Point], Ink)], rule: f64| -> Plot {
        let axes = Axes {
            x,
            y,
            x_name: "layer",
            y_name: "",
            x_least: 1.,
            above: None,
        };
        plot(title, title, axes, |chart| {
            chart.rule(rule);
            for (points, ink) in lines {
                chart.dotted_line(points, *ink);
            }
        })
    };
    let lines = layers.iter().map(|l| {
        let numbers = [l.positive, l.negative, l.ordered].map(Cell::from);
        [Cell::from(l.layer)].into_iter().chain(numbers).collect()
    });
    let columns = ["layer", "positive", "negative", "ordered"];
    Section::new(
        "layers",
        "The direction, layer by layer",
        "Look for layers where the two lines are far apart and nearly all pairs are ordered \
         correctly; the rule at .5 is chance.",
    )
    .legend(&[
        ("positives", Ink::Positive),
        ("negatives", Ink::Negative),
        ("pairs ordered correctly", Ink::Text),
    ])
    .data(Sheet::new("layers", columns, lines))
    .plots(vec![
        figure(
            "Mean cosine with the direction",
            low_high,
            &[(&positive, Ink::Positive), (&negative, Ink::Negative)],
            0.,
        ),
        figure(
            "Share of pairs ordered correctly",
            (least.min(0.4), 1.),
            &[(&ordered, Ink::Text)],
            0.5,
        ),
    ])
}
