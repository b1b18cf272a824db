//! The `[steering]` table of a recipe becomes directions and an intervention.

use super::set;
use crate::error::Result;
use crate::recipe::{Compose, SteeringSettings};
use crate::toy::tiny;
use reptune_adapters::{Decide, DirectionSet, Dose, Gate, HookedModel, Operator};
use std::collections::BTreeMap;

#[test]
fn a_recipe_composes_directions_and_sets_a_gate() -> Result<()> {
    let toy = tiny();
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    let sets: BTreeMap<&str, DirectionSet> = [
        ("a", set(&toy, 1)),
        ("b", set(&toy, 2)),
        ("c", set(&toy, 3)),
    ]
    .into();
    for (name, set) in &sets {
        set.save(&path(name))?;
    }
    let text = format!(
        "layers = [1, 2]\ntotal = 6.0\npositions = \"window:-1..4\"\noperator = \"add-norm-preserving\"\n\
         directions = {{ base = {:?}, minus = [{:?}], without = [{:?}] }}\n\
         gate = {{ threshold = 0.5, side = \"below\", decide = {{ once-per-prompt = {{ layer = 3 }} }} }}\n",
        path("a"),
        path("b"),
        path("c")
    );
    let table: SteeringSettings = toml::from_str(&text).expect("a table");
    assert_eq!(
        toml::from_str::<SteeringSettings>(&toml::to_string(&table).expect("TOML"))
            .expect("a table"),
        table
    );
    let composed = table.directions(&sets["c"], toy.spec())?;
    let expected = sets["a"].minus(&sets["b"])?.without(&[&sets["c"]])?;
    assert_eq!(composed, expected);
    let x = table.intervention(&composed, Dose::Total(6.), toy.spec())?;
    assert_eq!(
        (x.operator(), x.rows().to_string().as_str()),
        (Operator::AddNormPreserving, "window:-1..4")
    );
    assert_eq!(
        x.gate().map(Gate::decide),
        Some(Decide::OncePerPrompt { layer: 3 })
    );
    // Without a base, what was extracted is changed.
    let own: Compose =
        toml::from_str(&format!("scale = -2.0\nplus = [{:?}]", path("b"))).expect("a table");
    let expected = sets["c"].scaled(-2.)?.plus(&sets["b"])?;
    assert_eq!(own.evaluate(&sets["c"], toy.spec())?, expected);
    let error = toml::from_str::<Compose>("bass = \"a\"").expect_err("an unknown key");
    assert!(error.to_string().contains("bass"), "{error}");
    assert_eq!(table.total(), Some(6.));
    let each: SteeringSettings = toml::from_str("layers = [1, 2]\ncoeff = 1.5").expect("a table");
    assert_eq!(each.total(), Some(3.));
    Ok(())
}
