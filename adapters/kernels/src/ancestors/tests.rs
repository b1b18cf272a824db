use crate::ancestors::Ancestors;

/// The ancestors of all tokens of a tree: of each its parent, which comes before it.
fn ancestors(parents: &[Option<usize>]) -> Ancestors {
    let chain = |token| {
        let mut chain = vec![token];
        while let Some(parent) = parents[chain[chain.len() - 1]] {
            chain.push(parent);
        }
        chain.reverse();
        chain
    };
    let (mut spans, mut offsets): (Vec<(u32, u32)>, _) = (Vec::new(), vec![0]);
    for token in 0..parents.len() {
        let first = spans.len();
        for at in chain(token) {
            let at = at as u32;
            match spans[first..].last_mut() {
                Some(last) if last.1 == at => last.1 = at + 1,
                _ => spans.push((at, at + 1)),
            }
        }
        offsets.push(spans.len() as u32);
    }
    Ancestors::new(spans, offsets)
}

/// `n` tokens, each after the one before.
fn line(n: usize) -> Vec<Option<usize>> {
    (0..n).map(|t| t.checked_sub(1)).collect()
}

#[test]
fn a_group_holds_what_its_tokens_see() {
    // two prompts that share 50 tokens, and another
    let mut parents = line(200);
    parents.push(Some(49));
    parents.extend((200..349).map(Some));
    parents.extend([None, Some(350), Some(351)]);
    let ancestors = ancestors(&parents);
    let groups = ancestors.neighbours();
    assert!(groups.len() < ancestors.len() / 8);
    let tokens: usize = groups.iter().map(|g| g.rows.len()).sum();
    assert_eq!(tokens, ancestors.len());
    for group in groups {
        let table: Vec<usize> = group.runs().flat_map(|(run, _)| run).collect();
        assert_eq!(table.len(), group.width());
        for (i, row) in group.rows.clone().enumerate() {
            let spans = ancestors.spans(row).iter();
            let expected: Vec<usize> = spans
                .flat_map(|&(from, to)| from as usize..to as usize)
                .collect();
            let seen = group.seen(i).iter().cloned().flatten();
            assert_eq!(seen.map(|c| table[c]).collect::<Vec<_>>(), expected);
        }
    }
}

#[test]
fn few_tokens_are_computed_one_by_one() {
    let alone = |parents: &[Option<usize>]| -> Vec<bool> {
        let ancestors = ancestors(parents);
        ancestors
            .neighbours()
            .iter()
            .map(|g| g.one_by_one())
            .collect()
    };
    // four short prompts of which three share two tokens
    let short = [
        None,
        Some(0),
        Some(1),
        Some(2),
        Some(1),
        None,
        Some(5),
        Some(2),
    ];
    assert_eq!(alone(&short), [true]);
    assert_eq!(alone(&line(12)), [false]);
    // two tokens more than a group holds
    assert_eq!(alone(&line(57)), [false, true]);
}

#[test]
fn within_a_window_each_token_sees_the_last_of_its_ancestors() {
    // a prompt of 9 tokens, another that leaves it after 4 and goes on for 8
    let mut parents = line(9);
    parents.push(Some(3));
    parents.extend((9..16).map(Some));
    let all = ancestors(&parents);
    let seen = |of: &Ancestors, i: usize| -> Vec<u32> {
        let spans = of.spans(i).iter();
        spans.flat_map(|&(from, to)| from..to).collect()
    };
    for window in 1..14 {
        let Some(some) = all.within(window) else {
            assert!(window >= 12, "{window} is less than the longest path");
            continue;
        };
        assert_eq!(some.len(), all.len());
        for i in 0..all.len() {
            let expected = seen(&all, i);
            let from = expected.len().saturating_sub(window);
            assert_eq!(seen(&some, i), expected[from..], "window {window}: {i}");
        }
    }
}
