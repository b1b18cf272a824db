//! A sweep scores letters, and goes on where it was cut.

use super::{prompts, set};
use crate::error::Result;
use crate::sweep::{Asked, Grid, Way, sweep};
use crate::toy::tiny;
use reptune_adapters::{
    Dose, ForwardOptions, HookedModel, Intervention, KeyValueCache, Operator, Positions, PrefixTree,
};

fn asked() -> Vec<Asked> {
    let one = |(i, prompt)| Asked {
        prompt,
        labels: [65, 66],
        right: i % 2,
    };
    prompts().into_iter().enumerate().map(one).collect()
}

#[test]
fn a_sweep_scores_letters_and_goes_on_where_it_was_cut() -> Result<()> {
    let toy = tiny();
    let set = set(&toy, 1);
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("sweep.jsonl");
    let layers = [vec![1], vec![1, 2]];
    let grid = Grid {
        directions: &set,
        layers: &layers,
        doses: &[Dose::Total(4.), Dose::Fraction(0.5)],
        ways: &[Way::Plus, Way::Minus, Way::Ablate],
        rows: &Positions::All,
        adapter: None,
    };
    let mut calls = Vec::new();
    let cells = sweep(&toy, &grid, &asked(), &file, &mut |i, n| calls.push((i, n)))?;
    assert_eq!(cells.len(), 1 + 2 * 5);
    assert_eq!((calls[0], calls[calls.len() - 1]), ((1, 11), (11, 11)));
    let whole = std::fs::read_to_string(&file).expect("the file");
    assert_eq!(whole.lines().count(), 11);
    // Layers 1 and 2 have norms 3 and 4: half at each is 2 * 0.5 * 3.5 in all.
    let both = &cells[6..];
    assert_eq!((both[0].coeff, both[0].fraction), (4., Some(4. / 7.)));
    assert_eq!((both[1].coeff, both[1].fraction), (3.5, Some(0.5)));
    assert_eq!((both[3].coeff, both[3].fraction), (-3.5, Some(-0.5)));
    assert_eq!((both[4].way, both[4].coeff), (Some(Way::Ablate), 0.));
    // The score is that of a forward of the prompt alone.
    for (question, odds) in asked().iter().zip(&cells[1].log_odds) {
        let (forest, rows) = forest_of(&question.prompt);
        let steering = [Intervention::new(
            &set,
            &[1],
            Dose::Total(4.),
            Operator::Add,
        )?];
        let request = ForwardOptions {
            interventions: &steering,
            logits: &rows[rows.len() - 1..],
            ..ForwardOptions::default()
        };
        let pass = toy.forward(&forest, &mut KeyValueCache::none(), &request)?;
        let logits: Vec<Vec<f32>> = pass.logits.expect("logits").to_vec2()?;
        let of = |i: usize| logits[0][question.labels[i] as usize];
        let expected = of(question.right) - of(1 - question.right);
        assert!((odds.expect("a number") - expected).abs() < 1e-4);
    }
    for cell in &cells {
        assert_eq!(cell.honest + cell.lie, 4);
    }
    // Cut in the middle of the fifth line: four are taken, the rest is computed again.
    let cut = whole.match_indices('\n').nth(3).expect("four lines").0 + 20;
    std::fs::write(&file, &whole[..cut]).expect("a file");
    assert_eq!(sweep(&toy, &grid, &asked(), &file, &mut |_, _| {})?, cells);
    assert_eq!(std::fs::read_to_string(&file).expect("the file"), whole);
    // What stands there is not computed again: a marked line is believed.
    let mut lines: Vec<String> = whole.lines().map(str::to_owned).collect();
    let mut marked = cells[3].clone();
    marked.log_odds = vec![Some(7.); 4];
    lines[3] = serde_json::to_string(&marked).expect("JSON");
    std::fs::write(&file, lines.join("\n") + "\n").expect("a file");
    let again = sweep(&toy, &grid, &asked(), &file, &mut |_, _| {})?;
    assert_eq!((again[3].mean, again[3].honest), (7., 4));
    // Other rows, questions or directions are other cells.
    let other = Positions::Last(1);
    let mut fewer = asked();
    fewer.pop();
    let turned = set.scaled(-1.)?;
    for (grid, asked) in [
        (
            Grid {
                rows: &other,
                ..grid
            },
            asked(),
        ),
        (grid, fewer),
        (
            Grid {
                directions: &turned,
                ..grid
            },
            asked(),
        ),
    ] {
        let others = sweep(&toy, &grid, &asked, &file, &mut |_, _| {})?;
        assert!(
            others[1..]
                .iter()
                .all(|o| cells.iter().all(|c| c.key != o.key))
        );
    }
    std::fs::write(&file, "{}\n").expect("a file");
    let message = sweep(&toy, &grid, &asked(), &file, &mut |_, _| {}).expect_err("no cell");
    assert!(message.to_string().contains("line 1"), "{message}");
    let doses = [Dose::Total(-1.)];
    let grid = Grid {
        doses: &doses,
        ..grid
    };
    let message = sweep(&toy, &grid, &asked(), &file, &mut |_, _| {}).expect_err("a sign");
    assert!(message.to_string().contains("dose"), "{message}");
    Ok(())
}

fn forest_of(prompt: &[u32]) -> (PrefixTree, Vec<u32>) {
    let mut forest = PrefixTree::new();
    let rows = forest.insert(None, prompt, |_| 1);
    (forest, rows)
}
