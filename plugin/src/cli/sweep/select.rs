//! `reptune sweep --select`: what was measured, and what was chosen.

use crate::cli::args::RecipeArgs;
use crate::cli::output::{print, print_json, share, signed};
use crate::pipeline::{self, CHOICE_FILE, SELECTION, Selection};
use crate::progress;
use anyhow::Result;
use reptune_adapters::Positions;
use reptune_recipes::select::{Selected, SelectionTable};
use reptune_report::aligned;

pub fn select(a: &RecipeArgs) -> Result<()> {
    let session = a.session()?;
    let places = session.recipe.extraction.positions.each();
    let mut run = a.run(session)?;
    let selected = pipeline::select(&mut run, &mut |measured| {
        progress::line(format_args!("{}\n", table(measured, &places, None)));
    })?;
    if a.json {
        return print_json(&selected);
    }
    let [[kept, all], [held_out, of]] = [selected.pairs, selected.held_out];
    print(format_args!(
        "Directions of {kept} of {all} training pairs, measured on {held_out} of {of} held-out pairs and on\n\
         the validation claims. Shift: change of the mean log-odds of the right answer, positive\n\
         if it has the sign of the dose. KL: from the unsteered model, on neutral text.\n"
    ))?;
    let chosen = Some(&selected.choice);
    print(format_args!(
        "{}\n",
        table(&selected.table, &places, chosen)
    ))?;
    print(format_args!("{}\n", choice(&selected, &places)))?;
    print(format_args!("{}\n", tested(&selected)))?;
    print(run.stages.path(CHOICE_FILE).display())?;
    print(run.stages.path(SELECTION).display())
}

/// A row for each dose; layer and place stand on the first of them.
fn table(table: &SelectionTable, places: &[Positions], choice: Option<&Selected>) -> String {
    let head = [
        "layer", "place", "ordered", "cos +", "cos -", "fraction", "coeff", "shift +", "shift -",
        "KL +", "KL -",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for c in &table.candidates {
        let mut first = vec![
            c.layer.to_string(),
            places[c.place].to_string(),
            format!("{:.3}", c.ordered),
            format!("{:+.3}", c.positive),
            format!("{:+.3}", c.negative),
        ];
        let before = rows.len();
        for up in c.doses.iter().filter(|d| d.fraction > 0.) {
            let down = c.doses.iter().find(|d| d.fraction == -up.fraction);
            let Some(down) = down else { continue };
            let mut row = std::mem::replace(&mut first, vec![String::new(); 5]);
            row.push(up.fraction.to_string());
            row.push(format!("{:.2}", up.coeff));
            row.extend([up.shift, down.shift].map(signed));
            row.extend([up.kl, down.kl].map(|x| format!("{x:.3}")));
            let this =
                |t: &&Selected| (t.place, t.layer, t.fraction) == (c.place, c.layer, up.fraction);
            row.extend(choice.filter(this).map(|_| "<- chosen".to_owned()));
            rows.push(row);
        }
        if rows.len() == before {
            first.resize(head.len(), "-".to_owned());
            first.push("not eligible".to_owned());
            rows.push(first);
        }
    }
    aligned(&rows)
}

fn choice(selected: &Selection, places: &[Positions]) -> String {
    let c = &selected.choice;
    format!(
        "Chosen: layer {}, {}, coeff {:.2}, which is {} of the mean norm of the residual\n\
         stream. Of all doses whose KL is at most {} with both signs, it has the largest mean\n\
         shift, {:+.2}; its KL is {:.3}.",
        c.layer, places[c.place], c.coeff, c.fraction, selected.kl, c.effect, c.kl
    )
}

fn tested(selected: &Selection) -> String {
    let head = [
        "on test claims",
        "n",
        "right answer likelier",
        "log-odds",
        "shift",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let base = selected.test.first().map_or(0., |t| t.log_odds);
    for t in &selected.test {
        let (name, shift) = match t.coeff {
            0. => ("unsteered".to_owned(), String::new()),
            coeff => (
                format!("coeff {} at layer {}", signed(coeff), selected.choice.layer),
                signed(t.log_odds - base),
            ),
        };
        rows.push(vec![
            name,
            t.n.to_string(),
            share(t.honest, t.n),
            signed(t.log_odds),
            shift,
        ]);
    }
    aligned(&rows)
}
