//! What a direction says of the activations of the pairs: how well each layer's direction
//! separates positives from negatives, their projections on it, and their principal components.

use crate::canvas::Ink;
use crate::chart::{Axes, Chart, Point, plot};
use crate::number::extent;
use crate::section::{Plot, Section};
use serde::{Deserialize, Serialize};

/// Fewest and most bars of a histogram.
const BINS: (usize, usize) = (8, 24);

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

impl LayerCosine {
    pub(crate) fn section(layers: &[Self]) -> Option<Section> {
        let points = |value: fn(&Self) -> f64| -> Vec<Point> {
            layers.iter().map(|l| (l.layer as f64, value(l))).collect()
        };
        let [positive, negative] = [points(|l| l.positive), points(|l| l.negative)];
        let ordered = points(|l| l.ordered);
        let x = extent(layers.iter().map(|l| l.layer as f64))?;
        let cosines = positive.iter().chain(&negative).map(|p| p.1);
        let low_high = extent(cosines.chain([0.])).unwrap_or((-1., 1.));
        let least = extent(ordered.iter().map(|p| p.1)).map_or(0.5, |e| e.0);
        let to_one = (least.min(0.4), 1.);
        let figure = |title, y, lines: &[(&[Point], Ink)], rule| {
            let axes = Axes {
                x_least: 1.,
                ..Axes::new(["layer", ""], x, y)
            };
            plot(title, title, axes, |chart| {
                chart.line(&[(x.0, rule), (x.1, rule)], Ink::FAINT, 1., 1);
                for (points, ink) in lines {
                    chart.dotted_line(points, *ink);
                }
            })
        };
        let cosines = [(&positive[..], Ink::POSITIVE), (&negative, Ink::NEGATIVE)];
        let shares = [(&ordered[..], Ink::TEXT)];
        let rows = layers.iter();
        Section::new("layers", "The direction, layer by layer")
            .legend([
                ("positives", Ink::POSITIVE),
                ("negatives", Ink::NEGATIVE),
                ("pairs ordered correctly", Ink::TEXT),
            ])
            .data(
                &["layer", "positive", "negative", "ordered"],
                rows.map(|l| (l.layer, l.positive, l.negative, l.ordered)),
            )
            .plots(vec![
                figure("Mean cosine with the direction", low_high, &cosines, 0.),
                figure("Share of pairs ordered correctly", to_one, &shares, 0.5),
            ])
    }
}

/// Projections of the pairs' activations onto the direction of one layer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ProjectionFigure {
    /// Layer, 0-based.
    pub layer: usize,
    /// Of positives.
    pub positive: Vec<f64>,
    /// Of negatives.
    pub negative: Vec<f64>,
}

impl ProjectionFigure {
    /// A histogram of both, as shares of each set; none if there is nothing to show.
    fn plot(&self) -> Option<Plot> {
        let values = || self.positive.iter().chain(&self.negative).copied();
        let x = extent(values())?;
        let bins = ((values().count() as f64).sqrt() as usize).clamp(BINS.0, BINS.1);
        let width = (x.1 - x.0) / bins as f64;
        let shares = |values: &[f64]| {
            let mut shares = vec![0.; bins];
            for value in values.iter().filter(|v| v.is_finite()) {
                let bin = ((value - x.0) / width) as usize;
                shares[bin.min(bins - 1)] += 1. / values.len() as f64;
            }
            shares
        };
        let sets = [
            (shares(&self.positive), Ink::POSITIVE),
            (shares(&self.negative), Ink::NEGATIVE),
        ];
        let highest = sets.iter().flat_map(|s| &s.0).copied().fold(0., f64::max);
        let names = ["projection on the direction", "share"];
        let axes = Axes::new(names, x, (0., highest * 1.05));
        Some(layer_plot("Projections", self.layer, axes, |chart| {
            for (shares, ink) in sets {
                for (i, share) in shares.into_iter().enumerate().filter(|s| s.1 > 0.) {
                    let from = x.0 + i as f64 * width;
                    chart.bar((from, from + width), share, ink);
                }
            }
        }))
    }

    pub(crate) fn section(layers: &[Self]) -> Option<Section> {
        let rows = layers.iter();
        let rows = rows.flat_map(|l| both_sets(l.layer, &l.positive, &l.negative));
        Section::new("projections", "Projections on the direction")
            .sides("positives", "negatives")
            .data(&["layer", "set", "projection"], rows)
            .plots(layers.iter().filter_map(Self::plot).collect())
    }
}

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
        let names = [self.axis(0), self.axis(1)];
        let axes = Axes::new([&names[0], &names[1]], range(0)?, range(1)?);
        let what = "Principal components";
        Some(layer_plot(what, self.layer, axes, |chart| {
            chart.circles(&points(&self.positive), &Ink::POSITIVE.fill(), 0.55);
            chart.circles(&points(&self.negative), &Ink::NEGATIVE.border(), 0.9);
        }))
    }

    pub(crate) fn section(layers: &[Self]) -> Option<Section> {
        let rows = layers.iter();
        let rows = rows.flat_map(|l| both_sets(l.layer, &l.positive, &l.negative));
        Section::new("components", "Principal components")
            .sides("positives (dots)", "negatives (rings)")
            .data(
                &["layer", "set", "component_1", "component_2"],
                rows.map(|(layer, set, [x, y])| (layer, set, x, y)),
            )
            .plots(layers.iter().filter_map(Self::plot).collect())
    }
}

/// A panel of `layer`, of which `alt` is what it shows.
fn layer_plot(alt: &str, layer: usize, axes: Axes, paint: impl FnOnce(&mut Chart)) -> Plot {
    let (title, alt) = (format!("Layer {layer}"), format!("{alt}, layer {layer}"));
    plot(&title, &alt, axes, paint)
}

/// `(layer, set, value)` for every value of the positives and of the negatives of a layer.
fn both_sets<'a, V: Copy>(
    layer: usize,
    positive: &'a [V],
    negative: &'a [V],
) -> impl Iterator<Item = (usize, &'static str, V)> {
    let positive = positive.iter().map(|v| ("positive", v));
    let both = positive.chain(negative.iter().map(|v| ("negative", v)));
    both.map(move |(set, value)| (layer, set, *value))
}
