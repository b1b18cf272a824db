//! Low-rank updates on named weights: `W + scale * B A`; and full deltas, `W + D`,
//! where a weight is tuned directly.

use crate::artefact;
use crate::error::{Error, Result};
use crate::host::ModelSpec;
use crate::ops::beside;
use candle_core::{DType, Device, Tensor, Var};
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// A linear layer of a Llama block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Projection {
    QProj,
    KProj,
    VProj,
    OProj,
    GateProj,
    UpProj,
    DownProj,
}

impl Projection {
    /// All, in the order of a UQFF file.
    pub const ALL: [Self; 7] = [
        Self::QProj,
        Self::KProj,
        Self::VProj,
        Self::OProj,
        Self::GateProj,
        Self::UpProj,
        Self::DownProj,
    ];

    /// Path below `model.layers.{i}`.
    pub fn path(self) -> &'static str {
        match self {
            Self::QProj => "self_attn.q_proj",
            Self::KProj => "self_attn.k_proj",
            Self::VProj => "self_attn.v_proj",
            Self::OProj => "self_attn.o_proj",
            Self::GateProj => "mlp.gate_proj",
            Self::UpProj => "mlp.up_proj",
            Self::DownProj => "mlp.down_proj",
        }
    }

    /// Shape (O, I) of its weight.
    pub fn shape(self, m: &ModelSpec) -> (usize, usize) {
        match self {
            Self::QProj => (m.heads * m.head_dim, m.hidden),
            Self::KProj | Self::VProj => (m.kv_heads * m.head_dim, m.hidden),
            Self::OProj => (m.hidden, m.heads * m.head_dim),
            Self::GateProj | Self::UpProj => (m.intermediate, m.hidden),
            Self::DownProj => (m.hidden, m.intermediate),
        }
    }
}

/// A weight of a block, such as `model.layers.7.self_attn.o_proj`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Site {
    /// 0-based block.
    pub layer: usize,
    /// Which of its weights.
    pub projection: Projection,
}

impl Site {
    /// Parses a module path such as `model.layers.7.self_attn.o_proj`.
    pub fn parse(path: &str) -> Option<Self> {
        let (layer, rest) = path.strip_prefix("model.layers.")?.split_once('.')?;
        let projection = Projection::ALL.into_iter().find(|p| p.path() == rest)?;
        Some(Self {
            layer: layer.parse().ok()?,
            projection,
        })
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "model.layers.{}.{}", self.layer, self.projection.path())
    }
}

/// One update: `delta = scale * B A`, or a full delta.
#[derive(Debug, Clone)]
pub struct LowRank {
    /// A (R, I).
    pub a: Tensor,
    /// B (O, R).
    pub b: Tensor,
    /// `alpha / rank`, or `alpha / sqrt(rank)` for a rank-stabilised adapter.
    pub scale: f64,
    /// Full delta (O, I) of a weight that is tuned directly; it stands instead of
    /// the factors, which have rank 0 then.
    pub full: Option<Tensor>,
}

impl LowRank {
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
        let here = |t: &Tensor| beside(t, x)?.t();
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

    /// What is trained, by name: `A` and `B`, or `delta`.
    pub fn factors(&self) -> Vec<(&'static str, &Tensor)> {
        match &self.full {
            Some(delta) => vec![("delta", delta)],
            None => vec![("A", &self.a), ("B", &self.b)],
        }
    }

    /// The same, to be replaced.
    pub fn factors_mut(&mut self) -> Vec<(&'static str, &mut Tensor)> {
        match &mut self.full {
            Some(delta) => vec![("delta", delta)],
            None => vec![("A", &mut self.a), ("B", &mut self.b)],
        }
    }
}

/// Low-rank updates on some sites of a model.
#[derive(Debug, Clone, Default)]
pub struct LowRankUpdate {
    /// By site.
    pub sites: BTreeMap<Site, LowRank>,
}

impl LowRankUpdate {
    /// New factors for training: A uniform in +-1/sqrt(I) (Kaiming with a =
    /// sqrt 5, as PEFT does), B zero, so that the first step starts from the base.
    ///
    /// # Errors
    /// When rank is 0 or above a weight's size, a layer is missing, or alpha is not finite.
    pub fn init(
        spec: &ModelSpec,
        layers: &[usize],
        projections: &[Projection],
        rank: usize,
        alpha: f64,
        seed: u64,
    ) -> Result<Self> {
        spec.check_layers(layers)?;
        if !alpha.is_finite() || alpha <= 0. {
            return Err(Error::value(
                "alpha",
                "a positive number",
                alpha.to_string(),
                "twice the rank is usual",
            ));
        }
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let mut sites = BTreeMap::new();
        for &layer in layers {
            for &projection in projections {
                let (o, i) = projection.shape(spec);
                if rank == 0 || rank > o.min(i) {
                    return Err(Error::value(
                        "rank",
                        format!("1 to {}", o.min(i)),
                        rank.to_string(),
                        format!("{} is ({o}, {i})", Site { layer, projection }),
                    ));
                }
                let bound = 1. / (i as f32).sqrt();
                let a: Vec<f32> = (0..rank * i)
                    .map(|_| rng.random_range(-bound..bound))
                    .collect();
                let low_rank = LowRank {
                    a: Tensor::from_vec(a, (rank, i), &Device::Cpu)?,
                    b: Tensor::zeros((o, rank), DType::F32, &Device::Cpu)?,
                    scale: alpha / rank as f64,
                    full: None,
                };
                sites.insert(Site { layer, projection }, low_rank);
            }
        }
        Ok(Self { sites })
    }

    /// Replaces the factors of `sites` by full deltas of zero.
    ///
    /// # Errors
    /// When memory cannot be had.
    pub fn make_direct(&mut self, spec: &ModelSpec, sites: &[Site]) -> Result<()> {
        for site in sites {
            let delta = Tensor::zeros(site.projection.shape(spec), DType::F32, &Device::Cpu)?;
            self.sites.insert(*site, LowRank::direct(delta)?);
        }
        Ok(())
    }

    /// Makes all factors and full deltas trainable on `device`; returns their
    /// variables in a fixed order.
    ///
    /// # Errors
    /// When memory cannot be had.
    pub fn trainable(&mut self, device: &Device) -> Result<Vec<Var>> {
        let mut vars = Vec::new();
        for low_rank in self.sites.values_mut() {
            for (_, factor) in low_rank.factors_mut() {
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
    /// When memory cannot be had.
    pub fn snapshot(&self) -> Result<Self> {
        let mut copy = self.clone();
        for low_rank in copy.sites.values_mut() {
            for (_, factor) in low_rank.factors_mut() {
                *factor = factor.copy()?.detach();
            }
        }
        Ok(copy)
    }

    /// Checks that every site is one of `model`, and of its shape; `path` is named in
    /// messages.
    ///
    /// # Errors
    /// When one is not.
    pub fn check_model(&self, path: &Path, model: &ModelSpec) -> Result<()> {
        for (site, low_rank) in &self.sites {
            let expected = match site.layer < model.layers {
                true => format!("shape {:?} of {}", site.projection.shape(model), model.name),
                false => format!("one of the {} blocks of {}", model.layers, model.name),
            };
            let found = (low_rank.b.dims()[0], low_rank.a.dims()[1]);
            if site.layer >= model.layers || found != site.projection.shape(model) {
                return Err(Error::content(
                    path,
                    format!("`{site}`"),
                    expected,
                    format!("an update of shape {found:?}"),
                    "the update is for another model",
                ));
            }
        }
        Ok(())
    }

    /// SHA-256 of all factors, with their sites and scales.
    ///
    /// # Errors
    /// When a factor cannot be read.
    pub fn content_hash(&self) -> Result<String> {
        let mut parts = Vec::new();
        for (site, low_rank) in &self.sites {
            for (name, factor) in low_rank.factors() {
                let head = format!("{site} {name} {:?} {}\n", factor.dims(), low_rank.scale);
                parts.push(head.into_bytes());
                let factor = factor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
                let values: Vec<f32> = factor.flatten_all()?.to_vec1()?;
                parts.push(values.iter().flat_map(|x| x.to_le_bytes()).collect());
            }
        }
        Ok(artefact::sha256(parts.iter().map(Vec::as_slice)))
    }

    /// The update of a weight.
    pub fn at(&self, layer: usize, projection: Projection) -> Option<&LowRank> {
        self.sites.get(&Site { layer, projection })
    }
}
