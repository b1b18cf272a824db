//! What an artefact holds, with its hashes checked: one table of kinds and their readers.
//!
//! A file with a wrong hash is an error. What carries no hash says so.

mod directory;
mod file;
mod inspection;

pub use inspection::Inspection;

use crate::error::{Error, Result};
use crate::stages;
use reptune_adapters::formats::gguf::Gguf;
use std::path::Path;

/// A kind of artefact: how it is recognized, and what reads it.
type Kind = (
    fn(&Path) -> bool,
    fn(&Path, &mut dyn FnMut(usize, usize)) -> Result<Inspection>,
);

/// The first kind that is recognized is read.
const KINDS: [Kind; 10] = [
    (directory::is_adapter, |path, _| directory::adapter(path)),
    (|p| p.join(stages::FILE).is_file(), |p, _| directory::run(p)),
    (|p| p.join("config.json").is_file(), directory::model),
    (file::is_directions, |path, _| file::directions(path)),
    (file::is_adapter, |path, _| {
        directory::adapter(&path.with_file_name("."))
    }),
    (|p| file::ends(p, "safetensors"), |p, _| file::tensors(p)),
    (|path| file::ends(path, "uqff"), file::uqff),
    (file::is_control_vector, |p, _| file::foreign_directions(p)),
    (Gguf::is_one, |path, _| file::gguf(path)),
    (
        |p| file::ends(p, "svec"),
        |p, _| file::foreign_directions(p),
    ),
];

/// Describes what lies at `path`: a file or a directory. `progress` is called with how much
/// of a large file is read, and of how much.
///
/// # Errors
/// When the path holds no artefact of a known kind, or a hash, a header or a shape is wrong.
pub fn inspect(path: &Path, progress: &mut dyn FnMut(usize, usize)) -> Result<Inspection> {
    if let Some((_, read)) = KINDS.iter().find(|(is, _)| is(path)) {
        return read(path, progress);
    }
    let (place, expected, found, hint) = match (path.is_file(), path.is_dir()) {
        (true, _) => (
            "file",
            ".safetensors, .uqff, .gguf, .svec, or a directory",
            "another kind of file",
            "inspect the directory that it lies in",
        ),
        (_, true) => (
            "directory",
            "an adapter, a model, a UQFF or a run",
            "none of their files",
            "inspect what lies in it",
        ),
        _ => (
            "file or directory",
            "an artefact",
            "nothing",
            "check the path",
        ),
    };
    Err(Error::model(path, place, expected, found, hint))
}
