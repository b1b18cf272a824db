//! The one error type of this crate.

/// What can go wrong with a report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A table or the page could not be written.
    #[error("report, {part}: {reason}")]
    Write {
        /// The table, or the page.
        part: String,
        /// What failed.
        reason: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Two inputs do not fit together.
    #[error("{place}: expected {expected}, found {found}; {hint}")]
    Mismatch {
        /// Which inputs.
        place: String,
        /// How many there should have been.
        expected: String,
        /// How many there were.
        found: String,
        /// What to do.
        hint: String,
    },
}

/// Results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An [`Error::Write`] of `part`.
    pub(crate) fn write(
        part: &str,
        reason: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Write {
            part: part.into(),
            reason: reason.into(),
        }
    }
}

/// Refuses `found` where `expected` (a number, then words) is needed.
pub(crate) fn same_number(
    place: &str,
    (expected, of): (usize, &str),
    found: usize,
    hint: &str,
) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(Error::Mismatch {
        place: place.into(),
        expected: format!("{expected} {of}"),
        found: found.to_string(),
        hint: hint.into(),
    })
}
