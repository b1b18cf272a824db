//! What mistral.rs says when something fails.

use crate::error::Error;

/// An [`Error::Runtime`] about the model or the request `place`.
pub(super) fn failed(place: impl Into<String>, reason: &str) -> Error {
    Error::Runtime {
        place: place.into(),
        reason: without_backtrace(reason).to_owned(),
    }
}

/// A message without the backtrace that candle appends when RUST_BACKTRACE is set.
pub(crate) fn without_backtrace(reason: &str) -> &str {
    reason.split("\n   0: ").next().unwrap_or_default()
}
