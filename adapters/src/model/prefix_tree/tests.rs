use super::*;

#[test]
fn prefixes_are_shared_and_branches_are_not() {
    let (tree, rows) = PrefixTree::pack(&[vec![1, 2, 3], vec![1, 2, 4, 5], vec![2, 2]]);
    assert_eq!(rows, [vec![0, 1, 2], vec![0, 1, 3, 4], vec![5, 6]]);
    assert_eq!(tree.positions(), [0, 1, 2, 2, 3, 0, 1]);
    let seen = tree.ancestors(0..7);
    assert_eq!(seen.spans(2), [(0, 3)]);
    assert_eq!(seen.spans(4), [(0, 2), (3, 5)]);
    assert_eq!(seen.spans(6), [(5, 7)]);
    assert_eq!(tree.ancestors(4..6).spans(0), [(0, 2), (3, 5)]);
}

#[test]
fn a_generated_token_is_never_that_of_a_prompt_or_of_another_continuation() {
    let (mut tree, rows) = PrefixTree::pack(&[vec![1, 2], vec![1, 2, 3]]);
    let [first, second] = [(); 2].map(|()| tree.append(rows[0][1], 3, 0));
    assert_eq!((rows[1][2], first, second), (2, 3, 4));
    assert_eq!(tree.append(first, 4, 0), 5);
    assert_eq!(tree.ancestors(5..6).spans(0), [(0, 2), (3, 4), (5, 6)]);
    assert_eq!(tree.insert(None, &[1, 2, 3], |_| 0), rows[1]);
}

#[test]
fn tokens_that_are_treated_differently_are_different_rows() {
    let mut tree = PrefixTree::new();
    let a = tree.insert(None, &[1, 2], |i| u64::from(i == 1));
    let b = tree.insert(None, &[1, 2, 3], |i| u64::from(i == 2));
    assert_eq!(a, [0, 1]);
    assert_eq!(b, [0, 2, 3]);
    assert_eq!(tree.masked(0, 0..4), [1, 3]);
}
