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
    #[error("{path}: {place}: expected {expected}, found {found}; {hint}")]
    NotFinite {
        /// The metrics or the checkpoint of the run.
        path: PathBuf,
        /// Which step, and whose number.
        place: String,
        /// What should have been there.
        expected: String,
        /// What was there.
        found: String,
        /// What to try next.
        hint: String,
    },
    /// A report could not be made.
    #[error(transparent)]
    Report(#[from] reptune_report::Error),
    /// A place in a user's file is wrong.
    #[error("{path}: {place}: expected {expected}, found {found}; {hint}")]
    Input {
        /// The file.
        path: PathBuf,
        /// Where in it: a line, a key, a column.
        place: String,
        /// What should have been there.
        expected: String,
        /// What was there.
        found: String,
        /// What to try next.
        hint: String,
    },
    /// A service that was asked over the network failed.
    #[error("{endpoint}: {place}: expected {expected}, found {found}; {hint}")]
    Service {
        /// Its address.
        endpoint: String,
        /// What was asked of it.
        place: String,
        /// What should have come back.
        expected: String,
        /// What came back, without any key.
        found: String,
        /// What to try next.
        hint: String,
    },
}

/// Results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An [`Error::Input`]: `place` in `path` held `found` instead of `expected`.
    pub fn input(
        path: impl Into<PathBuf>,
        place: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self::Input {
            path: path.into(),
            place: place.into(),
            expected: expected.into(),
            found: found.into(),
            hint: hint.into(),
        }
    }
}
