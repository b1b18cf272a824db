use super::*;

fn cut(prompts: &[Vec<u32>], tokens: usize) -> Vec<Range<usize>> {
    let batches = batches(prompts, Most::Distinct(tokens), |_, _| 0);
    batches.into_iter().map(|b| b.prompts).collect()
}

#[test]
fn a_batch_has_as_many_prompts_as_fit() {
    let lengths = [3, 2, 1, 9, 1, 6];
    let prompts: Vec<Vec<u32>> = (0..).zip(lengths).map(|(id, n)| vec![id; n]).collect();
    assert_eq!(cut(&prompts, 6), [0..3, 3..4, 4..5, 5..6]);
    assert_eq!(cut(&prompts, 7), [0..3, 3..4, 4..6]);
    assert!(cut(&[], 6).is_empty());
}

#[test]
fn a_shared_prefix_counts_once() {
    let prompts: Vec<Vec<u32>> = (0..4).map(|i| vec![7, 8, 9, i]).collect();
    assert_eq!(cut(&prompts, 9), [0..3, 3..4]);
    let masked = batches(&prompts, Most::Distinct(9), |prompt, _| prompt as u64);
    assert_eq!(masked.len(), 2, "another mask makes another token");
    let apart = batches(&prompts, Most::Total(9), |_, _| 0);
    assert_eq!(apart.len(), 2, "shared tokens count for each prompt");
}
