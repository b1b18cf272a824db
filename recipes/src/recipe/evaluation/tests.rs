use crate::recipe::Recipe;
use crate::toy::directory;
use std::path::Path;

/// Reads a recipe of this project with other keys for evaluation.
fn read(evaluation: &str) -> Result<Recipe, String> {
    let shipped = directory("recipes/honesty-llama2-13b-chat.toml");
    let text = std::fs::read_to_string(shipped).expect("a recipe");
    let text = text.split("[evaluation]").next().unwrap_or_default();
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("r.toml");
    std::fs::write(&path, format!("{text}\n{evaluation}")).expect("a file");
    let mut recipe = Recipe::read(&path).map_err(|e| e.to_string())?;
    let texts = [
        &mut recipe.evaluation.perplexity,
        &mut recipe.evaluation.neutral,
    ];
    for t in texts.into_iter().flatten() {
        t.file = t.file.strip_prefix(folder.path()).expect("below").into();
    }
    Ok(recipe)
}

#[test]
fn everything_but_the_sizes_is_left_out_unless_asked_for() {
    let plain = read("").expect("a recipe");
    assert!(plain.evaluation == super::Evaluation::default());
    let full = read(
        r#"[evaluation]
        perplexity = { file = "corpus.txt" }
        neutral = { file = "n.csv", text = "sentence" }
        open_ended = { file = "open.jsonl", limit = 9 }
        judge = { endpoint = "https://judge.example/v1", model = "m", key_env = "JUDGE_KEY" }"#,
    )
    .expect("a recipe");
    let e = &full.evaluation;
    let corpus = e.perplexity.as_ref().expect("a corpus");
    assert_eq!(
        (corpus.file.as_path(), corpus.text.as_str()),
        (Path::new("corpus.txt"), "text")
    );
    assert_eq!(e.neutral.as_ref().expect("texts").text, "sentence");
    let open = e.open_ended.as_ref().expect("questions");
    assert_eq!(
        (open.limit, open.max_new_tokens, open.prompt.as_str()),
        (9, 128, "prompt")
    );
    assert!(open.file.is_absolute() && open.texts().file.ends_with("open.jsonl"));
    let judge = e.judge.as_ref().expect("a judge");
    assert_eq!((judge.timeout_s, judge.attempts), (60, 3));
    assert_ne!(full.hash(), plain.hash());
    let text = toml::to_string(&full).expect("TOML");
    assert!(
        toml::from_str::<Recipe>(&text)
            .expect("a recipe")
            .evaluation
            == *e
    );
}

#[test]
fn what_cannot_be_is_named_and_a_key_is_not_repeated() {
    let judge = |keys: &str| {
        let table = format!("[evaluation]\njudge = {{ model = \"m\", {keys} }}");
        read(&table).expect_err("what cannot be")
    };
    let here = "endpoint = \"http://127.0.0.1/v1\"";
    let message = judge(&format!("{here}, key_env = \"sk-secret\""));
    assert!(message.contains("evaluation.judge.key_env"), "{message}");
    assert!(!message.contains("secret"), "{message}");
    let message = judge("endpoint = \"https://me:secret@127.0.0.1/v1\"");
    assert!(message.contains("evaluation.judge.endpoint"), "{message}");
    assert!(!message.contains("secret"), "{message}");
    let message = judge("endpoint = \"ftp://127.0.0.1\"");
    assert!(message.contains("http://"), "{message}");
    let message = judge(&format!("{here}, attempts = 0"));
    assert!(message.contains("evaluation.judge.attempts"), "{message}");
    let message = judge(&format!("{here}, key_enf = \"X\""));
    assert!(message.contains("did you mean `key_env`?"), "{message}");
    let message = read("[evaluation]\nopen_ended = { file = \"open.csv\" }");
    let message = message.expect_err("no judge");
    assert!(
        message.contains("a judge for evaluation.open_ended"),
        "{message}"
    );
    let message = read("[evaluation]\nperplexty = { file = \"a.txt\" }");
    let message = message.expect_err("an unknown key");
    assert!(message.contains("did you mean `perplexity`?"), "{message}");
}
