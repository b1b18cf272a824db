use super::*;
use reptune_report::{ModelRow, ResultTable};

fn report() -> Report {
    Report {
        results: ResultTable {
            rows: vec![ModelRow::default()],
            ..ResultTable::default()
        },
        recipe: "name = \"made-up\"".into(),
        ..Report::default()
    }
}

#[test]
fn a_report_replaces_a_report_and_nothing_else() {
    let room = tempfile::tempdir().expect("room");
    let out = room.path().join("runs/report");
    write_report(&report(), &out).expect("written");
    let page = std::fs::read_to_string(out.join("index.html")).expect("a page");
    assert!(page.contains(MARK));
    assert!(out.join("data/results.csv").exists() && out.join("recipe.toml").exists());
    write_report(&Report::default(), &out).expect("replaced");
    assert!(!out.join("data").exists() && !out.join("recipe.toml").exists());
    let beside = std::fs::read_dir(room.path().join("runs")).expect("runs");
    assert_eq!(beside.count(), 1, "nothing is left beside it");

    let other = room.path().join("other");
    std::fs::create_dir(&other).expect("directory");
    std::fs::write(other.join("index.html"), "mine").expect("file");
    let message = write_report(&report(), &other)
        .expect_err("refused")
        .to_string();
    assert!(message.contains("an earlier report"), "{message}");
    let kept = std::fs::read_to_string(other.join("index.html")).expect("still there");
    assert_eq!(kept, "mine");
}
