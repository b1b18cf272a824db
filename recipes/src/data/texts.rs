//! Texts that are only read: for perplexity, divergence and open questions.

use super::rows::DataFile;
use super::text::read_text;
use crate::chat::Chat;
use crate::error::{Error, Result};
use crate::recipe::Texts;

/// The texts of a file: the rows of a table (.csv, .tsv, .json, .jsonl), or the lines of a
/// .txt file that are not blank.
///
/// # Errors
/// When the file cannot be read, a column is missing, or there is no text.
pub fn texts(from: &Texts) -> Result<Vec<String>> {
    if !is_plain(from) {
        let file = DataFile::read(&from.file)?;
        let column = file.column(&from.text).unwrap_or(&from.text);
        return file.rows().map(|row| row.whole_text(column)).collect();
    }
    let whole = plain(from)?;
    let lines = whole.lines().map(str::trim).filter(|l| !l.is_empty());
    Ok(lines.map(str::to_owned).collect())
}

/// The texts as sequences of tokens (T,): a .txt file as one, everything else as one
/// for each text.
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
    let text = read_text(&from.file)?;
    match text.trim().is_empty() {
        true => {
            let (place, hint) = ("file", "give another file");
            Err(Error::input(&from.file, place, "text", "none", hint))
        }
        false => Ok(text),
    }
}

#[cfg(test)]
mod tests;
