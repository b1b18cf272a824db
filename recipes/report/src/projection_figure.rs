//! How far positives and negatives lie along the direction.

use crate::canvas::Ink;
use crate::chart::{Axes, plot};
use crate::number::extent;
use crate::section::{Plot, Section, both_sets};
use crate::sheet::{Cell, Sheet};
use serde::{Deserialize, Serialize};

/// Fewest and most bars of a histogram.
const BINS: (usize, usize) = (8, 24);

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
            (shares(&self.positive), Ink::Positive),
            (shares(&self.negative), Ink::Negative),
        ];
        let highest = sets.iter().flat_map(|s| &s.0).copied().fold(0., f64::max);
        let axes = Axes {
            x,
            y: (0., highest * 1.05),
            x_name: "projection on the direction",
            y_name: "share",
            x_least: 0.,
            above: None,
        };
        let alt = format!("Projections, layer {}", self.layer);
        Some(plot(
            &format!("Layer {}", self.layer),
            &alt,
            axes,
            |chart| {
                for (shares, ink) in sets {
                    for (i, share) in shares.into_iter().enumerate().filter(|s| s.1 > 0.) {
                        let from = x.0 + i as f64 * width;
                        chart.bar((from, from + width), share, ink);
                    }
                }
            },
        ))
    }
}

/// The part of the page about `layers`.
pub(crate) fn section(layers: &[ProjectionFigure]) -> Option<Section> {
    let lines = layers.iter().flat_map(|l| {
        both_sets(l.layer, (&l.positive, &l.negative), |x| {
            vec![Cell::from(*x)]
        })
    });
    Section::new(
        "projections",
        "Projections on the direction",
        "Look for two hills that hardly overlap: in such a layer one number separates positives \
         from negatives.",
    )
    .legend(&[("positives", Ink::Positive), ("negatives", Ink::Negative)])
    .data(Sheet::new(
        "projections",
        ["layer", "set", "projection"],
        lines,
    ))
    .plots(layers.iter().filter_map(ProjectionFigure::plot).collect())
}
