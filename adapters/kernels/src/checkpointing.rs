//! Whether a forward keeps its activations for the backward or computes them again.

/// What a forward keeps for its backward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GradientCheckpointing {
    /// Everything.
    #[default]
    Off,
    /// The input of every block; the backward runs each block again.
    On,
}
