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

/// Rows (N, H) of one layer, which are written as they are computed.
pub(super) enum CachedRows {
    /// One tensor, when all are written.
    Memory(Vec<Tensor>),
    Disk(Mutex<File>),
}

impl CachedRows {
    pub fn new(storage: CacheStorage) -> Result<Self> {
        Ok(match storage {
            CacheStorage::Memory => Self::Memory(Vec::new()),
            CacheStorage::Disk => Self::Disk(Mutex::new(tempfile::tempfile().map_err(failed)?)),
        })
    }

    pub fn write(&mut self, rows: &Tensor) -> Result<()> {
        match self {
            Self::Memory(all) => all.push(rows.clone()),
            Self::Disk(file) => {
                let rows = rows.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
                let bytes: Vec<u8> = rows.iter().flat_map(|x| x.to_le_bytes()).collect();
                let file = file.get_mut().unwrap_or_else(PoisonError::into_inner);
                file.write_all(&bytes).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// All rows are written.
    pub fn finish(mut self, hidden: usize) -> Result<Self> {
        if let Self::Memory(all) = &mut self {
            if all.is_empty() {
                all.push(Tensor::zeros((0, hidden), DType::F32, &Device::Cpu)?);
            }
            *all = vec![Tensor::cat(all, 0)?];
        }
        Ok(self)
    }

    /// The rows of width `hidden` with these numbers, in this order.
    pub fn select(&self, index: Vec<u32>, hidden: usize) -> Result<Tensor> {
        match self {
            Self::Memory(all) => {
                let index = Tensor::new(index, all[0].device())?;
                Ok(all[0].index_select(&index, 0)?)
            }
            Self::Disk(file) => read(file, hidden, &index),
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

fn failed(e: std::io::Error) -> Error {
    Error::write(PathBuf::from("file of the activation cache"), e)
}
