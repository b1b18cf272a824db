//! Entries that are in use: whoever holds one has a shared lock on its directory, which the
//! system releases when the process ends.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The locks of a store and of its clones.
#[derive(Debug, Clone, Default)]
pub(super) struct Held(Arc<Mutex<BTreeMap<PathBuf, File>>>);

impl Held {
    /// Holds the entry in `directory`. Where the disk has no locks, nothing is removed either.
    pub(super) fn hold(&self, directory: &Path) {
        let open = File::open(directory);
        if let Ok(open) = open.and_then(|open| open.lock_shared().map(|()| open)) {
            let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            held.insert(directory.to_owned(), open);
        }
    }

    /// A lock of which nobody else holds one as long as it lives; none if somebody does.
    pub(super) fn alone(directory: &Path) -> Option<File> {
        let open = File::open(directory).ok()?;
        open.try_lock().ok().map(|()| open)
    }
}
