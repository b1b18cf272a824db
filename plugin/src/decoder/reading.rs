//! The tensors of a checkpoint, read one by one.
//!
//! mistral.rs maps the files into memory, so that while it loads a model lies in memory
//! twice: as pages of the file and as tensors. Read with plain reads, it does once.

use crate::error::Result;
use candle_core::{DType, Device, Error, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use mistralrs_quant::{ShardedSafeTensors, ShardedVarBuilder};
use reptune_adapters::formats::safetensors::TensorFile;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// mistral.rs's builder over `files`, which gives tensors in `dtype` on `device`.
///
/// # Errors
/// When a file cannot be opened.
pub(super) fn var_builder(
    files: &[PathBuf],
    dtype: DType,
    device: &Device,
) -> Result<ShardedVarBuilder> {
    let mut places = HashMap::new();
    let mut open = Vec::new();
    for path in files {
        let file = TensorFile::open(path)?;
        places.extend(file.names().into_iter().map(|name| (name, open.len())));
        open.push(file);
    }
    let backend = Reading {
        files: Mutex::new(open),
        places,
    };
    Ok(ShardedSafeTensors::wrap(
        Box::new(backend),
        dtype,
        device.clone(),
    ))
}

struct Reading {
    files: Mutex<Vec<TensorFile>>,
    /// File of each tensor.
    places: HashMap<String, usize>,
}

impl SimpleBackend for Reading {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _init: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let tensor = self.get_unchecked(name, dtype, device)?;
        if *tensor.shape() != shape {
            return Err(Error::UnexpectedShape {
                msg: format!("shape mismatch for {name}"),
                expected: shape,
                got: tensor.shape().clone(),
            });
        }
        Ok(tensor)
    }

    fn get_unchecked(
        &self,
        name: &str,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let Some(place) = self.places.get(name) else {
            let path = name.to_owned();
            return Err(Error::CannotFindTensor { path });
        };
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let tensor = files[*place].tensor(name).map_err(Error::wrap)?;
        tensor.to_dtype(dtype)?.to_device(device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }
}
