//! The one error type of this crate.

use std::path::PathBuf;

/// What can go wrong with an artefact, an intervention or a low-rank update.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor operation of candle failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file was read, but its content is not what it should be.
    #[error("{path}: {place}: expected {expected}, found {found}; {hint}")]
    Content {
        /// The file.
        path: PathBuf,
        /// Where in it: a tensor, a key, a line.
        place: String,
        /// What should have been there.
        expected: String,
        /// What was there.
        found: String,
        /// What to try next.
        hint: String,
    },
    /// A value given by the user does not fit.
    #[error("{what}: expected {expected}, found {found}; {hint}")]
    Value {
        /// The name of the value.
        what: String,
        /// What would fit.
        expected: String,
        /// What was given.
        found: String,
        /// What to try next.
        hint: String,
    },
    /// The thing exists in the wild, but is not taken here.
    #[error("{what} is not supported: {reason}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// Why not, and what to do instead.
        reason: String,
    },
}

/// Results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An [`Error::Io`] at `path`.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io {
            path: path.into(),
            source,
        }
    }

    /// An [`Error::Content`]: `place` in `path` held `found` instead of `expected`.
    pub fn content(
        path: impl Into<PathBuf>,
        place: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self::Content {
            path: path.into(),
            place: place.into(),
            expected: expected.into(),
            found: found.into(),
            hint: hint.into(),
        }
    }

    /// An [`Error::Value`]: `what` was `found` where `expected` was needed.
    pub fn value(
        what: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self::Value {
            what: what.into(),
            expected: expected.into(),
            found: found.into(),
            hint: hint.into(),
        }
    }
}
