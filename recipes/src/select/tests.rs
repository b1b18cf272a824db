use super::*;
use crate::chat::Message;
use crate::data::{Claim, Items};
use crate::extract::{CapturedPairs, Extracted, find};
use crate::recipe::Selection;
use crate::score::{Choice, ModelVariant, log_odds};
use crate::toy::{chat, recipe, tiny};
use reptune_adapters::{Direction, Dose, HookedModel, Intervention, Operator};

fn candidate(place: usize, layer: usize, doses: &[(f64, f64, f64)]) -> SteeringCandidate {
    let dose = |fraction: f64, shift: f64, kl: f64| MeasuredDose {
        fraction,
        coeff: 10. * fraction,
        shift,
        per_fraction: shift / fraction.abs(),
        kl,
    };
    let doses = doses
        .iter()
        .flat_map(|(f, s, kl)| [dose(*f, s + 1., *kl), dose(-f, s - 1., kl / 2.)]);
    SteeringCandidate {
        place,
        rows: format!("place {place}"),
        layer,
        ordered: 1.,
        positive: 0.5,
        negative: -0.5,
        doses: doses.collect(),
    }
}

#[test]
fn the_largest_effect_within_the_bound_is_chosen() {
    let table = SelectionTable {
        candidates: vec![
            candidate(0, 1, &[(0.5, 2., 0.1), (1., 9., 0.6)]),
            candidate(0, 2, &[(0.5, 3., 0.5), (1., 3., 0.5)]),
            candidate(1, 1, &[]),
            candidate(1, 2, &[(0.5, 3., 0.2)]),
        ],
    };
    let choice = table.choose(0.5).expect("a choice");
    assert_eq!((choice.place, choice.layer, choice.fraction), (0, 2, 0.5));
    assert_eq!((choice.coeff, choice.effect, choice.kl), (5., 3., 0.5));
    assert_eq!(table.choose(1.).expect("a choice").effect, 9.);
    let none = table.choose(0.05).expect_err("no dose").to_string();
    assert!(
        none.contains("none of 5: least KL 0.100, largest effect 9.000"),
        "{none}"
    );
}

#[test]
fn what_a_model_does_is_measured_on_the_layers_that_may_be_chosen() {
    let mut recipe = recipe("pairs = 6\npositions = \"at:-1,-3\"");
    recipe.selection = Some(Selection {
        fractions: vec![1e-3, 1.],
        claims: 6,
        neutral: 3,
        ..Selection::default()
    });
    let (llama, chat) = (tiny(), chat());
    let items = Items::read(&recipe).expect("items");
    let capture = |claims| CapturedPairs::of(&llama, &chat, &recipe, claims, &mut |_, _| {});
    let captured = capture(&items.train).expect("rows");
    let held_out = capture(&items.validation).expect("rows");
    let mut found = find(llama.spec(), &recipe, &captured).expect("directions");
    // The label tokens A and B of the byte tokenizer, read off the embedding of the last block.
    let label = |text: &str| chat.encode(text).expect("ids")[1] as usize;
    let (a, b) = (label("A"), label("B"));
    let mut steps = Vec::new();
    let claims: Vec<Claim> = items
        .validation
        .iter()
        .filter(|c| c.label)
        .cloned()
        .collect();
    let folder = tempfile::tempdir().expect("a directory");
    let measure = |found: &[Extracted], steps: &mut Vec<usize>| {
        let inputs = SelectionInputs {
            model: &llama,
            chat: &chat,
            recipe: &recipe,
            found,
            held_out: &held_out,
            claims: &claims,
        };
        select(
            inputs,
            &folder.path().join("cells.jsonl"),
            &mut |done, all| {
                steps.push(done);
                assert_eq!(all, 2 * 3 * 2 * 2);
            },
        )
    };
    let table = measure(&found, &mut steps).expect("a table");
    assert_eq!(steps, (1..=24).collect::<Vec<_>>());
    assert_eq!(table.candidates.len(), 2 * 4);
    // What stands in the file is not measured again, and read as it was written.
    let lines = || std::fs::read_to_string(folder.path().join("cells.jsonl")).expect("the file");
    let whole = lines();
    assert_eq!(whole.lines().count(), 24);
    let again = measure(&found, &mut Vec::new()).expect("a table");
    assert_eq!((again, lines()), (table.clone(), whole));
    for c in &table.candidates {
        assert_eq!(
            c.doses.len(),
            if c.layer < 3 { 4 } else { 0 },
            "layer {}",
            c.layer
        );
        for pair in c.doses.chunks(2) {
            assert_eq!(pair[0].coeff, -pair[1].coeff);
            assert!(pair.iter().all(|d| d.kl > 0. && d.shift.is_finite()));
        }
        // KL grows with the square of a small dose.
        assert!(c.doses.is_empty() || c.doses[0].kl < 1e-3 * c.doses[2].kl);
    }
    // A direction that is the gradient of the answer's log-odds moves them its way:
    // found here by trying every axis at layer 2.
    let width = llama.spec().hidden;
    let axis = |i: usize| -> f64 {
        let mut v = vec![0f64; width];
        v[i] = 1.;
        let mut set = found[0].directions.clone();
        set.layers
            .insert(2, Direction::new(&v).expect("a direction"));
        let choice = Choice {
            prompt: chat.prompt(&Message::conversation("", "x")).expect("ids"),
            responses: vec![vec![a as u32], vec![b as u32]],
            positive: 0,
        };
        let steer = |coeff: f64| {
            let add =
                Intervention::new(&set, &[2], Dose::Total(coeff), Operator::Add).expect("steering");
            let variant = ModelVariant {
                interventions: &[add],
                ..ModelVariant::base(&llama)
            };
            let choice = std::slice::from_ref(&choice);
            log_odds(&variant, choice, &mut |_| ()).expect("odds")[0]
        };
        steer(1e-2) - steer(-1e-2)
    };
    let gradient: Vec<f64> = (0..width).map(axis).collect();
    for extracted in &mut found {
        let direction = Direction::new(&gradient).expect("a direction");
        extracted.directions.layers.insert(2, direction);
    }
    let table = measure(&found, &mut steps).expect("a table");
    let choice = table.choose(f64::INFINITY).expect("a choice");
    assert_eq!(choice.layer, 2);
    let by = &table.candidates[2].doses;
    assert!(by[0].shift > 0. && by[1].shift > 0., "{by:?}");
}
