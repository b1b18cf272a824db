//! Texts that are read, not asked.

use crate::chat::Chat;
use crate::data::DataFile;
use crate::error::{Error, Result};
use crate::recipe::Texts;
use reptune_adapters::files;

/// The texts of a file: the rows of a .csv or .jsonl file, or the lines of a .txt file
/// that are not blank.
///
/// # Errors
/// When the file cannot be read, a column is missing, or there is no text.
pub fn texts(from: &Texts) -> Result<Vec<String>> {
    if !is_plain(from) {
        return DataFile::read(&from.file)?.rows(|row| row.get(&from.text).map(str::to_owned));
    }
    let whole = plain(from)?;
    let lines = whole.lines().map(str::trim).filter(|l| !l.is_empty());
    Ok(lines.map(str::to_owned).collect())
}

/// The texts as sequences of tokens (T,): a .txt file as one, everything else as one
/// for each text.
///
/// # Errors
/// As [`texts`], and when the tokenizer fails.
pub fn sequences(chat: &Chat, from: &Texts) -> Result<Vec<Vec<u32>>> {
    if is_plain(from) {
        return Ok(vec![chat.encode(&plain(from)?)?]);
    }
    texts(from)?.iter().map(|text| chat.encode(text)).collect()
}

fn is_plain(from: &Texts) -> bool {
    from.file.extension().is_some_and(|e| e == "txt")
}

fn plain(from: &Texts) -> Result<String> {
    let wrong = |place: &str, expected: &str, found: String| {
        Error::input(&from.file, place, expected, found, "give another file")
    };
    let text = String::from_utf8(files::read(&from.file)?)
        .map_err(|e| wrong("file", "text in UTF-8", e.utf8_error().to_string()))?;
    if text.trim().is_empty() {
        return Err(wrong("file", "text", "none".into()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
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
}
