//! mistral.rs itself: `load` loads a model, with the traps of loading, `differs` refuses what it
//! would compute wrongly, and `engine` asks it. The hooked decoder does not come through here.

mod differs;
mod engine;
mod load;
mod shared;
mod view;

pub(crate) use differs::{check, check_uqff};
pub use engine::Engine;
pub(crate) use engine::complete;
pub use load::Loaded;
pub(crate) use load::{on_own_thread, pipeline, start, without_backtrace};
pub use shared::SharedEngine;
