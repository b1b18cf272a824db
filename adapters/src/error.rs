//! The error type of this crate. Each variant says where, what was expected, what was found
//! and what to try next; causes are kept.

use std::path::PathBuf;

/// What can go wrong with a file, an intervention or an adapter.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor operation of candle failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// A file could not be read.
    #[error("cannot read {path}: {reason}; {}", hint(reason))]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The error of the system.
        reason: std::io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {path}: {reason}; {}", hint(reason))]
    Write {
        /// The file or directory, under its final name.
        path: PathBuf,
        /// The error of the system.
        reason: std::io::Error,
    },
    /// The content of a file is wrong.
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
    /// A value from the user does not fit.
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
    /// Valid elsewhere, but not supported here.
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
    /// An [`Error::Read`] of `path`.
    pub fn read(path: impl Into<PathBuf>, reason: std::io::Error) -> Self {
        Self::Read {
            path: path.into(),
            reason,
        }
    }

    /// An [`Error::Write`] of `path`.
    pub fn write(path: impl Into<PathBuf>, reason: std::io::Error) -> Self {
        Self::Write {
            path: path.into(),
            reason,
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

/// What to try after an error of the system.
fn hint(reason: &std::io::Error) -> &'static str {
    use std::io::ErrorKind as Kind;
    match reason.kind() {
        Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => {
            "free some space, or choose another disk; nothing was left behind"
        }
        Kind::PermissionDenied | Kind::ReadOnlyFilesystem => {
            "change the permissions, or choose another directory"
        }
        Kind::NotFound => "check the path",
        _ => "check the file and its disk",
    }
}
