//! Sizes and identity of a model, and the names and shapes of its weights.

use super::architecture::Architecture;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Sizes and identity of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSpec {
    /// How the user names it: a directory or a hub id.
    pub name: String,
    /// Hash of configuration and tokenizer: the same for a model and for its
    /// tuned, merged and quantized descendants.
    pub fingerprint: String,
    /// Its architecture.
    pub architecture: Architecture,
    /// The same as earlier versions computed it, from the bytes of tokenizer.json: files that
    /// they wrote are still taken.
    pub former_fingerprint: String,
    /// Number of blocks, L.
    pub layers: usize,
    /// Width of the residual stream, H.
    pub hidden: usize,
    /// Width inside the MLP.
    pub intermediate: usize,
    /// Attention heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Vocabulary size, V.
    pub vocab: usize,
    /// Longest sequence.
    pub context: usize,
}

impl ModelSpec {
    /// Whether `fingerprint` is that of this model.
    pub fn is(&self, fingerprint: &str) -> bool {
        let known = [&*self.fingerprint, &*self.former_fingerprint];
        !fingerprint.is_empty() && known.contains(&fingerprint)
    }

    /// Checks that every layer exists.
    ///
    /// # Errors
    /// When one does not.
    pub fn check_layers(&self, layers: &[usize]) -> Result<()> {
        let Some(l) = layers.iter().find(|l| **l >= self.layers) else {
            return Ok(());
        };
        let (name, layers) = (&self.name, self.layers);
        let (expected, found) = (format!("layers 0 to {}", layers - 1), format!("layer {l}"));
        let hint = format!("{name} has {layers} blocks, counted from 0");
        Err(Error::value("layers", expected, found, hint))
    }
}

/// A linear layer of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum ModuleKind {
    QProj,
    KProj,
    VProj,
    OProj,
    GateProj,
    UpProj,
    DownProj,
}

impl ModuleKind {
    /// All, in the order of a UQFF file.
    pub const ALL: [Self; 7] = [
        Self::QProj,
        Self::KProj,
        Self::VProj,
        Self::OProj,
        Self::GateProj,
        Self::UpProj,
        Self::DownProj,
    ];

    /// Path below `model.layers.{i}`.
    pub fn path(self) -> &'static str {
        match self {
            Self::QProj => "self_attn.q_proj",
            Self::KProj => "self_attn.k_proj",
            Self::VProj => "self_attn.v_proj",
            Self::OProj => "self_attn.o_proj",
            Self::GateProj => "mlp.gate_proj",
            Self::UpProj => "mlp.up_proj",
            Self::DownProj => "mlp.down_proj",
        }
    }

    /// Shape (O, I) of its weight.
    pub fn shape(self, m: &ModelSpec) -> (usize, usize) {
        match self {
            Self::QProj => (m.heads * m.head_dim, m.hidden),
            Self::KProj | Self::VProj => (m.kv_heads * m.head_dim, m.hidden),
            Self::OProj => (m.hidden, m.heads * m.head_dim),
            Self::GateProj | Self::UpProj => (m.intermediate, m.hidden),
            Self::DownProj => (m.hidden, m.intermediate),
        }
    }
}

/// A weight of a block, such as `model.layers.7.self_attn.o_proj`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetModule {
    /// 0-based block.
    pub layer: usize,
    /// Which of its weights.
    pub kind: ModuleKind,
}

impl TargetModule {
    /// Parses a module path such as `model.layers.7.self_attn.o_proj`.
    pub fn parse(path: &str) -> Option<Self> {
        let (layer, rest) = path.strip_prefix("model.layers.")?.split_once('.')?;
        let kind = ModuleKind::ALL.into_iter().find(|p| p.path() == rest)?;
        let layer = layer.parse().ok()?;
        Some(Self { layer, kind })
    }
}

impl fmt::Display for TargetModule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "model.layers.{}.{}", self.layer, self.kind.path())
    }
}
