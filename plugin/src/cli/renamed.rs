//! Commands and flags of earlier versions: typed today, they are answered with the new spelling.

use clap::error::{ContextKind, ContextValue, ErrorKind};

const COMMANDS: [(&str, &str); 5] = [
    ("select", "reptune sweep RECIPE.toml --select"),
    ("search", "reptune tune RECIPE.toml --search"),
    ("plan", "reptune tune RECIPE.toml --plan"),
    (
        "set-coeff",
        "reptune bake --coeffs C,.. (one small file for each dose)",
    ),
    ("bench", "cargo run -p reptune-bench"),
];

const FLAGS: [(&str, &str); 6] = [
    ("--isq", "--quantize"),
    ("--site", "--hook resid_pre|resid_mid|resid_post|everywhere"),
    (
        "--module",
        "--hook resid_pre|resid_mid|resid_post|everywhere",
    ),
    ("--rows", "--positions"),
    ("--way", "--rounding"),
    ("--gflops", "--measure"),
];

/// The new spelling of what `error` does not know.
pub fn hint(error: &clap::Error) -> Option<String> {
    let (place, known): (_, &[_]) = match error.kind() {
        ErrorKind::InvalidSubcommand => (ContextKind::InvalidSubcommand, &COMMANDS),
        ErrorKind::UnknownArgument => (ContextKind::InvalidArg, &FLAGS),
        _ => return None,
    };
    let Some(ContextValue::String(typed)) = error.get(place) else {
        return None;
    };
    let (old, new) = known.iter().find(|(old, _)| old == typed)?;
    Some(format!("`{old}` has been replaced by `{new}`"))
}
