//! Adapters: low-rank updates on named weights, `W + scale * B A`, and full deltas,
//! `W + D`, of weights that are tuned directly.

use crate::error::{Error, Result};
use crate::files;
use crate::formats::tables::Table;
use crate::model::{ModelSpec, ModuleKind, TargetModule};
use crate::ops::like;
use candle_core::{DType, Device, Tensor, Var};
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::path::Path;

/// The change of one weight: `scale * B A`, or a full delta.
#[derive(Debug, Clone)]
pub struct WeightDelta {
    /// A (R, I).
    pub a: Tensor,
    /// B (O, R).
    pub b: Tensor,
    /// `alpha / rank`, or `alpha / sqrt(rank)` for a rank-stabilised adapter.
    pub scale: f64,
    /// Full delta (O, I) of a weight that is tuned directly, instead of the factors, which
    /// then have rank 0.
    pub full: Option<Tensor>,
}

impl WeightDelta {
    /// A full delta (O, I), without factors.
    ///
    /// # Errors
    /// When `delta` is not a matrix.
    pub fn direct(delta: Tensor) -> Result<Self> {
        let ((o, i), dtype) = (delta.dims2()?, delta.dtype());
        Ok(Self {
            a: Tensor::zeros((0, i), dtype, delta.device())?,
            b: Tensor::zeros((o, 0), dtype, delta.device())?,
            scale: 1.,
            full: Some(delta),
        })
    }

    /// `scale * (x A^T) B^T`, or `x D^T`, in the dtype of x. Shapes: `x` (N, I), result
    /// (N, O).
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let here = |t: &Tensor| like(t, x)?.t();
        match &self.full {
            Some(delta) => Ok(x.matmul(&here(delta)?)?),
            None => Ok((x.matmul(&here(&self.a)?)?.matmul(&here(&self.b)?)? * self.scale)?),
        }
    }

    /// `scale * B A`, or D (O, I).
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn delta(&self) -> Result<Tensor> {
        match &self.full {
            Some(delta) => Ok(delta.clone()),
            None => Ok((self.b.matmul(&self.a)? * self.scale)?),
        }
    }

    /// R; 0 for a full delta.
    pub fn rank(&self) -> usize {
        self.a.dims()[0]
    }

    /// The tensors that are trained, by name: `A` and `B`, or `delta`.
    pub fn factors(&self) -> Vec<(&'static str, &Tensor)> {
        match &self.full {
            Some(delta) => vec![("delta", delta)],
            None => vec![("A", &self.a), ("B", &self.b)],
        }
    }

    /// [`WeightDelta::factors`], mutable.
    pub fn factors_mut(&mut self) -> Vec<(&'static str, &mut Tensor)> {
        match &mut self.full {
            Some(delta) => vec![("delta", delta)],
            None => vec![("A", &mut self.a), ("B", &mut self.b)],
        }
    }
}

/// Which low-rank updates a training starts with.
#[derive(Debug, Clone, Copy)]
pub struct LoraInit<'a> {
    /// Blocks.
    pub layers: &'a [usize],
    /// Linear layers of each of these blocks.
    pub kinds: &'a [ModuleKind],
    /// R.
    pub rank: usize,
    /// Updates are scaled by alpha / R.
    pub alpha: f64,
    /// Of the random numbers in A.
    pub seed: u64,
}

/// Low-rank updates on some modules of a model.
#[derive(Debug, Clone, Default)]
pub struct Adapter {
    /// By module.
    pub modules: BTreeMap<TargetModule, WeightDelta>,
}

impl Adapter {
    /// New factors for training: A uniform in +-1/sqrt(I) (Kaiming with a =
    /// sqrt 5, as PEFT does), B zero, so that the first step starts from the base.
    ///
    /// # Errors
    /// When rank is 0 or above a weight's size, a layer is missing, or alpha is not finite.
    pub fn init(spec: &ModelSpec, init: &LoraInit) -> Result<Self> {
        let (rank, alpha) = (init.rank, init.alpha);
        spec.check_layers(init.layers)?;
        if !alpha.is_finite() || alpha <= 0. {
            let (expected, hint) = ("a positive number", "twice the rank is usual");
            return Err(Error::value("alpha", expected, alpha.to_string(), hint));
        }
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(init.seed);
        let mut modules = BTreeMap::new();
        for &layer in init.layers {
            for &kind in init.kinds {
                let (module, (o, i)) = (TargetModule { layer, kind }, kind.shape(spec));
                if rank == 0 || rank > o.min(i) {
                    let expected = format!("1 to {}", o.min(i));
                    let hint = format!("{module} is ({o}, {i})");
                    return Err(Error::value("rank", expected, rank.to_string(), hint));
                }
                let bound = 1. / (i as f32).sqrt();
                let a = (0..rank * i).map(|_| rng.random_range(-bound..bound));
                let delta = WeightDelta {
                    a: Tensor::from_vec(a.collect::<Vec<_>>(), (rank, i), &Device::Cpu)?,
                    b: Tensor::zeros((o, rank), DType::F32, &Device::Cpu)?,
                    scale: alpha / rank as f64,
                    full: None,
                };
                modules.insert(module, delta);
            }
        }
        Ok(Self { modules })
    }

    /// Replaces the factors of `modules` by full deltas of zero.
    ///
    /// # Errors
    /// When memory cannot be allocated.
    pub fn make_direct(&mut self, spec: &ModelSpec, modules: &[TargetModule]) -> Result<()> {
        for module in modules {
            let delta = Tensor::zeros(module.kind.shape(spec), DType::F32, &Device::Cpu)?;
            self.modules.insert(*module, WeightDelta::direct(delta)?);
        }
        Ok(())
    }

    /// Makes all factors and full deltas trainable on `device`; returns their
    /// variables in a fixed order.
    ///
    /// # Errors
    /// When memory cannot be allocated.
    pub fn trainable(&mut self, device: &Device) -> Result<Vec<Var>> {
        let mut vars = Vec::new();
        for delta in self.modules.values_mut() {
            for (_, factor) in delta.factors_mut() {
                let var = Var::from_tensor(&factor.to_device(device)?)?;
                *factor = var.as_tensor().clone();
                vars.push(var);
            }
        }
        Ok(vars)
    }

    /// A copy that records no gradients and no longer follows the variables.
    ///
    /// # Errors
    /// When memory cannot be allocated.
    pub fn snapshot(&self) -> Result<Self> {
        let mut copy = self.clone();
        for delta in copy.modules.values_mut() {
            for (_, factor) in delta.factors_mut() {
                *factor = factor.copy()?.detach();
            }
        }
        Ok(copy)
    }

    /// Checks that every module exists in `model` with its shape.
    ///
    /// # Errors
    /// When one does not; they name the file `path`.
    pub fn check_model(&self, path: &Path, model: &ModelSpec) -> Result<()> {
        for (module, delta) in &self.modules {
            let (shape, known) = (module.kind.shape(model), module.layer < model.layers);
            let expected = match known {
                true => format!("shape {shape:?} of {}", model.name),
                false => format!("one of the {} blocks of {}", model.layers, model.name),
            };
            let found = (delta.b.dims()[0], delta.a.dims()[1]);
            if !known || found != shape {
                let (place, found) = (format!("`{module}`"), format!("a delta of shape {found:?}"));
                let hint = "the adapter belongs to another model";
                return Err(Error::content(path, place, expected, found, hint));
            }
        }
        Ok(())
    }

    /// Whether every delta is zero, as before the first step of a training.
    ///
    /// # Errors
    /// When a factor cannot be read from its device.
    pub fn changes_nothing(&self) -> Result<bool> {
        for delta in self.modules.values().filter(|delta| delta.scale != 0.) {
            let mut zero = false;
            for (_, factor) in delta.factors() {
                zero |= Table::of(factor)?.data.iter().all(|x| *x == 0.);
            }
            if !zero {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Refuses an adapter without modules.
    pub(crate) fn check_not_empty(&self) -> Result<()> {
        let (expected, hint) = ("at least one module", "tune some modules first");
        match self.modules.is_empty() {
            true => Err(Error::value("adapter", expected, "none", hint)),
            false => Ok(()),
        }
    }

    /// The first module with a full delta, which other programs have no form for.
    pub(crate) fn full_delta(&self) -> Option<&TargetModule> {
        let mut modules = self.modules.iter();
        modules.find_map(|(module, delta)| delta.full.as_ref().map(|_| module))
    }

    /// SHA-256 of all factors, with their modules and scales.
    ///
    /// # Errors
    /// When a factor cannot be read.
    pub fn content_hash(&self) -> Result<String> {
        let mut parts = Vec::new();
        for (module, delta) in &self.modules {
            for (name, factor) in delta.factors() {
                let head = format!("{module} {name} {:?} {}\n", factor.dims(), delta.scale);
                parts.push(head.into_bytes());
                let values = Table::of(factor)?.data;
                parts.push(values.iter().flat_map(|x| x.to_le_bytes()).collect());
            }
        }
        Ok(files::sha256(parts.iter().map(Vec::as_slice)))
    }

    /// The delta of a weight.
    pub fn at(&self, layer: usize, kind: ModuleKind) -> Option<&WeightDelta> {
        self.modules.get(&TargetModule { layer, kind })
    }
}
