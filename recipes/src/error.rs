//! The one error type of this crate.

use std::path::PathBuf;

/// What can go wrong with a recipe, its data, or a stage of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An artefact or a value does not fit.
    #[error(transparent)]
    Adapters(#[from] reptune_adapters::Error),
    /// A tensor operation of candle failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// Another runtime that was asked failed.
    #[error(transparent)]
    Runtime(Box<dyn std::error::Error + Send + Sync>),
    /// A number of a run is not finite, so that the run cannot go on.
    #[error(transparent)]
    NotFinite(reptune_adapters::Error),
    /// Steering acts on no token that is scored, so its effect cannot be read there.
    #[error(transparent)]
    Unsteered(reptune_adapters::Error),
    /// A report could not be made.
    #[error(transparent)]
    Report(#[from] reptune_report::Error),
}

/// Results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// `place` in the user's file `path` holds `found` instead of `expected`.
    pub fn input(
        path: impl Into<PathBuf>,
        place: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        reptune_adapters::Error::content(path, place, expected, found, hint).into()
    }

    /// The positions `rule` choose no token from which `what` is read.
    pub(crate) fn unsteered(what: &str, rule: &str) -> Self {
        Self::Unsteered(reptune_adapters::Error::value(
            format!("{what} under steering"),
            "positions of a token that is scored, or of one before it",
            format!("`{rule}`: no scored position is steered"),
            "the first token of an answer is predicted at the last prompt token; steer at \
             `all` or `last:1`, or compare what is generated",
        ))
    }

    /// The value `what` is `found` where `expected` is needed.
    pub(crate) fn value(
        what: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        reptune_adapters::Error::value(what, expected, found, hint).into()
    }
}
