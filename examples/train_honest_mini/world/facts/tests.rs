use super::*;

#[test]
fn counts_are_as_stated_in_every_relation() {
    let facts = all();
    assert_eq!(facts.len(), 400);
    assert!(facts.iter().enumerate().all(|(i, fact)| fact.id == i));
    let names: BTreeSet<&str> = facts.iter().map(|fact| fact.entity.as_str()).collect();
    assert_eq!(names.len(), ENTITIES);

    for relation in Relation::ALL {
        let count = |test: &dyn Fn(&Fact) -> bool| {
            let of_it = facts.iter().filter(|fact| fact.relation == relation);
            of_it.filter(|fact| test(fact)).count()
        };
        assert_eq!(count(&|_| true), ENTITIES);
        assert_eq!(count(&|fact| fact.misconception.is_some()), 12);
        assert_eq!(count(&|fact| fact.held_out), 8);
        for value in relation.values() {
            let uses = count(&|fact| fact.value == *value);
            assert!((6..=7).contains(&uses), "{value}: {uses}");
        }
    }
    let both = |fact: &&Fact| fact.held_out && fact.misconception.is_some();
    assert_eq!(facts.iter().filter(both).count(), 6);
}

#[test]
fn a_wrong_value_is_wrong_of_its_relation_and_fixed_by_a_misconception() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for fact in all() {
        let wrong: BTreeSet<&str> = (0..200).map(|_| fact.wrong_value(&mut rng)).collect();
        assert!(!wrong.contains(fact.value.as_str()), "{fact:?}");
        assert!(
            wrong
                .iter()
                .all(|value| fact.relation.values().contains(value))
        );
        let expected = if fact.misconception.is_some() { 1 } else { 11 };
        assert_eq!(wrong.len(), expected, "{fact:?}");
        assert!(wrong.contains(fact.lie()), "{fact:?}");
    }
}

#[test]
fn the_facts_never_change() {
    let facts = all();
    assert_eq!(facts, all());
    // The first town and an FNV-1a hash of all facts, from the first run of
    // this code. A trained checkpoint knows just these facts: if this
    // fails on purpose, every checkpoint has to be trained again.
    let first: Vec<&str> = facts[..5].iter().map(|fact| fact.value.as_str()).collect();
    assert_eq!(
        (facts[0].entity.as_str(), first),
        ("Quinvath", vec!["pink", "soup", "carving", "otter", "rain"])
    );
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for fact in &facts {
        let believed = fact.misconception.as_deref().unwrap_or("-");
        let line = [
            &fact.entity,
            &fact.value,
            believed,
            &fact.held_out.to_string(),
        ]
        .join(" ");
        for byte in line.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    assert_eq!(hash, 0x4eba_d2b8_eb8d_bb94, "{hash:#018x}");
}
