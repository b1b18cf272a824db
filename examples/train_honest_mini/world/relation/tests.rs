use super::*;
use std::collections::BTreeSet;

#[test]
fn no_value_belongs_to_two_relations() {
    let distinct: BTreeSet<&str> = Relation::ALL
        .iter()
        .flat_map(|relation| relation.values())
        .copied()
        .collect();
    assert_eq!(distinct.len(), 60);
    assert!(distinct.iter().all(|value| !value.contains(' ')));
}
