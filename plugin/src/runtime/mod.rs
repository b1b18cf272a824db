//! mistral.rs itself: `load` loads a model, with the traps of loading, and `request` asks it. The
//! hooked decoder does not come through here.

mod engine;
mod load;
mod request;
mod shared;

pub use engine::Engine;
pub use load::Loaded;
pub(crate) use load::{on_own_thread, pipeline, start, without_backtrace};
pub(crate) use request::{chat, complete};
pub use shared::SharedEngine;
