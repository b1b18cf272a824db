//! Prompts that are computed together.

use std::ops::Range;

/// Cuts `prompts` into runs of at most `rows` tokens in all; a longer prompt stands alone.
pub(crate) fn groups<P: AsRef<[u32]>>(prompts: &[P], rows: usize) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut taken = 0;
    for (i, prompt) in prompts.iter().enumerate() {
        let tokens = prompt.as_ref().len();
        taken += tokens;
        match groups.last_mut() {
            Some(last) if taken <= rows => last.end = i + 1,
            _ => {
                groups.push(i..i + 1);
                taken = tokens;
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::groups;

    #[test]
    fn a_group_has_as_many_prompts_as_fit() {
        let prompts = [3, 2, 1, 9, 1, 6].map(|n| vec![0; n]);
        assert_eq!(groups(&prompts, 6), [0..3, 3..4, 4..5, 5..6]);
        assert_eq!(groups(&prompts, 7), [0..3, 3..4, 4..6]);
        assert!(groups::<Vec<u32>>(&[], 6).is_empty());
    }
}
