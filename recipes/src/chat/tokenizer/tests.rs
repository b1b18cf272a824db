use super::*;
use serde_json::json;

fn file(change: impl Fn(&mut Value)) -> Result<(tempfile::TempDir, TokenizerFile)> {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/honest-mini");
    let mut json = TokenizerFile::read(&model)?.json().clone();
    json["model"]["merges"] = json!(["a b", "b c"]);
    change(&mut json);
    let room = tempfile::tempdir().expect("a directory");
    std::fs::write(room.path().join(NAME), json.to_string()).expect("written");
    let read = TokenizerFile::read(room.path())?;
    Ok((room, read))
}

fn hash(change: impl Fn(&mut Value)) -> Result<String> {
    Ok(file(change)?.1.content_hash())
}

#[test]
fn a_tokenizer_saved_anew_is_the_same_and_another_is_not() -> Result<()> {
    let same = hash(|_| {})?;
    let truncation =
        json!({"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0});
    type Change = Box<dyn Fn(&mut Value)>;
    let unchanged: [(&str, Change); 5] = [
        (
            "keys in another order",
            Box::new(|t| t.as_object_mut().expect("object").sort_keys()),
        ),
        (
            "truncation",
            Box::new(move |t| t["truncation"] = truncation.clone()),
        ),
        (
            "no post-processor",
            Box::new(|t| t["post_processor"] = Value::Null),
        ),
        (
            "merges in the newer spelling",
            Box::new(|t| {
                for merge in t["model"]["merges"].as_array_mut().expect("merges") {
                    let pair = merge.as_str().and_then(|m| m.split_once(' '));
                    if let Some((left, right)) = pair {
                        *merge = json!([left, right]);
                    }
                }
            }),
        ),
        (
            "without defaults",
            Box::new(|t| {
                let model = t["model"].as_object_mut().expect("object");
                model.retain(|_, value| !value.is_null() && *value != json!(false));
            }),
        ),
    ];
    for (what, change) in unchanged {
        assert_eq!(hash(change)?, same, "{what}");
    }
    let changed: [(&str, Change); 4] = [
        (
            "another merge first",
            Box::new(|t| {
                t["model"]["merges"]
                    .as_array_mut()
                    .expect("merges")
                    .swap(0, 1);
            }),
        ),
        (
            "a token under another id",
            Box::new(|t| {
                let vocab = t["model"]["vocab"].as_object_mut().expect("a vocabulary");
                let id = vocab.values().next_back().cloned();
                *vocab.values_mut().next().expect("a token") = id.expect("an id");
            }),
        ),
        (
            "an added token",
            Box::new(|t| {
                let token = json!({"id": 755, "content": "<new>", "special": true});
                t["added_tokens"]
                    .as_array_mut()
                    .expect("tokens")
                    .push(token);
            }),
        ),
        (
            "a normalizer",
            Box::new(|t| t["normalizer"] = json!({"type": "Lowercase"})),
        ),
    ];
    for (what, change) in changed {
        assert_ne!(hash(change)?, same, "{what}");
    }
    Ok(())
}

#[test]
fn without_a_tokenizer_the_error_says_how_to_make_one() {
    let room = tempfile::tempdir().expect("a directory");
    let message = || {
        let error = TokenizerFile::read(room.path()).err().expect("none");
        error
            .to_string()
            .replace(&*room.path().to_string_lossy(), "DIR")
    };
    let how = "make one with transformers: AutoTokenizer.from_pretrained(\"DIR\").save_pretrained(\"DIR\")";
    assert_eq!(
        message(),
        format!("DIR: tokenizer.json: expected a file, found nothing; {how}")
    );
    std::fs::write(room.path().join("tokenizer.model"), "").expect("written");
    assert!(message().contains("found tokenizer.model, which is that of SentencePiece"));
}
