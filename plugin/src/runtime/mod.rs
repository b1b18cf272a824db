//! mistral.rs itself: what this crate asks to load a model or to answer, apart from the
//! hooked decoder. [`load`] knows the traps of loading, [`message`] those of its messages.

mod adapters;
mod engine;
mod load;
mod message;
mod shared;

pub use engine::Engine;
pub use load::Loaded;
pub(crate) use load::{on_own_thread, pipeline, start};
pub(crate) use message::{said, without_backtrace};
pub use shared::SharedEngine;
