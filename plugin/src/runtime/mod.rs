//! mistral.rs itself: what this crate asks to load a model or to answer, apart from the
//! hooked decoder. `load` is the one way to load, with its traps; `request` the one way to ask.

mod adapters;
mod engine;
mod load;
mod message;
mod request;
mod shared;

pub use engine::Engine;
pub use load::Loaded;
pub(crate) use load::{on_own_thread, pipeline, start};
pub(crate) use message::without_backtrace;
pub(crate) use request::{chat, complete};
pub use shared::SharedEngine;
