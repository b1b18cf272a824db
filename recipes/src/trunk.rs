//! The trunk: residual rows of prompts at a layer, computed once for all that is done
//! above it.
//!
//! Nothing that is trained or steered above a layer changes the rows at its output. So
//! they are computed once for a whole data set, and serve every batch, epoch, seed, coeff
//! and sign; forwards begin at them.

use crate::error::Result;
use crate::groups::groups;
use candle_core::{DType, Tensor};
use reptune_adapters::{
    Adapter, CaptureTokens, Error, ForwardOptions, HookedModel, KeyValueCache, PrefixTree, Resume,
};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// Prompt rows computed in one forward.
const ROWS: usize = 2048;

/// Where a trunk is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Keep {
    /// In memory.
    #[default]
    Memory,
    /// In a file without a name, which is gone with the process.
    Disk,
}

/// Residual rows (N, H) at the output of a layer, one for every distinct token-in-context
/// of some prompts.
pub struct ActivationCache {
    layer: usize,
    prompts: Vec<Vec<u32>>,
    forest: PrefixTree,
    store: Store,
    hidden: usize,
}

enum Store {
    Memory(Tensor),
    Disk(Mutex<File>),
}

impl ActivationCache {
    /// Computes the rows of `prompts` at the output of `layer`, under `adapter`.
    ///
    /// # Errors
    /// When the layer does not exist, the model fails, or the file cannot be written.
    pub fn of(
        host: &dyn HookedModel,
        prompts: Vec<Vec<u32>>,
        layer: usize,
        adapter: Option<&Adapter>,
        keep: Keep,
    ) -> Result<Self> {
        Self::compute(host, prompts, layer, adapter, keep, None)
    }

    /// The same rows at a higher layer, computed from these.
    ///
    /// # Errors
    /// As [`ActivationCache::of`].
    pub fn raised(
        &self,
        host: &dyn HookedModel,
        layer: usize,
        adapter: Option<&Adapter>,
    ) -> Result<Self> {
        let (prompts, keep) = (self.prompts.clone(), self.keep());
        Self::compute(host, prompts, layer, adapter, keep, Some(self))
    }

    /// The rows of `prompts` at the output of `layer`, from `known` ones of the same prompts
    /// where these lie there or below.
    ///
    /// # Errors
    /// As [`ActivationCache::of`].
    pub fn moved(
        known: Option<Self>,
        host: &dyn HookedModel,
        layer: usize,
        adapter: Option<&Adapter>,
        prompts: impl FnOnce() -> Vec<Vec<u32>>,
    ) -> Result<Self> {
        match known {
            Some(trunk) if trunk.layer == layer => Ok(trunk),
            Some(trunk) if trunk.layer < layer => trunk.raised(host, layer, adapter),
            _ => Self::of(host, prompts(), layer, adapter, Keep::Memory),
        }
    }

    fn compute(
        host: &dyn HookedModel,
        prompts: Vec<Vec<u32>>,
        layer: usize,
        adapter: Option<&Adapter>,
        keep: Keep,
        from: Option<&Self>,
    ) -> Result<Self> {
        let hidden = host.spec().hidden;
        let mut forest = PrefixTree::new();
        let mut writer = Writer::new(keep)?;
        for range in groups(&prompts, ROWS) {
            let some = &prompts[range];
            let (packed, paths) = PrefixTree::pack(some);
            let known = forest.len();
            // Rows of the packed forest that the whole one does not have yet, in its order.
            let mut new = HashMap::new();
            for (ids, path) in some.iter().zip(&paths) {
                let whole = forest.insert(None, ids, |_| 0);
                new.extend(whole.into_iter().zip(path.iter().copied()));
            }
            let new: Vec<u32> = (known as u32..forest.len() as u32)
                .map(|r| new[&r])
                .collect();
            let start = from.map(|t| t.rows(&packed, some, &paths)).transpose()?;
            let request = ForwardOptions {
                capture: &[layer],
                captured: CaptureTokens::Only(&new),
                adapter,
                start: from.zip(start.as_ref()).map(|(t, rows)| Resume {
                    layer: t.layer,
                    rows,
                }),
                ..ForwardOptions::default()
            };
            if !new.is_empty() {
                let pass = host.forward(&packed, &mut KeyValueCache::none(), &request)?;
                writer.write(&pass.residuals[&layer].detach())?;
            }
        }
        Ok(Self {
            layer,
            prompts,
            store: writer.finish(hidden)?,
            forest,
            hidden,
        })
    }

    /// The layer whose output the rows are.
    pub fn layer(&self) -> usize {
        self.layer
    }

    /// Number of rows, N.
    pub fn len(&self) -> usize {
        self.forest.len()
    }

    /// True without rows.
    pub fn is_empty(&self) -> bool {
        self.forest.is_empty()
    }

    /// Where they are kept.
    pub fn keep(&self) -> Keep {
        match self.store {
            Store::Memory(_) => Keep::Memory,
            Store::Disk(_) => Keep::Disk,
        }
    }

    /// Whether all tokens of `prompt` have their rows here.
    pub fn holds(&self, prompt: &[u32]) -> bool {
        self.forest.path(prompt).is_some()
    }

    /// The rows (N, H) of `forest`, in which the tokens of each of `prompts` have the rows
    /// that `paths` says; marks do not matter below what they stand for.
    ///
    /// # Errors
    /// When a prompt is none of those that the trunk was made of, or the file cannot be
    /// read.
    pub fn rows<P: AsRef<[u32]>, R: AsRef<[u32]>>(
        &self,
        forest: &PrefixTree,
        prompts: &[P],
        paths: &[R],
    ) -> Result<Tensor> {
        let mut index = vec![0u32; forest.len()];
        for (ids, path) in prompts.iter().zip(paths) {
            let Some(kept) = self.forest.path(ids.as_ref()) else {
                let expected = format!("one of the {} prompts of the trunk", self.prompts.len());
                let hint = "make the trunk of all prompts";
                return Err(Error::value("prompt", expected, "another", hint).into());
            };
            for (row, kept) in path.as_ref().iter().zip(kept) {
                index[*row as usize] = kept;
            }
        }
        match &self.store {
            Store::Memory(rows) => Ok(rows.index_select(&Tensor::new(index, rows.device())?, 0)?),
            Store::Disk(file) => self.read(file, &index),
        }
    }

    fn read(&self, file: &Mutex<File>, index: &[u32]) -> Result<Tensor> {
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        let width = self.hidden * size_of::<f32>();
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
        let shape = [index.len(), self.hidden];
        let device = &candle_core::Device::Cpu;
        Ok(Tensor::from_raw_buffer(&bytes, DType::F32, &shape, device)?)
    }
}

/// Takes rows as they are computed.
enum Writer {
    Memory(Vec<Tensor>),
    Disk(File),
}

impl Writer {
    fn new(keep: Keep) -> Result<Self> {
        Ok(match keep {
            Keep::Memory => Self::Memory(Vec::new()),
            Keep::Disk => Self::Disk(tempfile::tempfile().map_err(failed)?),
        })
    }

    fn write(&mut self, rows: &Tensor) -> Result<()> {
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

    fn finish(self, hidden: usize) -> Result<Store> {
        Ok(match self {
            Self::Memory(all) if all.is_empty() => {
                let nothing = (0, hidden);
                let device = &candle_core::Device::Cpu;
                Store::Memory(Tensor::zeros(nothing, DType::F32, device)?)
            }
            Self::Memory(all) => Store::Memory(Tensor::cat(&all, 0)?),
            Self::Disk(file) => Store::Disk(Mutex::new(file)),
        })
    }
}

fn failed(e: std::io::Error) -> Error {
    Error::write(PathBuf::from("file of the trunk"), e)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toy::tiny;

    fn prompts() -> Vec<Vec<u32>> {
        let prompt = |i: u32| vec![256, 1, 2, 3 + i % 3, 70 + i, 80, 90 + i / 2];
        (0..5).map(prompt).chain([vec![256, 1, 2]]).collect()
    }

    fn numbers(rows: &Tensor) -> Vec<f32> {
        let rows = rows.flatten_all().and_then(|r| r.to_vec1());
        rows.expect("numbers")
    }

    fn assert_near(a: &Tensor, b: &Tensor) {
        assert_eq!(a.dims(), b.dims());
        let pairs = numbers(a).into_iter().zip(numbers(b));
        let off = pairs.map(|(a, b)| (a - b).abs()).fold(0., f32::max);
        assert!(off < 1e-5, "{off}");
    }

    /// Rows of a forward from the embeddings.
    fn reference(forest: &PrefixTree, layer: usize) -> Result<Tensor> {
        let request = ForwardOptions {
            capture: &[layer],
            ..ForwardOptions::default()
        };
        let mut pass = tiny().forward(forest, &mut KeyValueCache::none(), &request)?;
        Ok(pass.residuals.remove(&layer).expect("the layer"))
    }

    #[test]
    fn a_trunk_holds_the_rows_of_any_forest_of_its_prompts() -> Result<()> {
        let (toy, all) = (tiny(), prompts());
        let memory = ActivationCache::of(&toy, all.clone(), 1, None, Keep::Memory)?;
        let disk = ActivationCache::of(&toy, all.clone(), 1, None, Keep::Disk)?;
        let lower = ActivationCache::of(&toy, all.clone(), 0, None, Keep::Memory)?;
        let raised = lower.raised(&toy, 1, None)?;
        for some in [&all[..], &all[3..5], &all[5..]] {
            let mut forest = PrefixTree::new();
            // another order, and marks that make rows of their own
            let path = |p: &Vec<u32>| forest.insert(None, p, |i| u64::from(i + 1 == p.len()));
            let some: Vec<Vec<u32>> = some.iter().rev().cloned().collect();
            let paths: Vec<Vec<u32>> = some.iter().map(path).collect();
            let expected = reference(&forest, 1)?;
            let rows = memory.rows(&forest, &some, &paths)?;
            assert_near(&rows, &expected);
            assert_near(&raised.rows(&forest, &some, &paths)?, &expected);
            assert_eq!(numbers(&disk.rows(&forest, &some, &paths)?), numbers(&rows));
        }
        assert!(memory.holds(&all[2]) && !memory.holds(&[1, 2]));
        assert_eq!(
            (memory.len(), disk.keep()),
            (reference_rows(&all), Keep::Disk)
        );
        let (forest, paths) = PrefixTree::pack(&[[9, 9]]);
        let other = memory.rows(&forest, &[[9, 9]], &paths);
        let told = other.expect_err("another prompt").to_string();
        assert!(told.contains("one of the 6 prompts of the trunk"), "{told}");
        Ok(())
    }

    fn reference_rows(prompts: &[Vec<u32>]) -> usize {
        PrefixTree::pack(prompts).0.len()
    }
}
