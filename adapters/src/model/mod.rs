//! What a model is to this crate: sizes, weights by name, the batch of tokens it runs on,
//! and the keys and values it keeps.

mod checkpointing;
mod kv_cache;
pub mod llama_cpp;
pub mod prefix_tree;
mod spec;

pub use checkpointing::GradientCheckpointing;
pub use kv_cache::KeyValueCache;
pub use prefix_tree::{Ancestors, PrefixTree, Span, TokenMask};
pub use spec::{ModelSpec, ModuleKind, TargetModule};
