//! `reptune select`: layer, place and dose by what adding the direction does.
//!
//! The choice sees training and validation claims. What it does is then told on the
//! test claims, which had no part in it.

use super::opened::{directory, growing, inputs, open, share, signed, write_json};
use super::{bar, flags};
use crate::session::Session;
use crate::stages::Stages;
use anyhow::{Context, Result};
use reptune_adapters::{DirectionSet, Dose, HookedModel, Intervention, Operator, files};
use reptune_recipes::extract::{Captured, find};
use reptune_recipes::recipe::Place;
use reptune_recipes::score::{Choice, ModelVariant, log_odds};
use reptune_recipes::select::{Selected, SelectionInputs, SelectionTable, select as choose};
use reptune_report::aligned;
use serde::{Deserialize, Serialize};
use std::path::Path;

const RESULT: &str = "selection.json";
const CELLS: &str = "selection.jsonl";
const DIRECTIONS: &str = "selection.safetensors";

/// What `selection.json` holds.
#[derive(Serialize, Deserialize)]
struct SelectionFile {
    /// Layer, place and dose.
    choice: Selected,
    /// Largest KL that was allowed.
    kl: f64,
    /// Training pairs whose rows made the directions, and those that were captured.
    pairs: [usize; 2],
    /// Validation pairs, likewise.
    held_out: [usize; 2],
    /// All that was measured.
    table: SelectionTable,
    /// What the choice does to the answers to test claims.
    test: Vec<Tested>,
}

/// The model on test claims with one dose of the choice.
#[derive(Serialize, Deserialize)]
struct Tested {
    /// Signed coeff; 0: the model as it is.
    coeff: f64,
    /// Claims asked.
    n: usize,
    /// Mean of log p(right) - log p(wrong).
    log_odds: f64,
    /// Claims of which the right letter is likelier.
    honest: usize,
}

pub fn select(a: &flags::Recipe) -> Result<()> {
    let session = open(a)?;
    let mut stages = Stages::open(&directory(a, &session))?;
    let inputs = inputs(a, &session)?;
    let (file, directions) = (stages.path(RESULT), stages.path(DIRECTIONS));
    if !directions.exists() && file.exists() {
        // Neither is of use without the other.
        std::fs::remove_file(&file).map_err(|e| reptune_adapters::Error::write(&file, e))?;
    }
    let cells = stages.path(CELLS);
    let measured = stages.run(RESULT, &[&inputs], |path| {
        let selected = measure(&session, &directions, &cells)?;
        write_json(path, &selected)
    });
    measured.with_context(|| a.recipe.display().to_string())?;
    let text = files::read(&file)?;
    let selected: SelectionFile = serde_json::from_slice(&text).context(RESULT)?;
    if a.json {
        println!("{}", serde_json::to_string(&selected)?);
        return Ok(());
    }
    let places = session.recipe.extraction.places();
    println!("{}\n", head(&selected));
    println!(
        "{}\n",
        table(&selected.table, &places, Some(&selected.choice))
    );
    println!("{}\n", chosen(&selected, &places));
    println!("{}\n", tested(&selected));
    println!("{}\n{}", file.display(), directions.display());
    Ok(())
}

/// Measures, chooses, writes the chosen directions to `file` and tests the choice. Doses are
/// kept in `cells` as they are measured.
fn measure(session: &Session, file: &Path, cells: &Path) -> crate::Result<SelectionFile> {
    let (llama, chat, recipe) = (&session.llama, &session.chat, &session.recipe);
    let capture = |claims, what| {
        let (bar, mut progress) = growing(what);
        let captured = Captured::of(llama, chat, recipe, claims, &mut progress)?;
        bar.finish_and_clear();
        crate::Result::Ok(captured)
    };
    let train = capture(&session.items.train, "capture training pairs")?;
    let held_out = capture(&session.items.validation, "capture held-out pairs")?;
    let found = find(llama.spec(), recipe, &train)?;
    let inputs = SelectionInputs {
        model: llama,
        chat,
        recipe,
        found: &found,
        held_out: &held_out,
        claims: &session.items.validation,
    };
    let (bar, mut progress) = growing("measure doses");
    let table = choose(inputs, cells, &mut progress)?;
    bar.finish_and_clear();
    let kl = recipe.selection.clone().unwrap_or_default().kl;
    let choice = table.choose(kl).inspect_err(|_| {
        // Nothing was chosen; the numbers say why.
        eprintln!("{}\n", self::table(&table, train.places(), None));
    })?;
    let set = choice.directions(&found)?;
    let test = test(session, set, &choice)?;
    set.save(file)?;
    Ok(SelectionFile {
        kl,
        pairs: [train.pairs(), train.asked()],
        held_out: [held_out.pairs(), held_out.asked()],
        choice,
        table,
        test,
    })
}

/// Asks the test claims without the choice, with it, and with its negative.
fn test(session: &Session, set: &DirectionSet, choice: &Selected) -> crate::Result<Vec<Tested>> {
    let questions = session.claim_questions();
    let plain = session.plain();
    let choices = Choice::of_questions(&session.chat, &session.recipe, &plain, &questions)?;
    let bar = bar(3 * choices.len(), "test the choice");
    let mut tested = Vec::new();
    for coeff in [0., choice.coeff, -choice.coeff] {
        let steering = Intervention::new(set, &[choice.layer], Dose::Total(coeff), Operator::Add)?;
        let steering = [steering.on(session.recipe.steering.rows.clone())];
        let variant = ModelVariant {
            interventions: if coeff == 0. { &[] } else { &steering },
            ..ModelVariant::base(&session.llama)
        };
        let from = tested.len() * choices.len();
        let odds = log_odds(&variant, &choices, &mut |n| {
            bar.set_position((from + n) as u64)
        })?;
        tested.push(Tested {
            coeff,
            n: odds.len(),
            log_odds: odds.iter().sum::<f64>() / odds.len() as f64,
            honest: odds.iter().filter(|o| **o > 0.).count(),
        });
    }
    bar.finish_and_clear();
    Ok(tested)
}

fn head(selected: &SelectionFile) -> String {
    let [[kept, all], [held_out, of]] = [selected.pairs, selected.held_out];
    format!(
        "Directions of {kept} of {all} training pairs, measured on {held_out} of {of} held-out pairs\n\
         and on validation claims: mean shift of the log-odds of the right letter, counted\n\
         positive where it goes the way of the sign, and KL on neutral text."
    )
}

/// A place in few letters.
fn short(place: &Place) -> String {
    match place {
        Place::Offset(offset) => format!("offset {offset}"),
        Place::Mean { from, to } => format!("mean {from}..{to}"),
        Place::Marked(name) => format!("<<{name}>>"),
    }
}

/// A row for each dose; what is of the layer and place stands on the first of them.
fn table(table: &SelectionTable, places: &[Place], choice: Option<&Selected>) -> String {
    let header = [
        "layer", "place", "ordered", "cos +", "cos -", "fraction", "coeff", "shift +", "shift -",
        "KL +", "KL -",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for c in &table.candidates {
        let mut first = vec![
            c.layer.to_string(),
            short(&places[c.place]),
            format!("{:.3}", c.ordered),
            format!("{:+.3}", c.positive),
            format!("{:+.3}", c.negative),
        ];
        let ups = c.doses.iter().filter(|d| d.fraction > 0.);
        let before = rows.len();
        for up in ups {
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
            first.resize(header.len(), "-".to_owned());
            first.push("not to be chosen".to_owned());
            rows.push(first);
        }
    }
    aligned(&rows)
}

fn chosen(selected: &SelectionFile, places: &[Place]) -> String {
    let c = &selected.choice;
    format!(
        "Chosen: layer {}, {}, coeff {:.2}, which is {} times the mean residual norm: of all\n\
         doses whose KL is at most {} with either sign, the one with the largest shift, {:+.2}\n\
         averaged over both signs; its KL is {:.3}.",
        c.layer,
        short(&places[c.place]),
        c.coeff,
        c.fraction,
        selected.kl,
        c.effect,
        c.kl
    )
}

fn tested(selected: &SelectionFile) -> String {
    let header = [
        "on test claims",
        "n",
        "honest by letters",
        "log-odds",
        "shift",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    let base = selected.test.first().map_or(0., |t| t.log_odds);
    for t in &selected.test {
        let steered = t.coeff != 0.;
        rows.push(vec![
            match steered {
                true => format!(
                    "coeff {} at layer {}",
                    signed(t.coeff),
                    selected.choice.layer
                ),
                false => "without".to_owned(),
            },
            t.n.to_string(),
            share(t.honest, t.n),
            signed(t.log_odds),
            match steered {
                true => signed(t.log_odds - base),
                false => String::new(),
            },
        ]);
    }
    aligned(&rows)
}
