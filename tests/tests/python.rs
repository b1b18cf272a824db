//! Runs a script of `tests/` in the Python environment of the outside oracle.
//!
//! A test that calls this is marked
//! `#[cfg_attr(not(oracle), ignore = "needs REPTUNE_PYTHON, see tests/README.md")]`.

use anyhow::{Context, Result, ensure};
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

/// Runs `script`, seen from `tests/`.
///
/// # Errors
/// When `REPTUNE_PYTHON` is not set, and when the script fails: with what it printed.
pub fn run(script: &str, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<()> {
    let python = std::env::var_os("REPTUNE_PYTHON").context(
        "REPTUNE_PYTHON is not set; run `tests/oracle/install DIR` and set it to DIR/bin/python",
    )?;
    let output = Command::new(&python)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(script))
        .args(arguments)
        .output()
        .with_context(|| python.display().to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{script}: {said}");
    Ok(())
}
