use crate::recipe::Recipe;
use crate::toy::directory;
use reptune_report::{ClaimRelation, Margin, Measure, Poles};

fn read(change: (&str, &str)) -> Result<Recipe, String> {
    let shipped = directory("recipes/paper-mini.toml");
    let text = std::fs::read_to_string(shipped).expect("a recipe");
    assert!(text.contains(change.0), "{}", change.0);
    let room = tempfile::tempdir().expect("a directory");
    let path = room.path().join("r.toml");
    std::fs::write(&path, text.replacen(change.0, change.1, 1)).expect("a file");
    Recipe::read(&path).map_err(|e| e.to_string())
}

#[test]
fn the_claims_of_the_paper_are_data() {
    let recipe = read(("", "")).expect("a recipe");
    assert_eq!(recipe.behaviour.poles, Poles::default());
    let claims = recipe.study.expect("a study").claims;
    assert_eq!(claims.len(), 8);
    let (first, last) = (&claims[0], &claims[7]);
    assert_eq!(first.left.measure, Measure::ClaimsPositive);
    assert_eq!(first.margin, Margin::Absolute(0.02));
    assert_eq!(last.relation, ClaimRelation::Below);
    assert_eq!(last.margin, Margin::Relative { relative: 0.02 });
}

#[test]
fn a_claim_that_cannot_be_checked_is_refused() {
    for (change, expected) in [
        (
            ("margin = 0.02", "margin = nan"),
            "key `study.claims, entry 1, margin`: expected a finite number",
        ),
        (
            ("\"claims.positive\"", "\"claims.honest\""),
            "unknown variant `claims.honest`",
        ),
        (
            ("model = \"tuned truth\"", "model = \"\""),
            "entry 1, right.model`: expected words",
        ),
    ] {
        let message = read(change).expect_err("refused");
        assert!(message.contains(expected), "{message}");
    }
}
