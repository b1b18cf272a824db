//! Keys of a `config.json`, read with errors that name them.

use crate::error::{Error, Result};
use serde_json::Value;
use std::path::Path;

/// A `config.json`, for messages that name its keys.
pub(super) struct ConfigFile<'a> {
    pub path: &'a Path,
    pub json: &'a Value,
}

impl ConfigFile<'_> {
    pub(super) fn error(&self, key: &str, expected: &str, found: String, hint: &str) -> Error {
        Error::model(self.path, format!("key `{key}`"), expected, found, hint)
    }

    /// Only a missing value has a default; one of another type is wrong.
    pub(super) fn field<T>(
        &self,
        key: &str,
        default: Option<T>,
        expected: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<T> {
        match (&self.json[key], default) {
            (Value::Null, Some(default)) => Ok(default),
            (value, _) => {
                let hint = "fetch the file again";
                read(value).ok_or_else(|| self.error(key, expected, value.to_string(), hint))
            }
        }
    }

    pub(super) fn number(&self, key: &str, default: Option<usize>) -> Result<usize> {
        let positive = |v: &Value| usize::try_from(v.as_u64()?).ok().filter(|n| *n > 0);
        self.field(key, default, "a positive whole number", positive)
    }

    /// A key that is true or false; false if it is left out.
    pub(super) fn truth(&self, key: &str) -> Result<bool> {
        self.field(key, Some(false), "true or false", Value::as_bool)
    }
}
