//! The text of a user's file, whatever Unicode encoding it has.

use crate::error::{Error, Result};
use reptune_adapters::files;
use std::path::Path;

/// Encodings that are told by their first bytes and not read, as iconv calls them.
const OTHERS: [(&[u8], &str); 2] = [
    (&[0xff, 0xfe, 0, 0], "UTF-32"),
    (&[0, 0, 0xfe, 0xff], "UTF-32"),
];

/// The text of the file at `path`: UTF-8, or UTF-16 that starts with a byte order mark. The
/// mark is no part of the text.
///
/// # Errors
/// When the file cannot be read, or has another encoding: names the first line that shows it.
pub fn read_text(path: &Path) -> Result<String> {
    let bytes = files::read(path)?;
    let wrong = |before: &[u8], found: String, encoding: &str| {
        let line = 1 + before.iter().filter(|b| **b == b'\n').count();
        let expected = "text in UTF-8, or in UTF-16 with a byte order mark";
        let hint = format!(
            "convert it: iconv -f {encoding} -t UTF-8 {} > NEW",
            path.display()
        );
        Error::input(path, format!("line {line}"), expected, found, hint)
    };
    let other = OTHERS.iter().find(|(start, _)| bytes.starts_with(start));
    if let Some((_, name)) = other {
        return Err(wrong(&[], (*name).into(), name));
    }
    let word: Option<fn([u8; 2]) -> u16> = match bytes.get(..2) {
        Some([0xff, 0xfe]) => Some(u16::from_le_bytes),
        Some([0xfe, 0xff]) => Some(u16::from_be_bytes),
        _ => None,
    };
    if let Some(word) = word {
        let (pairs, rest) = bytes[2..].as_chunks::<2>();
        let words: Vec<u16> = pairs.iter().map(|pair| word(*pair)).collect();
        return match String::from_utf16(&words) {
            Ok(text) if rest.is_empty() => Ok(text),
            _ => Err(wrong(&[], "damaged UTF-16".into(), "UTF-16")),
        };
    }
    if let Some(nul) = bytes.iter().position(|b| *b == 0) {
        let found = "a NUL, as in UTF-16 without a byte order mark".to_owned();
        let encoding = if nul % 2 == 0 { "UTF-16BE" } else { "UTF-16LE" };
        return Err(wrong(&bytes[..nul], found, encoding));
    }
    let start = if bytes.starts_with(b"\xef\xbb\xbf") {
        3
    } else {
        0
    };
    match std::str::from_utf8(&bytes[start..]) {
        Ok(text) => Ok(text.to_owned()),
        Err(e) => {
            let at = start + e.valid_up_to();
            let found = match bytes[at] {
                byte @ 0xa0.. => format!("byte 0x{byte:02X}, `{}` in Latin-1", char::from(byte)),
                byte => format!("byte 0x{byte:02X}"),
            };
            Err(wrong(&bytes[..at], found, "WINDOWS-1252"))
        }
    }
}
