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
    let wrong = |expected: &str, found: String| {
        Error::input(&from.file, "file", expected, found, "give another file")
    };
    let text = String::from_utf8(files::read(&from.file)?);
    let text = text.map_err(|e| wrong("text in UTF-8", e.utf8_error().to_string()))?;
    match text.trim().is_empty() {
        true => Err(wrong("text", "none".into())),
        false => Ok(text),
    }
}

#[cfg(test)]
mod tests;
