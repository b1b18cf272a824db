//! The architectures that are supported, and how Hugging Face calls them.

use std::fmt;

/// An architecture of decoder. All share the block of a Llama; what differs is in the
/// configuration: biases, norms of heads, a sliding window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// Llama 2, 3, 3.1, 3.2 and all that calls itself a Llama.
    Llama,
    /// Mistral: attention may see a sliding window only.
    Mistral,
    /// Qwen2 and Qwen2.5: q, k and v have biases.
    Qwen2,
    /// Qwen3: every head of q and k is normalised before it is rotated.
    Qwen3,
}

impl Architecture {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3];

    /// The name that `architectures` of a `config.json` holds.
    pub fn class(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
        }
    }

    /// The name that `model_type` of a `config.json` holds.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    /// The architecture whose [`class`](Self::class) or [`model_type`](Self::model_type) is
    /// `name`.
    pub fn named(name: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|a| a.class() == name || a.model_type() == name)
    }

    /// Whether every head of q and k is normalised before it is rotated.
    pub fn normalises_heads(self) -> bool {
        self == Self::Qwen3
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.model_type())
    }
}
