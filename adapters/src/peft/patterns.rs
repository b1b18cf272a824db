//! `rank_pattern` and `alpha_pattern`: numbers for some modules, by regular expression.

use crate::error::{Error, Result};
use regex::Regex;
use serde_json::Value;
use std::path::Path;

/// Longest expression that is taken; PEFT's own are module names.
const LONGEST: usize = 4096;

/// Expressions with their numbers, in the order of the file.
#[derive(Debug, Default)]
pub(super) struct Patterns(Vec<(Regex, f64)>);

impl Patterns {
    /// Reads `config[key]`, whose numbers must pass `fits`, which is said as `expected`.
    ///
    /// PEFT matches with Python's `re`. What Rust's `regex` does not know (looking around,
    /// back references) or would read otherwise (set operations within brackets) is refused.
    pub(super) fn read(
        path: &Path,
        config: &Value,
        key: &str,
        expected: &str,
        fits: impl Fn(&Value) -> Option<f64>,
    ) -> Result<Self> {
        let wrong = |place: String, expected: &str, found: String| {
            Error::content(path, place, expected, found, "write the adapter again")
        };
        let table = match &config[key] {
            Value::Null => return Ok(Self::default()),
            Value::Object(table) => table,
            other => {
                let place = format!("key `{key}`");
                return Err(wrong(place, "modules and their numbers", other.to_string()));
            }
        };
        let one = |(pattern, value): (&String, &Value)| {
            let place = || format!("key `{key}`, pattern `{}`", shortened(pattern));
            let number = fits(value).ok_or_else(|| wrong(place(), expected, value.to_string()))?;
            let otherwise = ["[[", "&&", "--", "~~"]
                .into_iter()
                .find(|sign| pattern.contains(sign));
            let read = match otherwise {
                _ if pattern.len() > LONGEST => Err(format!("{} bytes", pattern.len())),
                Some(sign) => Err(format!("`{sign}`, which Python reads in another way")),
                None => Regex::new(&format!(r"^(?:.*\.)?(?:{pattern})$"))
                    .map_err(|e| e.to_string().lines().last().unwrap_or_default().to_owned()),
            };
            let hint = "name the modules by their paths, or merge the adapter with PEFT";
            let expected = "a regular expression without looking around or back references";
            let read = read.map_err(|e| Error::content(path, place(), expected, e, hint))?;
            Ok((read, number))
        };
        Ok(Self(table.iter().map(one).collect::<Result<_>>()?))
    }

    /// The number of the first expression that matches `module` from its start or after
    /// one of its dots.
    pub(super) fn of(&self, module: &str) -> Option<f64> {
        self.at(module).map(|(_, number)| *number)
    }

    fn at(&self, module: &str) -> Option<&(Regex, f64)> {
        self.0.iter().find(|(pattern, _)| pattern.is_match(module))
    }

    /// Before 0.15, PEFT looked up both numbers of a module under the expression that is the
    /// first of both tables to match: what that gives for `self` as the second table.
    pub(super) fn of_after(&self, first: &Self, module: &str) -> Option<f64> {
        match first.at(module) {
            None => self.of(module),
            Some((pattern, _)) => {
                let same = |(own, _): &&(Regex, f64)| own.as_str() == pattern.as_str();
                self.0.iter().find(same).map(|(_, number)| *number)
            }
        }
    }
}

fn shortened(pattern: &str) -> String {
    pattern.chars().take(80).collect()
}
