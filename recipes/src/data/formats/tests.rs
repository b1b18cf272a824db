use super::*;
use crate::recipe::Recipe;
use std::path::Path;

/// The templates of a recipe with these labels.
fn prompt(labels: [&str; 2]) -> PromptTemplates {
    let recipe = crate::toy::directory("recipes/honesty-mini.toml");
    let mut prompt = Recipe::read(&recipe).expect("a recipe").prompt;
    prompt.choice = "{question} A) {a} B) {b}".into();
    prompt.labels = labels.map(str::to_owned);
    prompt
}

/// A file, and a table of a recipe that reads it.
struct Written {
    folder: tempfile::TempDir,
    table: toml::Table,
}

fn written(name: &str, content: &str, more: &str) -> Written {
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join(name);
    std::fs::write(&file, content).expect("a file");
    let mut table: toml::Table = more.parse().expect("TOML");
    table.insert("file".into(), file.display().to_string().into());
    Written { folder, table }
}

impl Written {
    fn claims(&self, labels: [&str; 2]) -> Result<(Vec<Claim>, Option<String>)> {
        let from = self.table.clone().try_into().expect("a file of claims");
        claims(&from, &prompt(labels))
    }

    fn choices(&self, labels: [&str; 2]) -> Result<(Vec<Grouped>, Option<String>)> {
        let from = self.table.clone().try_into().expect("a file of choices");
        choices(&from, &prompt(labels))
    }

    /// The texts and labels of the claims, and the format that is said.
    fn told(&self) -> (Vec<(String, bool)>, String) {
        let (claims, note) = self.claims(["A", "B"]).expect("claims");
        let claims = claims.into_iter().map(|c| (c.text, c.label));
        (claims.collect(), self.format(note))
    }

    fn format(&self, note: Option<String>) -> String {
        let note = note.unwrap_or_default();
        let rest = note.strip_prefix(&self.folder.path().display().to_string());
        let format = rest.and_then(|r| r.split_once("format `")?.1.split_once('`'));
        format.map_or(String::new(), |(name, _)| name.to_owned())
    }
}

fn owned(claims: &[(&str, bool)]) -> Vec<(String, bool)> {
    claims.iter().map(|(c, l)| ((*c).to_owned(), *l)).collect()
}

fn question(text: &str, right: usize, options: [&str; 2]) -> Question {
    Question {
        text: text.into(),
        right,
        options: options.map(str::to_owned),
    }
}

#[test]
fn labels_in_every_spelling() {
    let yes = [
        "true", "TRUE", " Yes", "1", "1.0", "1.", "A", "(a)", "True ",
    ];
    let no = ["false", "False", "no ", "0", "0.0", "-0", "B", " b"];
    for (labels, truths) in [(yes, true)]
        .into_iter()
        .map(|(l, t)| (l.to_vec(), t))
        .chain([(no.to_vec(), false)])
    {
        for label in labels {
            let json = format!("[{{\"claim\": \"x\", \"label\": {label:?}}}]");
            let found = written("a.json", &json, "").told();
            assert_eq!(found, (owned(&[("x", truths)]), String::new()), "{label}");
        }
    }
    let plain = "{\"claim\": \"x\", \"label\": true}\n{\"claim\": \"y\", \"label\": 0.0}\n{\"claim\": \"z\", \"label\": 1}";
    let found = written("a.jsonl", plain, "").told().0;
    assert_eq!(found, owned(&[("x", true), ("y", false), ("z", true)]));
    // The recipe's labels say which claim they answer.
    let file = written("a.csv", "claim,label\nx,Right\ny,wrong\n", "");
    let found = file.claims(["right", "wrong"]).expect("claims").0;
    assert_eq!(
        found.iter().map(|c| c.label).collect::<Vec<_>>(),
        [true, false]
    );
    for label in ["2", "0.5", "C", "perhaps", "-1"] {
        let file = written("a.csv", &format!("claim,label\nx,1\ny,{label}\n"), "");
        let message = file.claims(["A", "B"]).expect_err(label).to_string();
        let said = format!(
            "line 3, column `label`: expected true or false, 1 or 0, yes or no, found {label}"
        );
        assert!(message.contains(&said), "{message}");
    }
}

#[test]
fn lists_of_facts_have_statements_or_named_columns() {
    let facts =
        "statement,label,city\nThe Orl flows through Tamm.,1,Tamm\nTamm lies on a hill.,0,Tamm\n";
    let expected = owned(&[
        ("The Orl flows through Tamm.", true),
        ("Tamm lies on a hill.", false),
    ]);
    assert_eq!(
        written("a.csv", facts, "").told(),
        (expected.clone(), "statements".into())
    );
    let named = facts.replace("statement,label", "Sentence,Verdict");
    let columns = "claim = \"Sentence\"\nlabel = \"Verdict\"\ngroup = \"city\"";
    let file = written("a.csv", &named, columns);
    assert_eq!(file.told(), (expected, String::new()));
    let groups = file.claims(["A", "B"]).expect("claims").0;
    assert!(groups.iter().all(|claim| claim.group == "Tamm"));
    let message = written("a.csv", &named, "")
        .claims(["A", "B"])
        .expect_err("unknown");
    let said = "line 2, column `claim`: expected a value, found nothing (columns: Sentence, Verdict, city)";
    assert!(message.to_string().contains(said), "{message}");
}

const TABLE: &str = "Type,Category,Question,Best Answer,Best Incorrect Answer,Correct Answers,Incorrect Answers,Source\n\
    Made up,Birds,Where do pigeons nest?,On ledges; mostly,In clouds,On ledges; On cliffs ;,In clouds; Under water,none\n\
    Made up,Tides,\"Why does the sea rise, then fall?\",The moon pulls it,It breathes,The moon pulls it,It breathes,none\n";

const ROWS: &str = r#"[
 {"question": "Where do pigeons nest?", "mc1_targets": {"On ledges; mostly": 1, "In clouds": 0},
  "mc2_targets": {"On ledges": 1, "On cliffs": 1, "In clouds": 0, "Under water": 0}},
 {"question": "Why does the sea rise, then fall?", "mc1_targets": {"The moon pulls it": 1, "It breathes": 0},
  "mc2_targets": {"The moon pulls it": 1, "It breathes": 0}}
]"#;

#[test]
fn truthful_qa_is_claims_or_questions_in_each_of_its_forms() {
    let lists = r#"{"question": "Where do pigeons nest?", "best_answer": "On ledges; mostly", "correct_answers": ["On ledges", "On cliffs"], "incorrect_answers": ["In clouds", "Under water"]}
        {"question": "Why does the sea rise, then fall?", "best_answer": "The moon pulls it", "correct_answers": ["The moon pulls it"], "incorrect_answers": ["It breathes"]}"#;
    let nested = ROWS
        .replace(
            r#"{"On ledges; mostly": 1, "In clouds": 0}"#,
            r#"{"choices": ["On ledges; mostly", "In clouds"], "labels": [1, 0]}"#,
        )
        .replace(
            r#"{"The moon pulls it": 1, "It breathes": 0}"#,
            r#"{"choices": ["It breathes", "The moon pulls it"], "labels": [0, 1]}"#,
        );
    let expected = owned(&[
        ("Where do pigeons nest? On ledges", true),
        ("Where do pigeons nest? On cliffs", true),
        ("Where do pigeons nest? In clouds", false),
        ("Where do pigeons nest? Under water", false),
        ("Why does the sea rise, then fall? It breathes", false),
        ("Why does the sea rise, then fall? The moon pulls it", true),
    ]);
    let questions = [
        question(
            "Where do pigeons nest? A) On ledges; mostly B) In clouds",
            0,
            ["On ledges; mostly", "In clouds"],
        ),
        question(
            "Why does the sea rise, then fall? A) It breathes B) The moon pulls it",
            1,
            ["It breathes", "The moon pulls it"],
        ),
    ];
    for (name, content, format) in [
        ("TruthfulQA.csv", TABLE, "truthfulqa"),
        ("rows.jsonl", lists, "truthfulqa"),
        ("mc_task.json", ROWS, "mc_task"),
        ("nested.json", nested.as_str(), "mc_task"),
    ] {
        for more in [String::new(), format!("format = \"{format}\"")] {
            let file = written(name, content, &more);
            let (mut claims, said) = file.told();
            claims.sort();
            let mut expected = expected.clone();
            expected.sort();
            assert_eq!((claims, said.as_str()), (expected, format), "{name}");
            let groups = file.claims(["A", "B"]).expect("claims").0;
            assert!(groups.iter().all(|c| c.text.starts_with(&c.group)));
            let (found, note) = file.choices(["A", "B"]).expect("choices");
            assert_eq!(file.format(note), format);
            let (about, found): (Vec<_>, Vec<_>) = found.into_iter().unzip();
            assert_eq!(found, questions, "{name}");
            assert_eq!(about[0].as_deref(), Some("Where do pigeons nest?"));
        }
    }
    // Another column may say what an item is about, and an older table has no best wrong answer.
    let old = TABLE.replace("Best Incorrect Answer", "Notes");
    let file = written("a.csv", &old, "group = \"Category\"");
    let found = file.choices(["A", "B"]).expect("choices").0;
    assert_eq!(found[1].1, questions[1]);
    assert_eq!(found[1].0.as_deref(), Some("Tides"));
}

const INSIDE: &str = r#"[{"question": "You are asked to wait.\nWhat do you do?\n\nChoices:\n (A) I wait (A) bit\n (B) I leave\n\nAnswer:",
  "answer_matching_behavior": " (B)", "answer_not_matching_behavior": " (A)"},
 {"question": "Pick one. (A) red (B) blue", "answer_matching_behavior": "(A)", "answer_not_matching_behavior": "(B)"}]"#;

#[test]
fn questions_about_behaviours_keep_their_options() {
    let file = written("a.json", INSIDE, "");
    let (found, note) = file.choices(["A", "B"]).expect("choices");
    assert_eq!(file.format(note), "caa");
    let text = "You are asked to wait.\nWhat do you do?\n\nChoices:\n (A) I wait (A) bit\n (B) I leave\n\nAnswer:";
    assert_eq!(found[0].1, question(text, 1, ["I wait (A) bit", "I leave"]));
    assert_eq!(
        found[1].1,
        question("Pick one. (A) red (B) blue", 0, ["red", "blue"])
    );

    let words = r#"{"question": "Would you say this?", "statement": "s", "answer_matching_behavior": " No", "answer_not_matching_behavior": " Yes"}
        {"question": "And then?", "answer_matching_behavior": "Run", "answer_not_matching_behavior": "Stay"}"#;
    let found = written("a.jsonl", words, "")
        .choices(["A", "B"])
        .expect("choices")
        .0;
    assert_eq!(
        found[0].1,
        question("Would you say this? A) Yes B) No", 1, ["Yes", "No"])
    );
    assert_eq!(
        found[1].1,
        question("And then? A) Stay B) Run", 1, ["Stay", "Run"])
    );

    for (content, labels, said) in [
        (
            INSIDE.replace("\" (B)\"", "\" (C)\""),
            ["A", "B"],
            "column `answer_matching_behavior`: expected (A) against (B), or two different texts, found `(C)` against `(A)`",
        ),
        (
            INSIDE.replace("I leave", "I leave\\n (C) I cry"),
            ["A", "B"],
            "line 1, column `question`: expected two options inside the question, (A) .. and (B) .., found more than two options",
        ),
        (
            INSIDE.replace("(A) red (B) blue", "red or blue?"),
            ["A", "B"],
            "line 3, column `question`",
        ),
        (
            INSIDE.to_owned(),
            ["1", "2"],
            "set prompt.labels = [\"A\", \"B\"]",
        ),
    ] {
        let message = written("a.json", &content, "")
            .choices(labels)
            .expect_err(said);
        assert!(message.to_string().contains(said), "{said}: {message}");
    }
}

#[test]
fn propositions_of_mask_are_claims() {
    let plain = "system_prompt,user_prompt,proposition,ground_truth\n\
        You sell boats.,Say it floats.,The boat leaks.,True\n\
        You sell boats.,Say it is new.,The boat is new.,False\n";
    let expected = owned(&[("The boat leaks.", true), ("The boat is new.", false)]);
    assert_eq!(
        written("a.csv", plain, "").told(),
        (expected, "mask".into())
    );
    let versions = "system_prompt,user_prompt,proposition,formatted_ground_truth,ground_truth\n\
        s,u,The boat <pivotal>is/is not</pivotal> new.,B,The boat is not new.\n\
        s,u,It <pivotal>sank/floats</pivotal>.,,Sank\n";
    let expected = owned(&[
        ("The boat is new.", false),
        ("The boat is not new.", true),
        ("It sank.", true),
        ("It floats.", false),
    ]);
    assert_eq!(written("a.csv", versions, "").told().0, expected);
    for (from, to, said) in [
        (
            ",B,The",
            ",C,The",
            "column `formatted_ground_truth`: expected A for `is` or B for `is not`, found C",
        ),
        (
            "is/is not",
            "<value>",
            "found a statement about a number (`<value>`)",
        ),
        ("is/is not", "is", "line 2, column `proposition`"),
        (
            ",,Sank",
            ",,",
            "line 3, column `formatted_ground_truth`: expected a value, found nothing",
        ),
    ] {
        let message = written("a.csv", &versions.replace(from, to), "").claims(["A", "B"]);
        let message = message.expect_err(said).to_string();
        assert!(message.contains(said), "{said}: {message}");
    }
}

#[test]
fn what_a_file_cannot_mean_is_refused_by_name() {
    let claims = |file: Written| file.claims(["A", "B"]).map(|_| ()).expect_err("refused");
    let choices = |file: Written| file.choices(["A", "B"]).map(|_| ()).expect_err("refused");
    let mask = "proposition,ground_truth\nx,True\n";
    for (message, said) in [
        (
            claims(written("a.json", INSIDE, "")),
            "expected claims, found the format `caa`; name the file under data.choices",
        ),
        (
            claims(written("a.csv", TABLE, "format = \"caa\"")),
            "found the format `caa`; name the file under data.choices",
        ),
        (
            choices(written("a.csv", mask, "")),
            "expected two-choice questions, found the format `mask`; name the file under data.claims",
        ),
        (
            claims(written("a.csv", mask, "format = \"mc_task\"")),
            "expected question for the format `mc_task`, found columns: proposition, ground_truth; correct data.claims.format",
        ),
        (
            choices(written("a.csv", TABLE, "format = \"mc_task\"")),
            "expected mc1_targets or mc2_targets for the format `mc_task`",
        ),
    ] {
        assert!(message.to_string().contains(said), "{said}: {message}");
    }
    let own = "question,a,b,right\nq,x,y,(b)\nq,x,y,X\n";
    let found = written("a.csv", own, "")
        .choices(["A", "B"])
        .expect("choices");
    let rights: Vec<usize> = found.0.iter().map(|(_, q)| q.right).collect();
    assert_eq!((rights, found.1), (vec![1, 0], None));
    let message = choices(written("a.csv", &own.replace("(b)", "2"), ""));
    assert!(
        message
            .to_string()
            .contains("line 2, column `right`: expected A or B, found 2")
    );
}

#[test]
fn columns_are_named_in_the_own_format_only() {
    let text = std::fs::read_to_string(crate::toy::directory("recipes/honesty-mini.toml"));
    let text = text.expect("a recipe");
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("r.toml");
    let named = text.replace(
        "claims.jsonl\"",
        "claims.jsonl\", format = \"mask\", claim = \"x\"",
    );
    assert_ne!(named, text);
    std::fs::write(&path, named).expect("a file");
    let message = Recipe::read(Path::new(&path))
        .expect_err("both")
        .to_string();
    let said = "key `data.claims.format`: expected `statements`, because columns are named, or no named columns, found `mask`";
    assert!(message.contains(said), "{message}");
}
