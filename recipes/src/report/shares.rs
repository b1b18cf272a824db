//! The bar panels: honest and lying answers by model.

use super::canvas::{Anchor, Pixel, WIDTH, draw};
use super::ink::Ink;
use super::number::fixed;
use super::result::Report;
use super::section::{Key, Plot, Section};
use crate::error::Result;
use crate::evaluate::{Tally, wilson};

const LEFT: i32 = 4;
const RIGHT: i32 = WIDTH - 40;
const TOP: i32 = 6;
const EACH: i32 = 46;

/// The part of the page with a panel for each set of questions.
pub(super) fn section(report: &Report) -> Result<Option<Section>> {
    let rows = report.rows.iter();
    let claims: Vec<_> = rows.clone().map(|r| (r.model.as_str(), r.claims)).collect();
    let choices: Vec<_> = rows
        .filter_map(|r| Some((r.model.as_str(), r.choices?)))
        .collect();
    let sets = [("Claims", claims), ("Two-choice questions", choices)];
    let plots = sets.into_iter().filter(|s| !s.1.is_empty());
    let plots: Vec<Plot> = plots
        .map(|(title, bars)| panel(title, &bars))
        .collect::<Result<_>>()?;
    Ok((!plots.is_empty()).then(|| Section {
        legend: vec![
            Key::new("honest", Ink::Positive),
            Key::new("lie", Ink::Negative),
        ],
        plots,
        ..Section::new(
            "shares",
            "Honest and lying answers",
            "Lines are Wilson 95 % intervals. Look for tuned models that beat the steered ones, most of \
             all on questions of a format that nobody tuned on.",
        )
    }))
}

/// Two bars a model under its name: names are long, and a phone is narrow.
fn panel(title: &str, bars: &[(&str, Tally)]) -> Result<Plot> {
    let bottom = TOP + EACH * bars.len() as i32;
    let x = |share: f64| LEFT + (share * f64::from(RIGHT - LEFT)).round() as i32;
    let svg = draw(title, WIDTH, bottom + 24, |canvas| {
        for share in [0., 0.25, 0.5, 0.75, 1.] {
            let line: Vec<Pixel> = vec![(x(share), TOP), (x(share), bottom)];
            canvas.line(line, Ink::Grid, 1., 1)?;
            let anchor = match share == 0. {
                true => Anchor::Start,
                false => Anchor::Middle,
            };
            let label = fixed(share, 2);
            canvas.text(&label, (x(share), bottom + 12), Ink::Faint, anchor)?;
        }
        for (i, (model, tally)) in bars.iter().enumerate() {
            let top = TOP + EACH * i as i32;
            canvas.text(&shortened(model), (LEFT, top + 8), Ink::Text, Anchor::Start)?;
            let sides = [(tally.honest, Ink::Positive), (tally.lie, Ink::Negative)];
            for (side, (count, ink)) in sides.into_iter().enumerate() {
                let y = top + 17 + 13 * side as i32;
                let share = count as f64 / tally.n.max(1) as f64;
                let (low, high) = wilson(count, tally.n);
                canvas.block([(x(0.), y), (x(share), y + 11)], ink, 0.6)?;
                canvas.line(vec![(x(low), y + 5), (x(high), y + 5)], Ink::Text, 1., 1)?;
                for end in [low, high] {
                    canvas.line(vec![(x(end), y + 2), (x(end), y + 9)], Ink::Text, 1., 1)?;
                }
                let label = fixed(share, 3);
                canvas.text(&label, (WIDTH - 2, y + 6), Ink::Faint, Anchor::End)?;
            }
        }
        Ok(())
    })?;
    Ok(Plot {
        title: title.into(),
        svg,
    })
}

/// A name that fits the width.
fn shortened(name: &str) -> String {
    const FITS: usize = 50;
    match name.chars().count() > FITS {
        true => name.chars().take(FITS - 1).chain(['\u{2026}']).collect(),
        false => name.to_owned(),
    }
}
