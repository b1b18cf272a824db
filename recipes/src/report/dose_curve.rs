//! What a dose of the direction does to the answers.

use super::canvas::{WIDTH, draw};
use super::chart::{Axes, Chart, HEIGHT};
use super::ink::Ink;
use super::number::{extent, layer_set};
use super::section::{Key, Plot, Section};
use super::sheet::{Cell, Sheet};
use crate::error::Result;
use crate::evaluate::{Tally, wilson};
use serde::{Deserialize, Serialize};

/// The answers under one dose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Dose {
    /// Signed coeff, as given to the intervention; 0 is the base model.
    pub coeff: f64,
    /// The same as a signed fraction of the mean residual norm.
    pub fraction: Option<f64>,
    /// Claims.
    pub claims: Tally,
    /// Two-choice questions, if they were asked.
    pub choices: Option<Tally>,
    /// Perplexity of ordinary text, if it was measured.
    pub perplexity: Option<f64>,
}

/// The doses at one set of layers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DoseCurve {
    /// Layers that are steered together.
    pub layers: Vec<usize>,
    /// Doses in any order.
    pub doses: Vec<Dose>,
}

impl DoseCurve {
    /// Doses from the most negative to the most positive.
    fn sorted(&self) -> Vec<Dose> {
        let mut doses = self.doses.clone();
        doses.sort_by(|a, b| a.coeff.total_cmp(&b.coeff));
        doses
    }

    /// The residual norm that coeffs are fractions of, read off the largest dose.
    fn norm(doses: &[Dose]) -> Option<f64> {
        let sized = doses.iter().filter_map(|d| Some((d.coeff, d.fraction?)));
        let largest = sized.max_by(|a, b| a.0.abs().total_cmp(&b.0.abs()))?;
        let norm = largest.0 / largest.1;
        (norm.is_finite() && norm > 0.).then_some(norm)
    }

    /// The pictures: claims, two-choice questions, perplexity, as far as they were measured.
    fn plots(&self) -> Result<Vec<Plot>> {
        let doses = self.sorted();
        let Some(x) = extent(doses.iter().map(|d| d.coeff)) else {
            return Ok(Vec::new());
        };
        let axes = Axes {
            x,
            y: (0., 1.),
            x_name: "coeff",
            y_name: "share",
            x_least: 0.,
            above: Self::norm(&doses).map(|n| (n, "fraction of the residual norm")),
        };
        let name = layer_set(&self.layers);
        let claims: Vec<_> = doses.iter().map(|d| (d.coeff, d.claims)).collect();
        let choices = doses.iter().filter_map(|d| Some((d.coeff, d.choices?)));
        let choices: Vec<_> = choices.collect();
        let mut plots = vec![shares(format!("Claims, {name}"), axes, &claims)?];
        if !choices.is_empty() {
            plots.push(shares(
                format!("Two-choice questions, {name}"),
                axes,
                &choices,
            )?);
        }
        let perplexities = doses
            .iter()
            .filter_map(|d| Some((d.coeff, d.perplexity.filter(|p| p.is_finite())?)));
        let perplexities: Vec<_> = perplexities.collect();
        if let Some((_, highest)) = extent(perplexities.iter().map(|p| p.1)) {
            let axes = Axes {
                y: (0., highest * 1.05),
                y_name: "perplexity",
                ..axes
            };
            let title = format!("Perplexity, {name}");
            let svg = draw(&title, WIDTH, HEIGHT, |canvas| {
                let chart = Chart::new(canvas, axes)?;
                chart.line(&perplexities, Ink::Text, 1., 2)?;
                chart.dots(&perplexities, Ink::Text, 1.)
            })?;
            plots.push(Plot { title, svg });
        }
        Ok(plots)
    }
}

/// Both shares over the coeff, each with the band of its Wilson intervals.
fn shares(title: String, axes: Axes<'_>, tallies: &[(f64, Tally)]) -> Result<Plot> {
    let svg = draw(&title, WIDTH, HEIGHT, |canvas| {
        let chart = Chart::new(canvas, axes)?;
        let honest: fn(&Tally) -> usize = |t| t.honest;
        let lie: fn(&Tally) -> usize = |t| t.lie;
        let sides = [(honest, Ink::Positive), (lie, Ink::Negative)];
        for (count, ink) in sides {
            let edges: Vec<_> = tallies
                .iter()
                .map(|(x, t)| (*x, wilson(count(t), t.n)))
                .map(|(x, (low, high))| (x, low, high))
                .collect();
            chart.band(&edges, ink)?;
        }
        for (count, ink) in sides {
            let points: Vec<_> = tallies
                .iter()
                .map(|(x, t)| (*x, count(t) as f64 / t.n.max(1) as f64))
                .collect();
            chart.line(&points, ink, 1., 2)?;
            chart.dots(&points, ink, 1.)?;
        }
        Ok(())
    })?;
    Ok(Plot { title, svg })
}

/// The part of the page about `curves`.
pub(super) fn section(curves: &[DoseCurve]) -> Result<Option<Section>> {
    let plots: Vec<Vec<Plot>> = curves.iter().map(DoseCurve::plots).collect::<Result<_>>()?;
    let plots = plots.concat();
    if plots.is_empty() {
        return Ok(None);
    }
    let columns = ["layers", "coeff", "fraction", "perplexity"].map(str::to_owned);
    let columns = columns
        .into_iter()
        .chain(Cell::tally_columns("claims"))
        .chain(Cell::tally_columns("choices"));
    let rows = curves.iter().flat_map(|c| {
        c.sorted().into_iter().map(|d| {
            let mut cells = vec![Cell::text(layer_set(&c.layers)), Cell::Number(d.coeff)];
            cells.extend([d.fraction, d.perplexity].map(Cell::number));
            cells.extend(Cell::tally(Some(d.claims)));
            cells.extend(Cell::tally(d.choices));
            cells
        })
    });
    Ok(Some(Section {
        legend: vec![
            Key::new("honest", Ink::Positive),
            Key::new("lie", Ink::Negative),
        ],
        plots,
        sheet: Some(Sheet::new("doses", columns, rows)),
        ..Section::new(
            "doses",
            "Dose and response",
            "Bands are Wilson 95 % intervals. Look for a share that moves with the coeff before the two \
             no longer add up to 1, which is where the model stops answering.",
        )
    }))
}
