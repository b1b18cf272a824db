//! The bar panels: positive and negative answers by model.

use crate::canvas::{Anchor, Ink, Paint, WIDTH, draw};
use crate::number::fixed;
use crate::outcomes::Outcomes;
use crate::result_table::ResultTable;
use crate::section::{Plot, Section};

const LEFT: i32 = 4;
const RIGHT: i32 = WIDTH - 40;
const TOP: i32 = 6;
const EACH: i32 = 46;

/// The part of the page with a panel for each set of questions.
pub(crate) fn section(table: &ResultTable) -> Option<Section> {
    let rows = table.rows.iter();
    let claims: Vec<_> = rows.clone().map(|r| (r.model.as_str(), r.claims)).collect();
    let choices = rows.filter_map(|r| Some((r.model.as_str(), r.choices?)));
    let sets = [
        ("Claims", claims),
        ("Two-choice questions", choices.collect()),
    ];
    let plots = sets.into_iter().filter(|s| !s.1.is_empty());
    Section::new(
        "shares",
        "Answers by model",
        "Lines are Wilson 95 % intervals. Look for tuned models that beat the steered ones, above all \
         on two-choice questions, whose format was not tuned on.",
    )
    .legend(&[
        (&table.poles.positive, Ink::Positive),
        (&table.poles.negative, Ink::Negative),
    ])
    .plots(plots.map(|(title, bars)| panel(title, &bars)).collect())
}

/// Two bars a model under its name: names are long, and a phone is narrow.
fn panel(title: &str, bars: &[(&str, Outcomes)]) -> Plot {
    let bottom = TOP + EACH * bars.len() as i32;
    let x = |share: f64| LEFT + (share * f64::from(RIGHT - LEFT)).round() as i32;
    let svg = draw(title, bottom + 24, |canvas| {
        for share in [0., 0.25, 0.5, 0.75, 1.] {
            canvas.line(&[(x(share), TOP), (x(share), bottom)], Ink::Grid, 1., 1);
            let anchor = match share == 0. {
                true => Anchor::Start,
                false => Anchor::Middle,
            };
            let label = fixed(share, 2);
            canvas.text(&label, (x(share), bottom + 12), Ink::Faint, anchor);
        }
        for (i, (model, o)) in bars.iter().enumerate() {
            let top = TOP + EACH * i as i32;
            canvas.text(&shortened(model), (LEFT, top + 8), Ink::Text, Anchor::Start);
            let sides = [
                (o.positive_share(), o.positive_interval(), Ink::Positive),
                (o.negative_share(), o.negative_interval(), Ink::Negative),
            ];
            for (side, (share, (low, high), ink)) in sides.into_iter().enumerate() {
                let y = top + 17 + 13 * side as i32;
                let bar = [(x(0.), y), (x(share), y + 11)];
                canvas.rectangle(bar, Paint::Fill(ink), 0.6);
                canvas.line(&[(x(low), y + 5), (x(high), y + 5)], Ink::Text, 1., 1);
                for end in [low, high] {
                    canvas.line(&[(x(end), y + 2), (x(end), y + 9)], Ink::Text, 1., 1);
                }
                let label = fixed(share, 3);
                canvas.text(&label, (WIDTH - 2, y + 6), Ink::Faint, Anchor::End);
            }
        }
    });
    let title = title.into();
    Plot { title, svg }
}

/// A name that fits the width.
fn shortened(name: &str) -> String {
    const FITS: usize = 50;
    match name.chars().count() > FITS {
        true => name.chars().take(FITS - 1).chain(['\u{2026}']).collect(),
        false => name.to_owned(),
    }
}
