//! Import and export of directions.
//!
//! GGUF control vectors (llama.cpp, repeng, EasySteer, GLP) and `.svec` files are read and
//! written. Layers are converted to ours, the output of block i counted from 0; what a
//! format cannot hold is refused or listed in [`Read::notes`].

pub mod control_vector;
pub mod svec;
mod vectors;

pub use vectors::Read;

use crate::error::Result;
use crate::formats::gguf::Gguf;
use crate::steering::direction::DirectionSet;
use crate::steering::operator::Operator;
use std::path::Path;

/// Reads directions of any kind, by the file's content: ours, a GGUF control vector or a
/// `.svec` file.
///
/// # Errors
/// Those of [`DirectionSet::load`], [`control_vector::read`] and [`svec::read`].
pub fn open_directions(path: &Path) -> Result<DirectionSet> {
    open_directions_for(path, Operator::Add)
}

/// [`open_directions`] for `operator`: vectors that a file says are to be projected out are
/// read for [`Operator::Ablate`] only.
///
/// # Errors
/// Those of [`open_directions`].
pub fn open_directions_for(path: &Path, operator: Operator) -> Result<DirectionSet> {
    Ok(read(path, 0, operator)?.set)
}

/// Directions as [`open_directions_for`] reads them, with `offset` added to the layer numbers of
/// a file of another program: layer i of the file is our layer i + offset.
///
/// # Errors
/// Those of [`open_directions`]; when the offset moves a layer below 0, or is given for a
/// direction file of reptune.
pub fn read(path: &Path, offset: i64, operator: Operator) -> Result<Read> {
    if Gguf::is_one(path) {
        return control_vector::read(path, offset, operator);
    }
    if svec::is_one(path)? {
        return svec::read(path, offset);
    }
    vectors::no_offset(offset)?;
    let (set, notes) = (DirectionSet::load(path)?, Vec::new());
    Ok(Read { set, notes })
}

#[cfg(test)]
mod tests;
