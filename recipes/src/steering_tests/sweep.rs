//! A sweep scores answers, and goes on where it was cut.

use super::{prompts, set};
use crate::error::Result;
use crate::grid::{MeasuredCell, SteeringGrid, SteeringKind};
use crate::score::{Choice, ModelVariant};
use crate::sweep::{ChoiceScores, sweep};
use crate::toy::tiny;
use reptune_adapters::{
    Dose, ForwardOptions, HookedModel, Intervention, KeyValueCache, Operator, Positions, PrefixTree,
};
use std::path::Path;

fn choices() -> Vec<Choice> {
    let one = |(i, prompt)| Choice {
        prompt,
        responses: vec![vec![65], vec![66]],
        positive: i % 2,
    };
    prompts().into_iter().enumerate().map(one).collect()
}

fn run(
    grid: &SteeringGrid,
    choices: &[Choice],
    file: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<MeasuredCell<ChoiceScores>>> {
    sweep(&ModelVariant::base(&tiny()), choices, grid, file, progress)
}

#[test]
fn a_sweep_scores_answers_and_goes_on_where_it_was_cut() -> Result<()> {
    let toy = tiny();
    let set = set(&toy, 1);
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("sweep.jsonl");
    let layers = [vec![1], vec![1, 2]];
    let grid = SteeringGrid {
        directions: &[&set],
        layers: &layers,
        doses: &[Dose::Total(4.), Dose::Fraction(0.5)],
        kinds: &[
            SteeringKind::Plus,
            SteeringKind::Minus,
            SteeringKind::Ablate,
        ],
        positions: &Positions::All,
    };
    let mut calls = Vec::new();
    let cells = run(&grid, &choices(), &file, &mut |i, n| calls.push((i, n)))?;
    assert_eq!(cells.len(), 1 + 2 * 5);
    assert_eq!((calls[0], calls[calls.len() - 1]), ((1, 11), (11, 11)));
    let whole = std::fs::read_to_string(&file).expect("the file");
    assert_eq!(whole.lines().count(), 11);
    // Layers 1 and 2 have norms 3 and 4: half at each is 2 * 0.5 * 3.5 in all.
    let both = &cells[6..];
    assert_eq!(
        (both[0].cell.total, both[0].cell.fraction),
        (4., Some(4. / 7.))
    );
    assert_eq!(
        (both[1].cell.total, both[1].cell.fraction),
        (3.5, Some(0.5))
    );
    assert_eq!(
        (both[3].cell.total, both[3].cell.fraction),
        (-3.5, Some(-0.5))
    );
    assert_eq!(
        (both[4].cell.kind, both[4].cell.total),
        (Some(SteeringKind::Ablate), 0.)
    );
    // The score is that of a forward of the prompt alone.
    for (question, odds) in choices().iter().zip(&cells[1].scores.log_odds) {
        let (tree, rows) = tree_of(&question.prompt);
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
        let pass = toy.forward(&tree, &mut KeyValueCache::none(), &request)?;
        let logits: Vec<Vec<f32>> = pass.logits.expect("logits").to_vec2()?;
        let of = |i: usize| logits[0][question.responses[i][0] as usize];
        let expected = of(question.positive) - of(1 - question.positive);
        assert!((odds.expect("a number") - expected).abs() < 1e-4);
    }
    for cell in &cells {
        let outcomes = cell.scores.outcomes;
        assert_eq!(
            (outcomes.positive + outcomes.negative, outcomes.unscored),
            (4, 0)
        );
    }
    // Lines of earlier versions call the total `coeff`.
    std::fs::write(&file, whole.replace("\"total\":", "\"coeff\":")).expect("a file");
    assert_eq!(run(&grid, &choices(), &file, &mut |_, _| {})?, cells);
    assert!(
        !std::fs::read_to_string(&file)
            .expect("the file")
            .contains("total")
    );
    // Cut in the middle of the fifth line: four are taken, the rest is computed again.
    let cut = whole.match_indices('\n').nth(3).expect("four lines").0 + 20;
    std::fs::write(&file, &whole[..cut]).expect("a file");
    assert_eq!(run(&grid, &choices(), &file, &mut |_, _| {})?, cells);
    assert_eq!(std::fs::read_to_string(&file).expect("the file"), whole);
    // What stands there is not computed again: a marked line is believed.
    let mut lines: Vec<String> = whole.lines().map(str::to_owned).collect();
    let mut marked = cells[3].clone();
    marked.scores.log_odds = vec![Some(7.); 4];
    lines[3] = serde_json::to_string(&marked).expect("JSON");
    std::fs::write(&file, lines.join("\n") + "\n").expect("a file");
    let again = run(&grid, &choices(), &file, &mut |_, _| {})?;
    assert_eq!(again[3].scores, ChoiceScores::of(vec![Some(7.); 4]));
    // Other rows, questions or directions are other cells.
    let other = Positions::Last(1);
    let mut fewer = choices();
    fewer.pop();
    let turned = set.scaled(-1.)?;
    for (grid, choices) in [
        (
            SteeringGrid {
                positions: &other,
                ..grid
            },
            choices(),
        ),
        (grid, fewer),
        (
            SteeringGrid {
                directions: &[&turned],
                ..grid
            },
            choices(),
        ),
    ] {
        let others = run(&grid, &choices, &file, &mut |_, _| {})?;
        assert!(
            others[1..]
                .iter()
                .all(|o| cells.iter().all(|c| c.key != o.key))
        );
    }
    std::fs::write(&file, "{}\n").expect("a file");
    let message = run(&grid, &choices(), &file, &mut |_, _| {}).expect_err("no cell");
    assert!(message.to_string().contains("line 1"), "{message}");
    let doses = [Dose::Total(-1.)];
    let grid = SteeringGrid {
        doses: &doses,
        ..grid
    };
    let message = run(&grid, &choices(), &file, &mut |_, _| {}).expect_err("a sign");
    assert!(message.to_string().contains("dose"), "{message}");
    Ok(())
}

fn tree_of(prompt: &[u32]) -> (PrefixTree, Vec<u32>) {
    let mut tree = PrefixTree::new();
    let rows = tree.insert(None, prompt, |_| 1);
    (tree, rows)
}
