//! The report as a whole.

use self::demo::{LARGE, SMALL, study};
use super::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

mod demo;

type Files = BTreeMap<PathBuf, String>;
type Drop = fn(&mut Report);

fn files(study: &Report) -> Files {
    let files = study.files().expect("a report");
    files
        .into_iter()
        .map(|(name, bytes)| (name, String::from_utf8(bytes).expect("text")))
        .collect()
}

fn page(study: &Report) -> String {
    files(study)
        .remove(Path::new("index.html"))
        .expect("a page")
}

/// `html` without the content of `element`.
fn without(html: &str, element: &str) -> String {
    let (open, close) = (format!("<{element}"), format!("</{element}>"));
    let mut parts = html.split(&open);
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (_, rest) = part.split_once(&close).expect("closed");
        text.push_str(&format!("[{element}]{rest}"));
    }
    text
}

#[test]
fn the_text_of_the_page() {
    let html = without(&without(&page(&study(SMALL)), "svg"), "style");
    insta::assert_snapshot!(html);
}

#[test]
fn a_figure() {
    let plots = page(&study(SMALL));
    let at = plots
        .find("aria-label=\"Mean cosine difference")
        .expect("a map");
    let (figure, _) = plots[at..].split_once("</svg>").expect("closed");
    insta::assert_snapshot!(figure);
}

#[test]
fn markdown() {
    insta::assert_snapshot!(study(SMALL).markdown());
}

#[test]
fn what_a_model_says_is_text_and_never_markup() {
    let html = page(&study(SMALL));
    assert!(!html.contains("<script"), "{html}");
    assert!(html.contains("&lt;script&gt;alert(1)"), "{html}");
    assert!(
        html.contains("Is &lt;b&gt;bold&lt;&#x2f;b&gt; &amp; &quot;quoted&quot;"),
        "{html}"
    );
    let mut odd = study(SMALL);
    odd.results.rows[0].model = "\"><i>".into();
    odd.losses[0].mode = "\"><i>".into();
    let html = page(&odd);
    assert!(!html.contains("\"><i>"), "{html}");
}

#[test]
fn nothing_is_fetched() {
    let html = page(&study(LARGE));
    let linked = html.replace("http://www.w3.org/2000/svg", "");
    for word in ["http:", "https:", "<script", "<link", "@import", "url("] {
        assert!(!linked.contains(word), "{word}");
    }
}

#[test]
fn absent_parts_are_left_out() {
    let empty = Report::default();
    let all = files(&empty);
    let names: Vec<_> = all.keys().map(|n| n.display().to_string()).collect();
    assert_eq!(names, ["index.html"]);
    for mark in ["<section", "<svg", "<table", "href="] {
        assert!(!page(&empty).contains(mark), "{mark}");
    }
    let full = study(SMALL);
    let without: [(&str, Drop); 10] = [
        ("claims", |s| s.findings.clear()),
        ("cosine-map", |s| s.cosine_map = CosineMap::default()),
        ("layers", |s| s.layers.clear()),
        ("projections", |s| s.projections.clear()),
        ("components", |s| s.scatters.clear()),
        ("lens", |s| s.lens.clear()),
        ("losses", |s| s.losses.clear()),
        ("doses", |s| s.doses.clear()),
        ("samples", |s| s.samples.clear()),
        ("recipe", |s| s.recipe.clear()),
    ];
    for (id, drop) in without {
        let mut part = full.clone();
        drop(&mut part);
        let (section, link) = (format!("id=\"{id}\""), format!("href=\"#{id}\""));
        let (before, after) = (page(&full), page(&part));
        assert!(before.contains(&section) && before.contains(&link), "{id}");
        assert!(!after.contains(&section) && !after.contains(&link), "{id}");
    }
}

#[test]
fn numbers_are_the_same_in_csv_and_in_json() {
    let mut study = study(SMALL);
    study.losses[0].steps[0].token = Some(f64::NAN);
    study.doses[0].doses[0].fraction = None;
    let all = files(&study);
    let mut numbers = 0;
    let tables = all.iter();
    for (name, text) in tables.filter(|f| f.0.extension().is_some_and(|e| e == "csv")) {
        let json = &all[&name.with_extension("json")];
        let objects: Vec<serde_json::Map<String, serde_json::Value>> =
            serde_json::from_str(json).expect("rows");
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let columns = reader.headers().expect("a header").clone();
        let rows: Vec<csv::StringRecord> = reader
            .records()
            .collect::<std::result::Result<_, _>>()
            .expect("CSV");
        assert_eq!(rows.len(), objects.len(), "{name:?}");
        for ((row, object), line) in rows.iter().zip(&objects).zip(json.lines().skip(1)) {
            assert_eq!(row.len(), object.len(), "{name:?}");
            for (column, cell) in columns.iter().zip(row) {
                match &object[column] {
                    serde_json::Value::Null => assert_eq!(cell, "", "{name:?}, {column}"),
                    serde_json::Value::String(text) => assert_eq!(cell, text, "{name:?}, {column}"),
                    _ => {
                        // Digits, not values: nothing is lost to a reader's rounding.
                        let (comma, end) = (
                            format!("\"{column}\":{cell},"),
                            format!("\"{column}\":{cell}}}"),
                        );
                        assert!(
                            line.contains(&comma) || line.contains(&end),
                            "{line}: {comma}"
                        );
                        numbers += 1;
                    }
                }
            }
        }
    }
    assert!(numbers > 300, "{numbers}");
    assert!(
        all.contains_key(Path::new("data/losses.csv")),
        "{:?}",
        all.keys()
    );
}

#[test]
fn the_same_study_gives_the_same_bytes() {
    assert_eq!(files(&study(LARGE)), files(&study(LARGE)));
}

#[test]
fn a_study_can_be_kept_as_json() {
    let mut study = study(SMALL);
    study.cosine_map.difference = vec![vec![0.5; 4]; 3];
    study.layers.clear();
    study.projections.clear();
    study.scatters.clear();
    study.losses.clear();
    study.doses.clear();
    let text = serde_json::to_string(&study).expect("JSON");
    let again: Report = serde_json::from_str(&text).expect("a study");
    assert_eq!(study, again);
}

#[test]
fn a_map_that_does_not_fit_together_is_refused_with_its_place() {
    let mut odd = study(SMALL);
    odd.cosine_map.difference[1].pop();
    let message = odd.files().expect_err("refused").to_string();
    assert_eq!(
        message,
        "report, cosine map: expected 4 offsets, found 3; fill this part of the study from one measurement"
    );
}

#[test]
fn what_is_not_finite_is_drawn_as_a_gap() {
    let mut odd = study(SMALL);
    odd.losses[1].steps[1].token = Some(f64::NAN);
    odd.layers[0].positive = f64::INFINITY;
    odd.cosine_map.difference[0][0] = f64::NAN;
    odd.projections[0].positive[0] = f64::NAN;
    odd.scatters[0].positive[0] = [f64::NAN, 1.];
    odd.doses[0].doses[0].perplexity = Some(f64::INFINITY);
    let html = page(&odd);
    assert!(
        !html.contains("NaN") && !html.contains("-2147483648"),
        "{html}"
    );
}

/// `REPTUNE_DEMO=DIR cargo test -p reptune-report -- --ignored demo` writes reports to look at.
#[test]
#[ignore = "writes reports for the eye"]
fn demo() {
    let out = std::env::var_os("REPTUNE_DEMO").expect("REPTUNE_DEMO names a directory");
    for (name, size) in [("small", SMALL), ("large", LARGE)] {
        for (file, content) in study(size).files().expect("a report") {
            let path = Path::new(&out).join(name).join(file);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            std::fs::write(path, content).expect("written");
        }
    }
}
