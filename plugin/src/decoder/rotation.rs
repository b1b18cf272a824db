//! Rotary angles of rows at any positions, taken from mistral.rs's own embedding.

use crate::model::ModelConfig;
use candle_core::{DType, Device, Result, Tensor};
use mistralrs_core::layers::Llama3RotaryEmbedding;
use reptune_adapters::ops::Rotation;
use std::sync::{Mutex, PoisonError};

/// Cosines and sines by position, filled as far as needed.
///
/// mistral.rs keeps its tables private, but rotating the vector (1, .., 1, 0, ..,
/// 0) shows them: its first half becomes the cosines, its second the sines. So
/// every rope_theta and every scaling is exactly that of mistral.rs. They are read on the
/// CPU, wherever the model is.
pub(super) struct RotationTable {
    embedding: Llama3RotaryEmbedding,
    half: usize,
    context: usize,
    known: Mutex<(Vec<f32>, Vec<f32>)>,
}

impl RotationTable {
    pub(super) fn new(config: &ModelConfig) -> crate::Result<Self> {
        let wrong = |found: String| {
            let (place, hint) = ("keys `rope_theta`, `rope_scaling`", "fetch the file again");
            let expected = "rope settings that mistral.rs 0.8.1 takes";
            crate::Error::model(&config.path, place, expected, found, hint)
        };
        // models::llama::Config is private by name; inference names it. It knows heads only as
        // shares of the width.
        let mut settings = config.json.clone();
        settings["hidden_size"] = (config.num_attention_heads * config.head_dim).into();
        let settings = serde_json::from_value(settings).map_err(|e| wrong(e.to_string()))?;
        let (dtype, cpu) = (DType::F32, &Device::Cpu);
        let embedding = Llama3RotaryEmbedding::new_llama3(dtype, &settings, cpu, true)
            .map_err(|e| wrong(e.to_string()))?;
        let table = Self {
            embedding,
            half: config.head_dim / 2,
            context: config.max_position_embeddings,
            known: Mutex::default(),
        };
        let (cosines, sines) = table.probe(table.context.min(2))?;
        match cosines.iter().chain(&sines).all(|x| x.is_finite()) {
            true => Ok(table),
            false => Err(wrong("settings whose angles are not finite".into())),
        }
    }

    /// The rotation of rows at `positions`.
    pub(super) fn rows(&self, positions: &[u32]) -> Result<Rotation> {
        let needed = positions.iter().max().map_or(0, |p| *p as usize + 1);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0.len() < needed * self.half {
            *known = self.probe(needed.next_power_of_two().min(self.context))?;
        }
        let pick = |table: &[f32]| {
            let starts = positions.iter().map(|p| *p as usize * self.half);
            let rows = starts.flat_map(|at| &table[at..at + self.half]);
            rows.copied().collect()
        };
        Ok(Rotation::new(pick(&known.0), pick(&known.1), self.half))
    }

    fn probe(&self, length: usize) -> Result<(Vec<f32>, Vec<f32>)> {
        let halves = (1, 1, length, self.half);
        let ones = Tensor::ones(halves, DType::F32, &Device::Cpu)?;
        let unit = Tensor::cat(&[&ones, &ones.zeros_like()?], 3)?; // (1, 1, length, D)
        // With as many heads of keys as of queries a build for CUDA runs mistral.rs's kernel,
        // which takes no tensors of the CPU.
        let two = unit.repeat((1, 2, 1, 1))?; // (1, 2, length, D)
        let (rotated, _) = self.embedding.forward(&unit, &two, &[0])?;
        let half = |from: usize| {
            let half = rotated.narrow(3, from, self.half)?;
            half.flatten_all()?.to_vec1::<f32>()
        };
        Ok((half(0)?, half(self.half)?))
    }
}
