//! Rotary angles of the tokens of a forward.

use candle_core::{DType, Device, Result, Tensor};
use std::sync::{Arc, OnceLock};

/// Cosines and sines of N tokens, each (N, D / 2) with D the head dimension.
///
/// One value serves all blocks of a forward; a clone shares its tables.
#[derive(Debug, Clone)]
pub struct Rotation(Arc<Tables>);

#[derive(Debug)]
struct Tables {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
    /// The same on a device, for composed operations.
    tensors: OnceLock<(Tensor, Tensor)>,
}

impl Rotation {
    /// From the cosines and sines of N tokens, row-major, `half` = D / 2 columns.
    pub fn new(cos: Vec<f32>, sin: Vec<f32>, half: usize) -> Self {
        Self(Arc::new(Tables {
            cos,
            sin,
            half,
            tensors: OnceLock::new(),
        }))
    }

    /// The rotation of some of these tokens.
    pub fn rows(&self, tokens: &[u32]) -> Self {
        let half = self.half();
        let pick = |table: &[f32]| {
            let starts = tokens.iter().map(|t| *t as usize * half);
            starts
                .flat_map(|at| table[at..at + half].iter().copied())
                .collect()
        };
        Self::new(pick(&self.0.cos), pick(&self.0.sin), half)
    }

    /// D / 2.
    pub fn half(&self) -> usize {
        self.0.half
    }

    pub(crate) fn cos(&self) -> &[f32] {
        &self.0.cos
    }

    pub(crate) fn sin(&self) -> &[f32] {
        &self.0.sin
    }

    /// Cosines and sines as tensors (N, 1, D / 2). Those made first are kept.
    ///
    /// # Errors
    /// When memory cannot be allocated on `device`.
    pub fn tensors(&self, dtype: DType, device: &Device) -> Result<(Tensor, Tensor)> {
        if let Some(known) = self.0.tensors.get()
            && known.0.dtype() == dtype
            && known.0.device().same_device(device)
        {
            return Ok(known.clone());
        }
        let half = self.half();
        let table = |t: &[f32]| {
            Tensor::from_slice(t, (t.len() / half.max(1), 1, half), device)?.to_dtype(dtype)
        };
        let tables = (table(self.cos())?, table(self.sin())?);
        let _ = self.0.tensors.set(tables.clone());
        Ok(tables)
    }
}
