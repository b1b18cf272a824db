//! The hooked Llama: a forward over a [prefix-tree batch](reptune_adapters::PrefixTree) whose
//! residual stream can be read, changed and differentiated, on mistral.rs's own weights and
//! layers.
//!
//! mistral.rs quantizes the weights, multiplies with them (its
//! [`QuantMethod`](mistralrs_quant::QuantMethod)s, so every quantization it knows) and gives the
//! rotary angles. Norm, rotation, attention and activation are this project's ops, which have a
//! backward.

mod block;
mod llama;
mod load;
mod rotation;
mod rows;
mod stream;

pub use llama::Llama;
pub use load::{LoadOptions, parse_device, parse_dtype, parse_isq};
pub(crate) use stream::{Stream, shared_input};
