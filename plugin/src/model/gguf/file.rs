//! An open GGUF of a Llama: its metadata, with errors that name the file and the key.

use crate::error::{Error, Result};
use reptune_adapters::formats::gguf::{Gguf, Value as Field};
use std::path::Path;

/// An open GGUF of a Llama.
pub(super) struct GgufLlama {
    pub(super) file: Gguf,
}

impl GgufLlama {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let model = Self {
            file: Gguf::open(path)?,
        };
        let parts = model.value("split.count").and_then(whole);
        if let Some(parts) = parts.filter(|n| *n > 1) {
            let one = "1: join the parts with `llama-gguf-split --merge`";
            return Err(model.wrong("split.count", one, parts.to_string()));
        }
        match model.text("general.architecture")? {
            "llama" => Ok(model),
            other => Err(model.wrong(
                "general.architecture",
                "`llama`: other architectures are not taken",
                format!("`{other}`"),
            )),
        }
    }

    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    pub(super) fn value(&self, key: &str) -> Option<&Field> {
        self.file.value(key)
    }

    pub(super) fn text(&self, key: &str) -> Result<&str> {
        let text = self.value(key).and_then(|v| v.to_string().ok());
        let text = text.map(String::as_str);
        text.ok_or_else(|| self.wrong(key, "a text", self.shown(key)))
    }

    pub(super) fn texts(&self, key: &str) -> Result<Vec<&str>> {
        let list = self.value(key).and_then(|v| v.to_vec().ok());
        let texts = list.and_then(|l| {
            let each = l.iter().map(|v| v.to_string().ok().map(String::as_str));
            each.collect::<Option<Vec<_>>>()
        });
        texts.ok_or_else(|| self.wrong(key, "a list of texts", self.shown(key)))
    }

    /// A positive whole number. Lists with one number for every block are taken where all
    /// are the same.
    pub(super) fn count(&self, key: &str) -> Result<usize> {
        let found = match self.value(key) {
            Some(Field::Array(list)) => match list.split_first() {
                Some((first, rest)) if rest.iter().all(|v| whole(v) == whole(first)) => {
                    whole(first)
                }
                _ => None,
            },
            value => value.and_then(whole),
        };
        found.ok_or_else(|| self.wrong(key, "a positive whole number", self.shown(key)))
    }

    pub(super) fn number(&self, key: &str) -> Result<f64> {
        let value = self.value(key);
        let number = value.and_then(|v| {
            let short = v.to_f32().ok().map(|x| x.to_string().parse());
            short
                .and_then(std::result::Result::ok)
                .or_else(|| v.to_f64().ok())
        });
        let number = number.filter(|x: &f64| x.is_finite() && *x > 0.);
        number.ok_or_else(|| self.wrong(key, "a positive number", self.shown(key)))
    }

    /// What a field holds, in a few words.
    fn shown(&self, key: &str) -> String {
        match self.value(key) {
            None => "nothing".into(),
            Some(Field::Array(list)) => format!("a list of {}", list.len()),
            Some(value) => format!("{value:?}").chars().take(80).collect(),
        }
    }

    pub(super) fn wrong(&self, place: &str, expected: &str, found: String) -> Error {
        let hint = "fetch the file again, or convert the model anew";
        Error::model(
            self.file.path(),
            format!("`{place}`"),
            expected,
            found,
            hint,
        )
    }
}

/// A positive whole number, of whatever type.
fn whole(value: &Field) -> Option<usize> {
    let n = match value {
        Field::I8(n) => u64::try_from(*n).ok()?,
        Field::I16(n) => u64::try_from(*n).ok()?,
        Field::I32(n) => u64::try_from(*n).ok()?,
        Field::I64(n) => u64::try_from(*n).ok()?,
        other => other.to_u64().ok()?,
    };
    usize::try_from(n).ok().filter(|n| *n > 0)
}
