//! UQFF: the quantized model files of mistral.rs, read and written entry by entry.
//!
//! A `.uqff` is a safetensors file of U8 tensors whose names are indices in the
//! order of mistral.rs's `Llama::get_layers`: `0` the output head, then q, k, v,
//! o, gate, up, down of every block. Entries may be of different types, and each
//! may have a bias, which mistral.rs 0.8.1 adds also where the architecture knows
//! none. Embeddings and norms are in `residual.safetensors`, in the same directory.

mod directory;
mod entry;
mod file;
mod grid;
mod layout;
mod provenance;
mod weight_type;

pub use directory::{UqffDirectory, UqffWriter};
pub use entry::Entry;
pub use file::UqffFile;
pub(crate) use grid::Blocks;
pub use layout::Layout;
pub use provenance::{BakedSteering, UqffProvenance};
pub use weight_type::WeightType;

use reptune_adapters::model::ModuleKind;

/// Name of the file with the linear layers. Without `-0` at its end mistral.rs does
/// not take other files there for further shards.
pub const UQFF: &str = "model.uqff";
/// Index of the output head.
pub const HEAD: usize = 0;

/// Index of the entry of a linear layer.
pub fn index(layer: usize, kind: ModuleKind) -> usize {
    1 + 7 * layer + kind as usize
}
