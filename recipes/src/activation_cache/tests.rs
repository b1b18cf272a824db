use super::*;
use crate::score::toy_variants::adapter;
use crate::steering_tests::set;
use crate::toy::tiny;
use reptune_adapters::{Dose, HookPoint, Operator};

fn prompts() -> Vec<Vec<u32>> {
    let prompt = |i: u32| vec![256, 1, 2, 3 + i % 3, 70 + i, 80, 90 + i / 2];
    (0..5).map(prompt).chain([vec![256, 1, 2]]).collect()
}

fn numbers(rows: &Tensor) -> Vec<f32> {
    let rows = rows.flatten_all().and_then(|r| r.to_vec1());
    rows.expect("numbers")
}

fn assert_near(a: &Tensor, b: &Tensor) {
    assert_eq!(a.dims(), b.dims());
    let pairs = numbers(a).into_iter().zip(numbers(b));
    let off = pairs.map(|(a, b)| (a - b).abs()).fold(0., f32::max);
    assert!(off < 1e-5, "{off}");
}

/// Rows of a forward from the embeddings.
fn reference(tree: &PrefixTree, layer: usize) -> Result<Tensor> {
    let options = ForwardOptions {
        capture: &[layer],
        ..ForwardOptions::default()
    };
    let mut output = tiny().forward(tree, &mut KeyValueCache::none(), &options)?;
    Ok(output.residuals.remove(&layer).expect("the layer"))
}

#[test]
fn a_cache_holds_the_rows_of_any_tree_of_its_prompts() -> Result<()> {
    let (toy, all) = (tiny(), prompts());
    let at = |layer, storage| ActivationCache::at_layer(&toy, &all, layer, None, storage);
    let memory = at(1, CacheStorage::Memory)?;
    let disk = at(1, CacheStorage::Disk)?;
    let lower = at(0, CacheStorage::Memory)?;
    let raised = ActivationCache::moved(Some(lower), &toy, 1, None, prompts)?;
    for some in [&all[..], &all[3..5], &all[5..]] {
        let mut tree = PrefixTree::new();
        // another order, and masks that make tokens of their own
        let path = |p: &Vec<u32>| tree.insert(None, p, |i| u64::from(i + 1 == p.len()));
        let some: Vec<Vec<u32>> = some.iter().rev().cloned().collect();
        let paths: Vec<Vec<u32>> = some.iter().map(path).collect();
        let expected = reference(&tree, 1)?;
        let rows = memory.rows(1, &tree, &some, &paths)?;
        assert_near(&rows, &expected);
        assert_near(&raised.rows(1, &tree, &some, &paths)?, &expected);
        let from_disk = disk.rows(1, &tree, &some, &paths)?;
        assert_eq!(numbers(&from_disk), numbers(&rows));
    }
    assert!(memory.holds(&all[2]) && !memory.holds(&[1, 2]));
    assert_eq!(memory.tree.len(), PrefixTree::pack(&all).0.len());
    let (tree, paths) = PrefixTree::pack(&[[9, 9]]);
    let message = |layer| {
        let rows = memory.rows(layer, &tree, &[[9, 9]], &paths);
        rows.expect_err("not cached").to_string()
    };
    let unknown = message(1);
    assert!(unknown.contains("one of the cached prompts"), "{unknown}");
    assert!(message(2).contains("layers [1]"), "{}", message(2));
    Ok(())
}

#[test]
fn a_cache_refuses_other_weights() -> Result<()> {
    let (toy, update) = (tiny(), adapter());
    let storage = CacheStorage::Memory;
    let of_base = ActivationCache::at_layer(&toy, &prompts(), 1, None, storage)?;
    let of_update = ActivationCache::at_layer(&toy, &prompts(), 1, Some(&update), storage)?;
    of_base.check(&toy, None)?;
    of_update.check(&toy, Some(&update.clone()))?;
    for other in [
        of_base.check(&toy, Some(&update)),
        of_update.check(&toy, None),
        of_update.check(&toy, Some(&adapter())),
    ] {
        let message = other.expect_err("other weights").to_string();
        assert!(message.contains("the adapter that it was"), "{message}");
    }
    let moved = ActivationCache::moved(Some(of_base), &toy, 2, Some(&update), prompts);
    let message = moved.err().expect("other weights").to_string();
    assert!(message.contains("the adapter that it was"), "{message}");
    Ok(())
}

#[test]
fn a_forward_resumes_after_the_last_unchanged_layer() -> Result<()> {
    let (toy, spec) = (tiny(), tiny().spec().clone());
    let set = set(&toy, 1);
    let add = |layers: &[usize]| Intervention::new(&set, layers, Dose::Total(1.), Operator::Add);
    let input = add(&[2])?.at(HookPoint::ResidPre);
    assert_eq!(last_unchanged(&spec, &[], None), Some(3));
    assert_eq!(last_unchanged(&spec, &[add(&[2, 3])?], None), Some(2));
    assert_eq!(last_unchanged(&spec, &[add(&[3])?, input], None), Some(1));
    let first = add(&[0])?.at(HookPoint::ResidPre);
    assert_eq!(last_unchanged(&spec, &[add(&[3])?, first], None), None);
    assert_eq!(last_unchanged(&spec, &[], Some(&adapter())), Some(1));
    assert_eq!(
        last_unchanged(&spec, &[add(&[0])?], Some(&adapter())),
        Some(0)
    );
    Ok(())
}
