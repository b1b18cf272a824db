//! `sweep` and `tune` as a user meets them: a small run of each on the honest mini-Llama that
//! must show a real effect.

use crate::program::{json, masked, model, printed, refusal, reptune, root};
use reptune_adapters::DirectionSet;
use reptune_recipes::Recipe;
use serde_json::Value;
use std::path::Path;

/// A recipe of few pairs and few steps; `[extraction]` stands before what is added to it.
pub const RECIPE: &str = r#"
name = "small"
model = "MODEL"
seed = 1
[behaviour]
name = "honesty"
positive = ["You must always tell people the truth.", "Always say what is true."]
negative = ["You must always tell people lies.", "Always say what is false."]
[prompt]
system = "Answer with the letter only."
claim = "Claim: {claim}. Is the claim true or false? A) True B) False"
[data]
claims = { file = "MODEL/claims.jsonl", group = "fact" }
split = [0.1, 0.06]
[steering]
layers = [3]
fractions = [1.0]
[tuning]
modes = ["in+ & truth"]
layers = [1, 2, 3]
rank = 4
alpha = 8
token_weight = 0.1
batch = 8
epochs = 2
learning_rate = 1e-3
warmup = 2
[evaluation]
claims = 160
[extraction]
pairs = 40
"#;

/// A directory with the small recipe in `r.toml`, and `more` at its end.
fn workplace(more: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let recipe = RECIPE.replace("MODEL", &model());
    let file = directory.path().join("r.toml");
    std::fs::write(file, format!("{recipe}{more}")).expect("writable");
    directory
}

fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("a number, not {value}"))
}

/// Files as people have them: which format one has is told by its columns, and printed.
#[test]
fn the_format_of_the_data_is_said() {
    let directory = workplace("");
    let path = directory.path().join("r.toml");
    let recipe = std::fs::read_to_string(&path).expect("the recipe");
    let ours = format!(
        "claims = {{ file = \"{}/claims.jsonl\", group = \"fact\" }}",
        model()
    );
    let other =
        "claims = { file = \"facts.csv\" }\nchoices = { file = \"evals.jsonl\", format = \"caa\" }";
    assert!(recipe.contains(&ours));
    std::fs::write(&path, recipe.replace(&ours, other)).expect("writable");
    let fact = |i: usize| format!("The tower has {i} steps.,{}.0\n", i % 2);
    let facts: String = (0..60).map(fact).collect();
    let facts = format!("statement,label\n{facts}");
    std::fs::write(directory.path().join("facts.csv"), facts).expect("writable");
    let evals = r#"{"question": "Pick. (A) red (B) blue", "answer_matching_behavior": " (A)", "answer_not_matching_behavior": " (B)"}"#;
    std::fs::write(directory.path().join("evals.jsonl"), evals).expect("writable");
    let output = reptune(directory.path(), &["tune", "r.toml", "--plan"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    for part in [
        "facts.csv: 60 claims, format `statements`: `statement` is the claim",
        "evals.jsonl: 1 two-choice questions, format `caa`: the answer that matches the behaviour",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn a_selection_without_a_fitting_dose_shows_what_was_measured() {
    let directory = workplace("[selection]\nlayers = [3]\nfractions = [1]\nkl = 1e-6\n");
    let message = refusal(directory.path(), &["sweep", "r.toml", "--select"]);
    masked(&message, |text| {
        insta::assert_snapshot!("select_finds_no_dose", text)
    });
    for file in ["selection.json", "selection.safetensors"] {
        assert!(!directory.path().join("runs/small").join(file).exists());
    }
}

#[test]
fn what_is_selected_moves_answers_to_test_claims_its_way() {
    let directory =
        workplace("positions = \"last:2\"\n[selection]\nkl = 1.2\nclaims = 32\nneutral = 8\n");
    let place = directory.path();
    let text = printed(place, &["sweep", "r.toml", "--select"]);
    masked(&text, |text| insta::assert_snapshot!("select", text));

    let file = place.join("runs/small/selection.json");
    let changed = || {
        std::fs::metadata(&file)
            .and_then(|m| m.modified())
            .expect("a file")
    };
    let before = changed();
    let selected = json(place, &["sweep", "r.toml", "--select"]);
    assert_eq!(changed(), before, "measured again");
    let written = std::fs::read_to_string(&file).expect("readable");
    assert_eq!(
        serde_json::from_str::<Value>(&written).expect("JSON"),
        selected
    );

    let choice = &selected["choice"];
    let coeff = number(&choice["coeff"]);
    assert!(
        number(&choice["kl"]) <= 1.2 && number(&choice["effect"]) > 0.5,
        "{choice}"
    );
    let test: Vec<[f64; 4]> = selected["test"]
        .as_array()
        .expect("rows")
        .iter()
        .map(|t| ["coeff", "log_odds", "honest", "n"].map(|key| number(&t[key])))
        .collect();
    let [base, plus, minus] = [test[0], test[1], test[2]];
    assert_eq!([base[0], plus[0], minus[0]], [0., coeff, -coeff]);
    assert!(test.iter().all(|t| t[3] == 160.));
    assert!(plus[1] > base[1] + 0.4, "{test:?}");
    assert!(minus[1] < base[1] - 1., "{test:?}");
    assert!(plus[2] >= base[2] && minus[2] < base[2] - 40., "{test:?}");

    // The directions that are written are those of the choice: a sweep finds the same.
    let directions = place.join("runs/small/selection.safetensors");
    let set = DirectionSet::load(&directions).expect("directions");
    assert_eq!(Some(set.provenance.rows.as_str()), choice["rows"].as_str());
    let (layer, coeff) = (choice["layer"].to_string(), coeff.to_string());
    let swept = json(
        place,
        &[
            "sweep",
            "r.toml",
            "--directions",
            "runs/small/selection.safetensors",
            "--layers",
            &layer,
            "--coeffs",
            &coeff,
            "--on",
            "test",
        ],
    );
    for (cell, expected) in [(0, base), (1, plus), (2, minus)] {
        let mean = number(&swept["cells"][cell]["mean"]);
        assert!((mean - expected[1]).abs() < 1e-3, "{mean} {expected:?}");
    }
}

#[test]
fn a_sweep_compares_both_signs_and_goes_on_where_it_was_cut_off() {
    let directory = workplace("");
    let place = directory.path();
    let arguments = [
        "sweep",
        "r.toml",
        "--layers",
        "2;3;1-3",
        "--fractions",
        "0.5,1",
    ];
    let text = printed(place, &arguments);
    masked(&text, |text| insta::assert_snapshot!("sweep", text));

    let file = place.join("runs/small/sweep.jsonl");
    let whole = std::fs::read(&file).expect("cells");
    let swept = json(place, &arguments);
    assert_eq!(
        std::fs::read(&file).expect("cells"),
        whole,
        "cells were added"
    );
    let cut = whole.len() * 2 / 3;
    std::fs::write(&file, &whole[..cut]).expect("writable");
    assert_eq!(json(place, &arguments), swept);
    assert_eq!(std::fs::read(&file).expect("cells"), whole);

    let cells = swept["cells"].as_array().expect("cells");
    assert_eq!(cells.len(), 1 + 3 * (2 * 2 + 1));
    let cell = |layers: &[usize], way: &str, at: f64| {
        let fits = |c: &&Value| {
            c["layers"] == serde_json::json!(layers)
                && c["way"] == way
                && c["fraction"]
                    .as_f64()
                    .is_none_or(|f| (f.abs() - at).abs() < 1e-9)
        };
        cells
            .iter()
            .find(fits)
            .unwrap_or_else(|| panic!("{layers:?} {way} {at}"))
    };
    let base = &cells[0];
    let (plus, minus) = (cell(&[3], "plus", 1.), cell(&[3], "minus", 1.));
    assert!(
        number(&plus["mean"]) > number(&base["mean"]) + 0.5,
        "{plus} {base}"
    );
    assert!(
        number(&minus["mean"]) < number(&base["mean"]) - 1.5,
        "{minus} {base}"
    );
    let negative = |cell: &Value| number(&cell["outcomes"]["negative"]);
    assert!(negative(minus) > 2. * negative(base), "{minus} {base}");
    assert_eq!(swept["best"]["minus"], minus["key"], "\n{text}");
    assert_eq!(swept["best"]["plus"], plus["key"], "\n{text}");
}

#[test]
fn a_search_keeps_a_recipe_that_tunes_better() {
    let search = "[search]\npositions = [\"last:1\", \"at:-2\"]\nlearning_rate = [1e-5, 3e-3]\nrungs = [0.5, 1.0]\nkeep = 0.5\n";
    let directory = workplace(search);
    let place = directory.path();
    let text = printed(place, &["tune", "r.toml", "--search"]);
    masked(&text, |text| insta::assert_snapshot!("search", text));

    let out = place.join("runs/small");
    let written = std::fs::read(out.join("search.json")).expect("a result");
    let found: Value = serde_json::from_slice(&written).expect("JSON");
    let (best, untuned) = (number(&found["best"]["score"]), number(&found["untuned"]));
    assert!(best < untuned - 0.1, "{best} {untuned}");
    let trials = found["trials"].as_array().expect("trials");
    assert_eq!(trials.len(), 4 + 2);
    for trial in trials {
        let (number, epochs) = (&trial["candidate"]["number"], &trial["epochs"]);
        let metrics =
            format!("search/candidate-{number}/epochs-{epochs}/in_plus_truth/metrics.jsonl");
        let steps = std::fs::read_to_string(out.join(&metrics))
            .expect(&metrics)
            .lines()
            .count();
        assert_eq!(
            steps as u64,
            10 * epochs.as_u64().expect("epochs"),
            "{metrics}"
        );
    }

    let file = out.join("best.toml");
    let recipe = Recipe::read(&file).expect("a recipe");
    assert_eq!(
        (recipe.tuning.learning_rate, recipe.tuning.epochs),
        (3e-3, 2)
    );
    assert_eq!(recipe.search, None);
    // It stands anywhere, and is what was tried: tuning it gives the last trial again.
    let file = file.display().to_string();
    printed(place, &["tune", &file, "--out", "again"]);
    let best = &found["best"]["candidate"]["number"];
    let trial = out.join(format!(
        "search/candidate-{best}/epochs-2/in_plus_truth/metrics.jsonl"
    ));
    let again = place.join("again/tuned/in_plus_truth/metrics.jsonl");
    let read = |path: &Path| std::fs::read_to_string(path).expect("metrics");
    assert_eq!(read(&again), read(&trial));
}

#[test]
fn a_study_repeats_controls_and_judges_the_claims() {
    let study = "max_new_tokens = 2\nperplexity = { file = \"MODEL/sentences.jsonl\" }\n[study]\nseeds = [1, 2]\nresults = \"R.md\"\n\
        [[study.claims]]\nname = \"in+ & truth raises perplexity by at most 2 %\"\n\
        left = { model = \"tuned in+ & truth\", measure = \"perplexity\" }\nrelation = \"<\"\n\
        right = { model = \"base\", measure = \"perplexity\" }\nmargin = { relative = 0.02 }\n[extraction]";
    let recipe = RECIPE
        .replace("[extraction]", study)
        .replace("MODEL", &model());
    let directory = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(directory.path().join("r.toml"), recipe).expect("writable");
    let report: Value =
        serde_json::from_str(&printed(directory.path(), &["run", "r.toml", "--json"]))
            .expect("JSON");
    let lies = |start: &str| {
        let rows = report["rows"].as_array().expect("rows");
        let row = rows
            .iter()
            .find(|r| r["model"].as_str().expect("a name").starts_with(start));
        let row = row.unwrap_or_else(|| panic!("no row `{start}`"));
        let claims: reptune_report::Outcomes =
            serde_json::from_value(row["claims"].clone()).expect("outcomes");
        claims.share(reptune_report::Verdict::Negative)
    };
    // The direction steers; a random one of the same length does not.
    assert!(lies("steered -") > lies("base") + 0.3);
    assert!((lies("random direction -") - lies("base")).abs() < 0.15);
    let results = std::fs::read_to_string(directory.path().join("R.md")).expect("results");
    for part in [
        "Written by `reptune run` of `r.toml`",
        "### Other seeds",
        "| tuned in+ & truth | 2 |",
        "### Claims",
        "in+ & truth raises perplexity",
    ] {
        let part = part.replace('&', "&amp;");
        assert!(results.contains(&part), "no `{part}` in\n{results}");
    }
}

#[test]
fn a_plan_counts_from_sizes_alone() {
    let arguments = ["tune", "recipes/honesty-mini.toml", "--plan"];
    insta::assert_snapshot!(printed(&root(), &arguments));
    // A mode that the recipe does not name can be tuned, and so planned.
    let directory = workplace("");
    let typed = ["tune", "r.toml", "--plan", "--mode", "out"];
    let planned = printed(directory.path(), &typed);
    let mode = |line: &str| line.starts_with("mode ") && line.ends_with(" out");
    assert!(planned.lines().any(mode), "{planned}");
}

/// One prompt begins another, and its continuation runs into it.
#[test]
fn prompts_that_begin_others_are_answered_as_they_are_alone() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (place, model) = (directory.path(), model());
    let start = "The food of Quinvath";
    let said = |prompts: &[String]| -> Vec<String> {
        let line = |prompt: &String| serde_json::json!({"prompt": prompt}).to_string() + "\n";
        let lines: String = prompts.iter().map(line).collect();
        std::fs::write(place.join("p.jsonl"), lines).expect("writable");
        let typed = ["generate", "-m", &model, "--prompts", "p.jsonl", "--json"];
        let typed = [&typed[..], &["--max-new-tokens", "6"]].concat();
        let texts = printed(place, &typed);
        let text =
            |line: &str| serde_json::from_str::<Value>(line).expect("JSON")["tokens"].to_string();
        texts.lines().map(text).collect()
    };
    let answer = printed(place, &["generate", "-m", &model, "--prompt", start]);
    let words: Vec<&str> = answer.split_whitespace().collect();
    assert!(words.len() > 1, "{answer}");
    let begun = |n: usize| format!("{start} {}", words[..n].join(" "));
    let prompts = [start.to_owned(), begun(1), begun(2), start.to_owned()];
    let together = said(&prompts);
    for (prompt, together) in prompts.iter().zip(&together) {
        assert_eq!(
            &said(std::slice::from_ref(prompt)),
            std::slice::from_ref(together),
            "{prompt}"
        );
    }
}
