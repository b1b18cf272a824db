//! Adapters as PEFT directories: `adapter_config.json` and `adapter_model.safetensors`, as
//! Hugging Face PEFT and mistral.rs load them.
//!
//! Everything that PEFT writes is read: several ranks and alphas (`rank_pattern`,
//! `alpha_pattern`), rank-stabilised scales, any float dtype, a named adapter. Only one rank
//! and one scale are written, because mistral.rs reads no more; see [`save`].
//!
//! `fan_in_fan_out` means that a *base* weight is stored (I, O), as in GPT-2. The factors
//! on disk are A (R, I) and B (O, R) either way, and PEFT ignores the key for
//! `torch.nn.Linear`, the only kind that a Llama has; so it changes nothing here.

mod config;
mod read;
mod write;

pub use write::save;

use self::config::{CONFIG, WEIGHTS};
use crate::error::{Error, Result};
use crate::lora::adapter::Adapter;
use crate::lora::delta_file;
use crate::model::ModelSpec;
use std::path::{Path, PathBuf};

/// Writes `adapter` into `directory`: as PEFT where PEFT has a form for it, else as
/// [`delta_file::FILE`]. What an earlier adapter left there in the other form is removed.
///
/// # Errors
/// Those of [`save`] and [`delta_file::save`].
pub fn save_adapter(directory: &Path, adapter: &Adapter, model: &ModelSpec) -> Result<()> {
    let other: &[&str] = if adapter.modules.values().any(|d| d.full.is_some()) {
        delta_file::save(directory, adapter, model)?;
        &[CONFIG, WEIGHTS]
    } else {
        save(directory, adapter, &model.name)?;
        &[delta_file::FILE]
    };
    for name in other {
        let path = directory.join(name);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::write(path, e));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Reads a PEFT directory for `model`, or one that [`delta_file`] wrote.
///
/// # Errors
/// Those of [`read`]; when it does not fit the model.
pub fn load(directory: &Path, model: &ModelSpec) -> Result<Adapter> {
    if directory.join(delta_file::FILE).is_file() && !directory.join(CONFIG).exists() {
        return delta_file::load(directory, model);
    }
    let directory = locate(directory)?;
    let adapter = read::read(&directory)?;
    adapter.check_model(&directory.join(WEIGHTS), model)?;
    Ok(adapter)
}

/// Reads a PEFT directory, whatever model it is for.
///
/// # Errors
/// When it is not plain LoRA (errors say what it is), or its tensors do not fit its
/// configuration.
pub fn read(directory: &Path) -> Result<Adapter> {
    read::read(&locate(directory)?)
}

/// Where the adapter lies: in `directory`, or, as PEFT writes one that is not called
/// "default", in a sub-directory of its name, if there is only one.
///
/// # Errors
/// When there are several; when `directory` cannot be read.
pub fn locate(directory: &Path) -> Result<PathBuf> {
    if directory.join(CONFIG).is_file() {
        return Ok(directory.to_owned());
    }
    let entries = std::fs::read_dir(directory).map_err(|e| Error::read(directory, e))?;
    let mut named: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join(CONFIG).is_file())
        .collect();
    named.sort();
    match named.len() {
        // Reading it says that the file is missing.
        0 => Ok(directory.to_owned()),
        1 => Ok(named.remove(0)),
        _ => {
            let names = named.iter().filter_map(|p| p.file_name());
            let names: Vec<_> = names.map(|n| n.to_string_lossy()).collect();
            Err(Error::content(
                directory,
                "adapter",
                format!("{CONFIG}, here or in one sub-directory"),
                format!("several adapters: {}", names.join(", ")),
                "give the sub-directory of one of them",
            ))
        }
    }
}
