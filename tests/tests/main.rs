//! All integration tests in one binary: linking the runtime once takes less time and space than
//! linking it once for each file.
//!
//! `cargo test -p reptune-tests hostile::` runs the tests of one module.

mod architecture;
mod architectures;
mod bake_and_merge;
mod chats;
mod configs;
mod directories;
mod fixtures;
mod gguf_models;
mod honest_mini;
mod hostile;
mod interop;
mod invariants;
mod oracle;
mod parity;
mod python;
mod quantized_merge;
mod real;
mod steered;
