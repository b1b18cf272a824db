//! What a model is to this crate: sizes, weights by name, the batch of tokens it runs on,
//! and the keys and values it keeps.

mod architecture;
mod kv_cache;
pub mod llama_cpp;
pub mod prefix_tree;
mod spec;

pub use architecture::Architecture;
pub use kv_cache::KeyValueCache;
pub use prefix_tree::{PrefixTree, TokenMask};
pub use reptune_kernels::{Ancestors, GradientCheckpointing, Span};
pub use spec::{ModelSpec, ModuleKind, TargetModule};
