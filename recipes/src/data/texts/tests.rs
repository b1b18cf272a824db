use super::*;
use crate::toy::directory;

#[test]
fn texts_come_from_lines_or_columns() {
    let folder = tempfile::tempdir().expect("a directory");
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).expect("a file");
        Texts {
            file: path,
            text: "text".into(),
        }
    };
    let chat = Chat::load(&directory("tests/fixtures/tiny-llama2")).expect("a tokenizer");
    let lines = file("a.txt", "one\n\n two \n");
    let rows = file("a.csv", "text,other\none,x\ntwo,y\n");
    for from in [&lines, &rows] {
        assert_eq!(texts(from).expect("texts"), ["one", "two"]);
    }
    let tokens = |text: &str| chat.encode(text).expect("tokens");
    let all = |from| sequences(&chat, from).expect("tokens");
    assert_eq!(all(&lines), [tokens("one\n\n two \n")]);
    assert_eq!(all(&rows), [tokens("one"), tokens("two")]);
    let message = texts(&file("b.txt", " \n"))
        .expect_err("no text")
        .to_string();
    assert!(
        message.contains("b.txt: file: expected text, found none"),
        "{message}"
    );
    let message = texts(&file("b.csv", "words\none\n")).expect_err("no column");
    assert!(message.to_string().contains("column `text`"), "{message}");
}
