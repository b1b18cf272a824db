use super::*;
use crate::data::Items;
use crate::extract::find;
use crate::toy::{chat, recipe, tiny};
use reptune_adapters::{ForwardOptions, KeyValueCache, PrefixTree};

/// Pairs whose positive rows are `rows`, and whose negative rows have the other first entry.
fn contrast(rows: &[[f32; 2]]) -> Contrast {
    let mut contrast = Contrast::empty(2);
    rows.iter()
        .for_each(|[x, y]| contrast.push(&[*x, *y], &[-x, *y]));
    contrast
}

#[test]
fn a_scatter_has_the_axes_of_most_variance() {
    // X^T X / 6 = diag(2, 2/3): the axes themselves.
    let s = scatter(1, &contrast(&[[1., 0.], [1., 1.], [2., -1.]])).expect("a scatter");
    let explained = s.explained.expect("shares");
    assert!((explained[0] - 0.75).abs() < 1e-12 && (explained[1] - 0.25).abs() < 1e-12);
    for (found, expected) in s.positive.iter().zip([[1., 0.], [1., 1.], [2., -1.]]) {
        assert!((found[0] - expected[0]).abs() < 1e-12 && (found[1] - expected[1]).abs() < 1e-12);
    }
    let line = contrast(&[[1., 0.]]);
    let positive = scatter(1, &line).expect("a scatter").positive;
    assert_eq!(positive, [[1., 0.]]);
}

#[test]
fn a_map_and_a_lens_are_those_of_the_model() {
    let recipe = recipe("pairs = 8\npositions = \"last:2\"");
    let (model, chat) = (tiny(), chat());
    let items = Items::read(&recipe).expect("items");
    let captured = CapturedPairs::of(&model, &chat, &recipe, &items.train, &mut |_, _| {});
    let captured = captured.expect("rows");
    let found = find(model.spec(), &recipe, &captured).expect("directions");
    let map = cosine_map(&captured, &found).expect("a map");
    assert_eq!((map.layers.len(), map.offsets.as_slice()), (4, &[0, 1][..]));
    for (layer, row) in map.difference.iter().enumerate() {
        assert_eq!(row.len(), 2);
        for (place, difference) in row.iter().enumerate() {
            let contrast = captured.contrast(place, layer).expect("rows");
            let direction = found[place].directions.layer(layer).expect("a direction");
            let (positive, negative) = contrast.cosines(direction);
            assert!(*difference > 0. && *difference == positive - negative);
        }
    }
    // The last residual row of a prompt, as a direction: the lens differs from the
    // logits by the norm's epsilon only, so the likeliest token is the same.
    let (tree, rows) = PrefixTree::pack(&[chat.encode("a prompt").expect("ids")]);
    let request = ForwardOptions {
        capture: &[3],
        logits: &rows[0][rows[0].len() - 1..],
        ..ForwardOptions::default()
    };
    let pass = model
        .forward(&tree, &mut KeyValueCache::none(), &request)
        .expect("a pass");
    let residual: Vec<Vec<f32>> = pass.residuals[&3].to_vec2().expect("rows");
    let last: Vec<f64> = residual[residual.len() - 1]
        .iter()
        .map(|x| f64::from(*x))
        .collect();
    let direction = Direction::new(&last).expect("a direction");
    let lens = logit_lens(&model, &chat, (3, &direction), 3).expect("a lens");
    let logits: Vec<Vec<f32>> = pass.logits.expect("logits").to_vec2().expect("rows");
    let best = (0..logits[0].len()).max_by(|a, b| logits[0][*a].total_cmp(&logits[0][*b]));
    let best = chat.decode(&[best.expect("a token") as u32]).expect("text");
    assert_eq!(lens.top[0], best);
    assert_eq!((lens.top.len(), lens.bottom.len()), (3, 3));
    let narrow = Direction::new(&[1.]).expect("a direction");
    let message = logit_lens(&model, &chat, (3, &narrow), 3)
        .expect_err("narrow")
        .to_string();
    assert!(message.contains("width 32"), "{message}");
}
