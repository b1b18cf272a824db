//! Baking: steering written into the weights of a UQFF, so that unmodified mistral.rs
//! applies it at every token.
//!
//! A block ends with `h + down_proj(x)`. mistral.rs 0.8.1 adds the bias of a UQFF entry to
//! the output of its layer, also where the architecture has no biases. Weights can express
//! exactly these interventions, see [`BakePlan`]:
//!
//! | intervention | weights |
//! |---|---|
//! | add `v` at `resid_post` of block l | bias `v` at `down_proj` of block l |
//! | add `v` at `resid_mid` of block l | bias `v` at `o_proj` of block l |
//! | add `v` at `resid_pre` of block l > 0 | bias `v` at `down_proj` of block l - 1 |
//! | add `v` at `resid_pre` of block 0 | `E + v` in every row of the embedding table |
//! | ablate `d` everywhere | `W - d d^T W` in `o_proj` and `down_proj`, `E - E d d^T` |
//!
//! Everything else is refused: other operators, gates, and positions other than all tokens.
//! It can be replaced by its mean change over some prompts ([`approximate`]).
//!
//! [`Baker`] writes one `model.uqff`, or several doses: small files with the entries that
//! have a bias, next to a [`SHARED`] file with all others.

mod approximate;
mod baker;
mod plan;

pub use approximate::{Approximation, approximate};
pub use baker::{BakeReport, Baker, DoseFile, Exactness, SHARED};
pub use plan::BakePlan;

use crate::error::Result;
use crate::model::Source;
use crate::model::uqff::WeightType;
use reptune_adapters::Intervention;
use std::path::Path;

/// Writes `model` with `interventions` baked in to the directory `out`, stored as
/// `quantize`; exactly, or not at all.
///
/// # Errors
/// Those of [`Baker::write`].
pub fn bake(
    model: &Path,
    interventions: &[Intervention],
    quantize: WeightType,
    out: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<BakeReport> {
    let baker = Baker {
        source: &Source::open(model)?,
        quantize: Some(quantize),
        exactness: Exactness::Exact,
    };
    baker.write(interventions, out, progress)
}
