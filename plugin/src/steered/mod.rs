//! Steering and tuning on mistral.rs's own builder.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use mistralrs::{IsqType, TextModelBuilder};
//! use reptune::{Steer, Steering};
//!
//! let model = TextModelBuilder::new("meta-llama/Llama-2-13b-chat-hf")
//!     .with_isq(IsqType::Q8_0)
//!     .steered(Steering::from_file("honesty.safetensors")?.layers(11..=17).total(19.0))
//!     .build()
//!     .await?;
//! # Ok(())
//! # }
//! ```
//!
//! mistral.rs itself loads the model as its builder says (quantization, dtype, adapter) and
//! writes it as a UQFF. The entries that get a bias of [`bake`](crate::bake) are copied to a small
//! file, and the same builder loads both, of which the later one counts. So no setting has to be
//! repeated, what is not steered keeps its bits, and doses share their weights.
//!
//! A chat that is sent to the model as messages is rendered by mistral.rs 0.8.1. What is measured and
//! served elsewhere has the tokens of transformers; [`Chat::prompt`](crate::Chat::prompt) gives them,
//! and `RequestMessage::CompletionTokens` sends them.
//!
//! The files are kept in the [`Store`](crate::store::Store). The settings of a builder can be
//! read only after it has loaded, so the first build loads twice. Later builds assume that
//! nothing has changed, load both files, and compare: a builder with other settings gets a file
//! of its own.

mod builder;
mod steering;
mod variant;

pub use crate::runtime::Loaded;
pub use builder::{Steer, Steered};
pub use reptune_adapters::Dose;
pub use steering::{Steering, SteeringFile};
pub use variant::Variant;
