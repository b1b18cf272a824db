//! Constants of the format.

/// The first four bytes.
pub const MAGIC: [u8; 4] = *b"GGUF";

/// Metadata key of what the file is for.
pub const ARCHITECTURE: &str = "general.architecture";

/// Metadata key of the multiple at which every tensor's data starts.
pub(super) const ALIGNMENT: &str = "general.alignment";

/// Alignment where the metadata has none.
pub(super) const USUAL_ALIGNMENT: u64 = 32;

/// Most dims of a tensor.
pub(super) const MOST_DIMS: usize = 4;

/// Longest name of a tensor that llama.cpp takes: its buffer has 64 bytes.
pub(super) const LONGEST_NAME: usize = 63;
