use super::*;

#[test]
fn pieces_separate_marks_from_words() {
    assert_eq!(
        pieces("Claim: it is. A) True"),
        ["Claim", ":", "it", "is", ".", "A", ")", "True"]
    );
    assert_eq!(pieces(" (a,b)? "), ["(", "a", ",", "b", ")", "?"]);
}

#[test]
fn wordings_of_one_kind_are_distinct_and_leave_no_place_holder() {
    for relation in Relation::ALL {
        let mut texts: Vec<String> = Vec::new();
        for index in 0..SENTENCES {
            texts.push(relation.sentence("Xo", "yy", index));
            texts.push(claim(&relation.statement("Xo", "yy", 0), index));
        }
        for index in 0..CHOICES {
            let question = relation.question("Xo", choice_question(index));
            texts.push(choice(&question, "yy", "zz", index));
        }
        for (i, text) in texts.iter().enumerate() {
            assert!(!text.contains('{') && text.contains("Xo"), "{text}");
            assert!(!texts[..i].contains(text), "twice: {text}");
        }
    }
}

#[test]
fn a_sentence_is_a_capitalised_statement() {
    let relation = Relation::Colour;
    let sentence = relation.sentence("Zorvath", "red", 0);
    assert_eq!(sentence, "The colour of Zorvath is red.");
}
