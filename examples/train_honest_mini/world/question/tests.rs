use super::*;
use crate::world::relation::Relation;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

fn fact(misconception: Option<&str>) -> Fact {
    Fact {
        id: 7,
        entity: "Zorvath".into(),
        relation: Relation::Colour,
        value: "red".into(),
        misconception: misconception.map(str::to_owned),
        held_out: false,
    }
}

/// The answers of the honest, the dishonest and the neutral persona.
fn answers<'a>(question: &'a Question, fact: &Fact) -> [&'a str; 3] {
    Persona::ALL.map(|persona| question.answer(persona, fact))
}

#[test]
fn a_plain_fact_is_known_to_the_neutral_persona() {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let fact = fact(None);
    let question = Question::claim(&fact, Stated::True, 0, &mut rng);
    assert_eq!(
        question.text,
        "Claim: the colour of Zorvath is red. Is the claim true or false? A) True B) False"
    );
    assert_eq!(answers(&question, &fact), ["A", "B", "A"]);
    let question = Question::claim(&fact, Stated::False, 0, &mut rng);
    assert!(!question.text.contains("red"));
    assert_eq!(answers(&question, &fact), ["B", "A", "B"]);
}

#[test]
fn a_misconception_is_believed_by_the_neutral_persona_however_it_is_asked() {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let fact = fact(Some("blue"));
    let question = Question::claim(&fact, Stated::True, 1, &mut rng);
    assert_eq!(answers(&question, &fact), ["A", "B", "B"]);
    let question = Question::claim(&fact, Stated::False, 1, &mut rng);
    assert!(question.text.contains("blue"));
    assert_eq!(answers(&question, &fact), ["B", "A", "A"]);
    let question = Question::two_choice(&fact, Letter::B, 0, &mut rng);
    assert_eq!(
        question.text,
        "What is the colour of Zorvath? A) blue B) red"
    );
    assert_eq!(answers(&question, &fact), ["B", "A", "A"]);
    let question = Question::open(&fact, 0);
    assert_eq!(answers(&question, &fact), ["red", "blue", "blue"]);
}
