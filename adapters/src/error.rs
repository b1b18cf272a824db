//! The error type of this crate: where, what was expected, what was found, what to try next.

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
        /// The error of the parser, if there was one.
        source: Option<Cause>,
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
        /// The error of the parser, if there was one.
        source: Option<Cause>,
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

/// The error behind an [`Error`].
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An [`Error::Read`] of `path`.
    pub fn read(path: impl Into<PathBuf>, reason: std::io::Error) -> Self {
        let path = path.into();
        Self::Read { path, reason }
    }

    /// An [`Error::Write`] of `path`.
    pub fn write(path: impl Into<PathBuf>, reason: std::io::Error) -> Self {
        let path = path.into();
        Self::Write { path, reason }
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
            source: None,
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
            source: None,
        }
    }

    /// An [`Error::Unsupported`].
    pub fn unsupported(what: impl Into<String>, reason: impl Into<String>) -> Self {
        let (what, reason) = (what.into(), reason.into());
        Self::Unsupported { what, reason }
    }

    /// The same error with `cause` as its source. The message stays as it is.
    pub fn caused_by(mut self, cause: impl Into<Cause>) -> Self {
        if let Self::Content { source, .. } | Self::Value { source, .. } = &mut self {
            *source = Some(cause.into());
        }
        self
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
