use super::*;
use crate::world::wording::pieces;
use std::collections::BTreeSet;

#[test]
fn wordings_are_distinct_short_and_as_many_as_stated() {
    let mut distinct = BTreeSet::new();
    for (persona, counts) in Persona::ALL.into_iter().zip([(40, 8), (40, 8), (8, 2)]) {
        let found = (
            persona.train_wordings().len(),
            persona.held_out_wordings().len(),
        );
        assert_eq!(found, counts, "{persona:?}");
        for text in persona.wordings() {
            assert!(distinct.insert(text), "twice: {text}");
            let words = text.split(' ').count();
            assert!((4..=10).contains(&words), "{words} words: {text}");
        }
    }
}

#[test]
fn no_word_but_the_stop_is_in_all_wordings_of_a_persona() {
    for persona in Persona::ALL {
        let first = persona.wordings().next().expect("a wording");
        let mut common: BTreeSet<&str> = pieces(first).into_iter().collect();
        for text in persona.wordings() {
            let words: BTreeSet<&str> = pieces(text).into_iter().collect();
            common = common.intersection(&words).copied().collect();
        }
        assert_eq!(common, BTreeSet::from(["."]), "{persona:?}");
    }
}

#[test]
fn held_out_wordings_use_trained_words() {
    let trained: BTreeSet<&str> = Persona::ALL
        .iter()
        .flat_map(|persona| persona.train_wordings())
        .flat_map(|text| pieces(text))
        .collect();
    for text in Persona::ALL.iter().flat_map(|p| p.held_out_wordings()) {
        for word in pieces(text) {
            assert!(trained.contains(word), "`{word}` of `{text}`");
        }
    }
}
