//! Where the rows of an activation cache are kept.

use crate::error::Result;
use candle_core::{DType, Device, Tensor};
use reptune_adapters::Error;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// Where an activation cache is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheStorage {
    /// In memory.
    #[default]
    Memory,
    /// In a file without a name, which is gone with the process.
    Disk,
}

/// Rows (N, H) of one layer.
pub(super) enum CachedRows {
    Memory(Tensor),
    Disk { file: Mutex<File>, hidden: usize },
}

impl CachedRows {
    /// The rows with these numbers, in this order.
    pub fn select(&self, index: Vec<u32>) -> Result<Tensor> {
        match self {
            Self::Memory(rows) => Ok(rows.index_select(&Tensor::new(index, rows.device())?, 0)?),
            Self::Disk { file, hidden } => read(file, *hidden, &index),
        }
    }
}

fn read(file: &Mutex<File>, hidden: usize, index: &[u32]) -> Result<Tensor> {
    let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
    let width = hidden * size_of::<f32>();
    let mut bytes = vec![0u8; index.len() * width];
    let mut next = None;
    for (row, bytes) in index.iter().zip(bytes.chunks_exact_mut(width)) {
        if next != Some(*row) {
            let place = u64::from(*row) * width as u64;
            file.seek(SeekFrom::Start(place)).map_err(failed)?;
        }
        file.read_exact(bytes).map_err(failed)?;
        next = Some(row + 1);
    }
    let (shape, cpu) = ([index.len(), hidden], Device::Cpu);
    Ok(Tensor::from_raw_buffer(&bytes, DType::F32, &shape, &cpu)?)
}

/// Takes rows as they are computed.
pub(super) enum RowsWriter {
    Memory(Vec<Tensor>),
    Disk(File),
}

impl RowsWriter {
    pub fn new(storage: CacheStorage) -> Result<Self> {
        Ok(match storage {
            CacheStorage::Memory => Self::Memory(Vec::new()),
            CacheStorage::Disk => Self::Disk(tempfile::tempfile().map_err(failed)?),
        })
    }

    pub fn write(&mut self, rows: &Tensor) -> Result<()> {
        match self {
            Self::Memory(all) => all.push(rows.clone()),
            Self::Disk(file) => {
                let rows = rows.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
                let bytes: Vec<u8> = rows.iter().flat_map(|x| x.to_le_bytes()).collect();
                file.write_all(&bytes).map_err(failed)?;
            }
        }
        Ok(())
    }

    pub fn finish(self, hidden: usize) -> Result<CachedRows> {
        Ok(match self {
            Self::Memory(mut all) => {
                if all.is_empty() {
                    all.push(Tensor::zeros((0, hidden), DType::F32, &Device::Cpu)?);
                }
                CachedRows::Memory(Tensor::cat(&all, 0)?)
            }
            Self::Disk(file) => {
                let file = Mutex::new(file);
                CachedRows::Disk { file, hidden }
            }
        })
    }
}

fn failed(e: std::io::Error) -> Error {
    Error::write(PathBuf::from("file of the activation cache"), e)
}
