//! The one error type of this crate.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

/// What can go wrong between a model on disk and its output.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or a value of reptune-adapters is wrong.
    #[error(transparent)]
    Adapters(#[from] reptune_adapters::Error),
    /// A recipe, its data or a stage failed.
    #[error(transparent)]
    Recipes(#[from] reptune_recipes::Error),
    /// A tensor operation of candle failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// An intervention cannot be written into weights exactly.
    #[error("cannot bake {what}: {reason}")]
    Bake {
        /// The intervention.
        what: String,
        /// Why not, and what to do instead.
        reason: String,
    },
    /// The hub could not deliver a model.
    #[error("model `{model}`: {reason}")]
    Hub {
        /// The id that the user gave.
        model: String,
        /// What happened, and what to try.
        reason: String,
    },
    /// A part of this program or of a library panicked.
    #[error("{place} panicked: {reason}; this is an error of the program")]
    Panic {
        /// What was being done.
        place: String,
        /// The message.
        reason: String,
    },
    /// mistral.rs refused a model or a request.
    #[error("mistral.rs: {place}: {reason}")]
    Runtime {
        /// The model or request.
        place: String,
        /// Its message.
        reason: String,
    },
}

/// Results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Does `work`; a panic in it becomes an error about `place`.
pub(crate) fn caught<T>(place: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        Err(Error::Panic {
            place: place.to_owned(),
            reason: panic_text(&*panic),
        })
    })
}

/// The message of a panic.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("without a message").to_owned()
}

impl Error {
    /// A model on disk is wrong: `place` in `path` held `found` instead of `expected`.
    pub fn model(
        path: impl Into<PathBuf>,
        place: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        reptune_adapters::Error::content(path, place, expected, found, hint).into()
    }
}
