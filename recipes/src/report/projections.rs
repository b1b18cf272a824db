//! How far positives and negatives lie along the direction.

use super::canvas::{WIDTH, draw};
use super::chart::{Axes, Chart, HEIGHT};
use super::ink::Ink;
use super::number::extent;
use super::section::{Key, Plot, Section};
use super::sheet::{Cell, Sheet};
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// Fewest and most bars of a histogram.
const BINS: (usize, usize) = (8, 24);

/// Projections of the pairs' rows onto the direction of one layer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Projections {
    /// Layer, 0-based.
    pub layer: usize,
    /// Of positives.
    pub positive: Vec<f64>,
    /// Of negatives.
    pub negative: Vec<f64>,
}

impl Projections {
    fn values(&self) -> impl Iterator<Item = f64> {
        self.positive.iter().chain(&self.negative).copied()
    }

    /// A histogram of both, as shares of each set; none if there is nothing to show.
    fn plot(&self) -> Result<Option<Plot>> {
        let Some(x) = extent(self.values()) else {
            return Ok(None);
        };
        let bins = (self.values().count() as f64).sqrt() as usize;
        let bins = bins.clamp(BINS.0, BINS.1);
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
            (shares(&self.positive), Ink::Positive),
            (shares(&self.negative), Ink::Negative),
        ];
        let highest = sets.iter().flat_map(|s| &s.0).copied().fold(0., f64::max);
        let title = format!("Layer {}", self.layer);
        let svg = draw(
            &format!("Projections, layer {}", self.layer),
            WIDTH,
            HEIGHT,
            |canvas| {
                let axes = Axes {
                    x,
                    y: (0., highest * 1.05),
                    x_name: "projection on the direction",
                    y_name: "share",
                    x_least: 0.,
                    above: None,
                };
                let chart = Chart::new(canvas, axes)?;
                for (shares, ink) in sets {
                    for (i, share) in shares.into_iter().enumerate().filter(|s| s.1 > 0.) {
                        let from = x.0 + i as f64 * width;
                        chart.bar((from, from + width), share, ink)?;
                    }
                }
                Ok(())
            },
        )?;
        Ok(Some(Plot { title, svg }))
    }
}

/// The part of the page about `layers`.
pub(super) fn section(layers: &[Projections]) -> Result<Option<Section>> {
    let plots = layers.iter().filter_map(|l| l.plot().transpose());
    let plots: Vec<Plot> = plots.collect::<Result<_>>()?;
    if plots.is_empty() {
        return Ok(None);
    }
    let rows = layers.iter().flat_map(|l| {
        let sets = [("positive", &l.positive), ("negative", &l.negative)];
        sets.into_iter().flat_map(move |(set, values)| {
            let row = move |x: &f64| vec![Cell::Count(l.layer), Cell::text(set), Cell::Number(*x)];
            values.iter().map(row)
        })
    });
    Ok(Some(Section {
        legend: vec![
            Key::new("positives", Ink::Positive),
            Key::new("negatives", Ink::Negative),
        ],
        plots,
        sheet: Some(Sheet::new(
            "projections",
            ["layer", "set", "projection"],
            rows,
        )),
        ..Section::new(
            "projections",
            "Projections on the direction",
            "Look for two hills that hardly overlap: there one number tells a positive from a negative.",
        )
    }))
}
