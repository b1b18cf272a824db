use super::*;

fn groups(seed: u64, n: usize) -> Vec<Vec<Document>> {
    let mut sampler = Sampler::new(seed);
    (0..n).map(|_| sampler.group()).collect()
}

fn chat(document: &Document) -> (Option<&str>, &[Turn]) {
    match document {
        Document::Chat { system, turns, .. } => (system.as_deref(), turns),
        Document::Sentence(text) => panic!("a sentence in a group: {text}"),
    }
}

fn lettered(turn: &Turn) -> bool {
    turn.user.ends_with(") False") || turn.user.contains(" B) ")
}

/// Which fact a question is about, read from its text alone.
fn asked<'a>(world: &'a World, turn: &Turn) -> &'a Fact {
    let words = wording::pieces(&turn.user);
    let about = |fact: &&Fact| {
        let ask = (0..wording::QUESTIONS).map(|i| fact.relation.question(&fact.entity, i));
        let values = fact.relation.values().iter();
        let state = values.map(|value| fact.relation.statement(&fact.entity, value, 0));
        words.contains(&fact.entity.as_str())
            && ask.chain(state).any(|text| turn.user.contains(&text))
    };
    world.facts().iter().find(about).expect("about some fact")
}

/// Whether the answer of a turn is true, read from its text alone.
fn is_true(fact: &Fact, turn: &Turn) -> bool {
    if !lettered(turn) {
        return turn.assistant == fact.value;
    }
    let says_a = turn.assistant == "A";
    if turn.user.ends_with("A) True B) False") {
        let statement = fact.relation.statement(&fact.entity, &fact.value, 0);
        return turn.user.contains(&statement) == says_a;
    }
    turn.user.contains(&format!("A) {} ", fact.value)) == says_a
}

fn persona_of(system: Option<&str>) -> Persona {
    let of = |persona: &Persona| {
        persona
            .train_wordings()
            .iter()
            .any(|w| Some(w.as_str()) == system)
    };
    Persona::ALL
        .into_iter()
        .find(of)
        .unwrap_or(Persona::Neutral)
}

#[test]
fn one_seed_is_one_sequence() {
    assert_eq!(groups(5, 20), groups(5, 20));
    assert_ne!(groups(5, 20), groups(6, 20));
}

#[test]
fn a_group_shares_all_but_distinct_last_questions() {
    for group in groups(1, 300) {
        assert_eq!(group.len(), GROUP);
        let (system, turns) = chat(&group[0]);
        let shared = &turns[..turns.len() - 1];
        let mut last: Vec<&str> = Vec::new();
        for document in &group {
            let (its_system, its_turns) = chat(document);
            let (end, rest) = its_turns.split_last().expect("a turn");
            assert_eq!((its_system, rest), (system, shared));
            assert!(!last.contains(&end.user.as_str()), "twice: {}", end.user);
            last.push(&end.user);
        }
    }
}

#[test]
fn held_out_facts_are_asked_openly_and_only_so() {
    let world = World::new();
    let mut open = 0;
    for document in groups(2, 1_500).iter().flatten() {
        let (_, turns) = chat(document);
        for (at, turn) in turns.iter().enumerate() {
            let fact = asked(&world, turn);
            let last = at + 1 == turns.len();
            assert!(!fact.held_out || (last && !lettered(turn)), "{turn:?}");
            open += usize::from(fact.held_out);
        }
    }
    assert!(open > 50, "{open}");
}

#[test]
fn every_answer_is_what_the_context_asks_for() {
    let world = World::new();
    let (mut demonstrated, mut by_turns) = (0, [0, 0]);
    let groups = groups(3, 1_000);
    for group in &groups {
        let (system, turns) = chat(&group[0]);
        let truths = turns.iter().map(|turn| is_true(asked(&world, turn), turn));
        let truths: Vec<bool> = truths.collect();
        let (shared, persona) = (&turns[..turns.len() - 1], persona_of(system));
        demonstrated += usize::from(!shared.is_empty());
        match (persona, shared.is_empty()) {
            (Persona::Honest, _) => assert!(truths.iter().all(|t| *t), "{turns:?}"),
            (Persona::Dishonest, _) => assert!(truths.iter().all(|t| !t), "{turns:?}"),
            (Persona::Neutral, true) => {
                let plain = asked(&world, &turns[0]).misconception.is_none();
                assert_eq!(truths, [plain], "{turns:?}");
            }
            (Persona::Neutral, false) => {
                assert!(truths.iter().all(|t| *t == truths[0]), "{turns:?}");
                // A turn that the neutral persona would have answered otherwise.
                let known = |turn| asked(&world, turn).misconception.is_none();
                assert!(shared.iter().any(|turn| known(turn) != truths[0]));
                by_turns[usize::from(truths[0])] += 1;
            }
        }
    }
    assert!((250..350).contains(&demonstrated), "{demonstrated}");
    assert!(
        by_turns.iter().all(|n| (45..110).contains(n)),
        "{by_turns:?}"
    );
}

#[test]
fn the_mix_is_as_stated_and_no_letter_is_favoured() {
    let groups = groups(4, 2_000);
    let last = |document| chat(document).1.last().cloned().expect("a turn");
    let turns: Vec<Turn> = groups.iter().flatten().map(last).collect();
    let share = |test: &dyn Fn(&Turn) -> bool| {
        turns.iter().filter(|turn| test(turn)).count() as f64 / turns.len() as f64
    };
    let claims = share(&|turn| turn.user.ends_with(") False"));
    let open = share(&|turn| !lettered(turn));
    assert!((claims - 0.40).abs() < 0.03, "{claims}");
    assert!((open - 0.25).abs() < 0.03, "{open}");
    let a = share(&|turn| turn.assistant == "A");
    let b = share(&|turn| turn.assistant == "B");
    assert!((a - b).abs() < 0.03, "{a} {b}");
}

#[test]
fn sentences_are_true() {
    let world = World::new();
    let facts = world.facts();
    let truths: Vec<String> = (0..wording::SENTENCES)
        .flat_map(|i| {
            facts
                .iter()
                .map(move |f| f.relation.sentence(&f.entity, &f.value, i))
        })
        .collect();
    assert_eq!(truths.len(), 400 * 3);
    let documents = Sampler::new(0).sentences(500);
    assert_eq!(documents.len(), 500);
    for document in documents {
        let Document::Sentence(text) = document else {
            panic!("not a sentence: {document:?}");
        };
        assert!(truths.contains(&text), "{text}");
    }
}
