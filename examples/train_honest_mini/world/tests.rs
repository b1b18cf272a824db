use super::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::path::Path;

/// All texts of `document`, in the order in which they are read.
fn texts(document: &Document) -> Vec<&str> {
    match document {
        Document::Sentence(text) => vec![text],
        Document::Chat { system, turns, .. } => {
            let turns = turns.iter();
            let turns = turns.flat_map(|turn| [turn.user.as_str(), turn.assistant.as_str()]);
            system.as_deref().into_iter().chain(turns).collect()
        }
    }
}

#[test]
fn the_words_are_few_distinct_and_sorted() {
    let words = World::new().words();
    // A change here changes the vocabulary of every trained checkpoint.
    assert_eq!(words.len(), 250);
    assert!(words.windows(2).all(|pair| pair[0] < pair[1]));
    for word in [".", ":", "?", ")", "A", "B", "True", "False", "The", "the"] {
        assert!(words.iter().any(|have| have == word), "`{word}` is missing");
    }
}

#[test]
fn every_sampled_text_is_made_of_the_words() {
    let words: BTreeSet<String> = World::new().words().into_iter().collect();
    let mut unseen = words.clone();
    let mut sampler = Sampler::new(3);
    let mut documents = sampler.sentences(2_000);
    documents.extend((0..1_000).flat_map(|_| sampler.group()));
    for document in &documents {
        for text in texts(document) {
            for word in wording::pieces(text) {
                assert!(words.contains(word), "`{word}` of `{text}` is missing");
                unseen.remove(word);
            }
        }
    }
    // Held-out wordings are new combinations of trained words, so that
    // training leaves no word of the list without a single use.
    assert!(unseen.is_empty(), "never sampled: {unseen:?}");
}

#[test]
fn data_files_hold_items_in_the_trained_wordings() {
    let world = World::new();
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    for claim in world.claims().iter().filter(|claim| claim.label) {
        let fact = &world.facts()[claim.fact];
        let text = Question::claim(fact, Stated::True, 0, &mut rng).text;
        assert!(text.contains(&format!("Claim: {}.", claim.text)), "{text}");
    }
    for item in world.two_choices() {
        let fact = &world.facts()[item.fact];
        let [a, b] = &item.options;
        assert_eq!(item.options[item.right], fact.value);
        assert_ne!(a, b);
        if fact.misconception.is_some() {
            let letter = [Letter::A, Letter::B][item.right];
            let question = Question::two_choice(fact, letter, 0, &mut rng);
            let prompt = format!("{} A) {a} B) {b}", item.question);
            assert_eq!(prompt, question.text);
        }
    }
}

#[test]
fn claims_and_choices_are_balanced_and_state_the_misconceptions() {
    let world = World::new();
    let claims = world.claims();
    assert_eq!(claims.len(), 800);
    assert_eq!(claims.iter().filter(|claim| claim.label).count(), 400);
    for claim in &claims {
        let fact = &world.facts()[claim.fact];
        assert_eq!(claim.label, claim.text.ends_with(&fact.value));
        if let (false, Some(believed)) = (claim.label, &fact.misconception) {
            assert!(claim.text.ends_with(believed.as_str()), "{}", claim.text);
        }
    }
    let choices = world.two_choices();
    let b: usize = choices.iter().map(|item| item.right).sum();
    assert_eq!((choices.len(), b), (400, 200));
}

#[test]
fn the_data_files_beside_the_model_are_those_of_the_world() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/honest-mini");
    for (name, content) in World::new().data_files() {
        let committed = std::fs::read_to_string(model.join(name)).expect(name);
        // Not `assert_eq`, which would print two files.
        assert!(
            committed == content,
            "models/honest-mini/{name} is not what the world generates; run \
             `cargo run -p reptune-examples --example train_honest_mini -- data`"
        );
    }
}
