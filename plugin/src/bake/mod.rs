//! Baking: steering written into the weights of a UQFF, so that unmodified mistral.rs
//! applies it at every token.
//!
//! A block ends with `h + down_proj(x)`. mistral.rs 0.8.1 adds the bias of a UQFF
//! entry to what its layer puts out, also where the architecture knows none, so a
//! bias at `down_proj` of block l is an addition to the residual stream at layer l, and
//! one at `o_proj` an addition between attention and MLP. What lies below block 0 is the
//! embedding table. A direction that is ablated everywhere is taken out of all weights
//! that write to the stream. That is all that weights can say exactly ([`BakePlan`]);
//! what is not a constant can be replaced by its mean ([`approximate`]).
//!
//! Several variants share one file with everything that they have in common, and the dose
//! of one that was written can be changed in place ([`set_coeff`]).

mod approximate;
mod coeff;
mod plan;

pub use approximate::{Approximation, approximate};
pub use coeff::set_coeff;
pub use plan::BakePlan;

use crate::error::{Error, Result};
use crate::model::Source;
use crate::model::uqff::{
    self, EMBEDDINGS, Entry, Floats, Provenance, Steered, UQFF, UqffDirectory, UqffWriter,
    WeightType,
};
use candle_core::Tensor;
use reptune_adapters::model::ModuleKind;
use reptune_adapters::{Intervention, TargetModule};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// File of what several variants have in common.
pub const SHARED: &str = "shared.uqff";

/// What may be left of an ablated direction where the bake is to be exact: what f32 leaves.
const EXACT: f64 = 1e-5;

/// Whether a bake may differ from what it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Exactness {
    /// By no more than the last bits of a sum.
    #[default]
    Exact,
    /// By what the report says.
    Approximate,
}

/// One steered model of those that are written together.
#[derive(Debug, Clone)]
pub struct Variant {
    /// Name of its file, without `.uqff`. mistral.rs takes names that end in `-1`, `-2` .. for
    /// shards of one model.
    pub name: String,
    /// What is baked into it.
    pub interventions: Vec<Intervention>,
}

/// What a bake did.
#[derive(Debug, Clone, PartialEq)]
pub struct BakeReport {
    /// L2 norm of the bias of every module that has one, by variant.
    pub biases: BTreeMap<String, BTreeMap<TargetModule, f64>>,
    /// Share of the ablated directions that is still written, if there are some:
    /// `|d^T Q(W - d d^T W)| / |d^T W|` over all weights.
    pub left: Option<f64>,
    /// Tensors stored in another type than the one asked for, because its blocks do not
    /// divide their rows; mistral.rs falls back to the same when it quantizes.
    pub other: BTreeMap<String, WeightType>,
    /// Bytes of every UQFF, by name.
    pub bytes: BTreeMap<String, u64>,
}

/// Where weights come from, and how they are stored.
pub struct Bake<'a> {
    /// The model.
    pub source: &'a Source,
    /// The type of all weights; none leaves those of a UQFF, and a full checkpoint f32.
    pub quantize: Option<WeightType>,
    /// Whether the result may differ from the interventions.
    pub exactness: Exactness,
}

/// Writes `model` with `interventions` baked in to `out`: [`UQFF`], the other weights,
/// configuration and tokenizer; exactly, or not at all.
///
/// # Errors
/// Those of [`Bake::write`].
pub fn bake(
    model: &Path,
    interventions: &[Intervention],
    quantize: WeightType,
    out: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<BakeReport> {
    let bake = Bake {
        source: &Source::open(model)?,
        quantize: Some(quantize),
        exactness: Exactness::Exact,
    };
    let variant = Variant {
        name: UQFF.trim_end_matches(".uqff").to_owned(),
        interventions: interventions.to_vec(),
    };
    bake.write(&[variant], out, progress)
}

impl Bake<'_> {
    /// Writes `variants` to the directory `out`: one file for each, [`SHARED`] with the
    /// entries that all have in common if there are several, the other weights,
    /// configuration and tokenizer.
    ///
    /// Whatever stays f32 runs only where mistral.rs is told to load as f32: it does not
    /// convert what a UQFF holds, and its default on the CPU is f16. `progress` hears how
    /// many blocks are done, and of how many.
    ///
    /// # Errors
    /// Those of [`BakePlan::of`]; when `out` holds files, the model is not complete, the type
    /// takes no bias, variants differ in what they share, or the result would not be exact.
    /// Nothing is left at `out` then.
    pub fn write(
        &self,
        variants: &[Variant],
        out: &Path,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<BakeReport> {
        let (source, spec) = (self.source, &self.source.spec);
        let plans = self.plans(variants)?;
        let Some(first) = plans.first() else {
            return Err(refused("nothing", "name at least one variant"));
        };
        let biased: BTreeSet<TargetModule> = plans
            .iter()
            .flat_map(|p| p.biases.keys().copied())
            .collect();
        let directory = UqffDirectory::create(out)?;
        let mut files = self.files(&directory, variants, &biased)?;
        let mut other = BTreeMap::new();
        let (mut before, mut after) = (0., 0.);
        for layer in 0..spec.layers {
            for kind in ModuleKind::ALL {
                let module = TargetModule { layer, kind };
                let writes = matches!(kind, ModuleKind::OProj | ModuleKind::DownProj);
                let erased = writes && !first.erased.is_empty();
                let (weight, entry) = source.weight(module)?;
                let entry = match entry {
                    Some(entry) if !erased && self.keeps(&entry) => entry,
                    earlier => {
                        let wanted = match erased {
                            true => first.erase_from(&weight)?,
                            false => weight.clone(),
                        };
                        let entry = self.entry(&wanted, earlier.as_ref())?;
                        if erased {
                            before += first.written(&weight)?;
                            after += first.written(&entry.weight()?)?;
                        }
                        entry
                    }
                };
                let wanted = self.quantize.unwrap_or(entry.layout().stored);
                if entry.layout().stored != wanted {
                    other.insert(format!("{module}.weight"), entry.layout().stored);
                }
                let index = uqff::index(layer, kind);
                match biased.contains(&module) {
                    false => files.common().push(index, &entry)?,
                    true => {
                        let earlier = entry.bias()?;
                        for (file, plan) in files.variants.iter_mut().zip(&plans) {
                            let bias =
                                sum(earlier.as_ref(), plan.biases.get(&module), spec.hidden)?;
                            file.push(index, &entry.with_bias(Some(&bias))?)?;
                        }
                    }
                }
            }
            progress(layer + 1, spec.layers);
        }
        let (head, entry) = source.head()?;
        let head = match entry {
            Some(entry) if self.keeps(&entry) => entry,
            earlier => self.entry(&head, earlier.as_ref())?,
        };
        if self.quantize.is_some_and(|q| q != head.layout().stored) {
            other.insert(source.config.head().to_owned(), head.layout().stored);
        }
        files.common().push(uqff::HEAD, &head)?;
        let left = match first.erased.is_empty() {
            true => None,
            false => {
                let table = source.other(EMBEDDINGS)?;
                before += first.written(&table.t()?.contiguous()?)?;
                after += first.written(&first.embed(&table)?.t()?.contiguous()?)?;
                Some((after / f64::max(before, f64::MIN_POSITIVE)).sqrt())
            }
        };
        if let (Some(left), Exactness::Exact) = (left, self.exactness)
            && left > EXACT
        {
            return Err(refused(
                format!("an ablation of which {left:.4} would be left"),
                "quantized weights round the direction back in; store f32, or take it as it is (--approximate)",
            ));
        }
        let bytes = files.finish(variants)?;
        directory.commit(spec, &source.directory, |name| {
            let tensor = source.other(name)?;
            match name == EMBEDDINGS {
                true => first.embed(&tensor),
                false => Ok(tensor),
            }
        })?;
        Ok(BakeReport {
            biases: variants
                .iter()
                .zip(&plans)
                .map(|(v, p)| Ok((v.name.clone(), norms(p)?)))
                .collect::<Result<_>>()?,
            left,
            other,
            bytes,
        })
    }

    /// Whether an entry stays what it is.
    fn keeps(&self, entry: &Entry) -> bool {
        let stored = entry.layout().stored;
        self.quantize
            .is_none_or(|q| q.fitted(entry.layout().shape) == stored)
    }

    /// `weight` as it is stored, with the bias of `earlier`.
    fn entry(&self, weight: &Tensor, earlier: Option<&Entry>) -> Result<Entry> {
        let stored = earlier.map_or(WeightType::F32, |e| e.layout().stored);
        let bias = earlier.map(Entry::bias).transpose()?.flatten();
        Entry::quantize(weight, bias.as_ref(), self.quantize.unwrap_or(stored))
    }

    /// What every variant comes to, all in agreement about what is shared.
    fn plans(&self, variants: &[Variant]) -> Result<Vec<BakePlan>> {
        let spec = &self.source.spec;
        let plans = variants
            .iter()
            .map(|v| BakePlan::of(spec, &v.interventions))
            .collect::<Result<Vec<_>>>()?;
        let shared = |p: &BakePlan| p.embeddings.is_some() || !p.erased.is_empty();
        if plans.len() > 1 && plans.iter().any(shared) {
            return Err(refused(
                "several variants that change the embeddings or ablate everywhere",
                "they share embeddings and all weights without a bias; bake each into its own directory",
            ));
        }
        if let Some(q) = self.quantize.filter(|q| !q.takes_bias())
            && plans.iter().any(|p| !p.biases.is_empty())
        {
            return Err(refused(
                format!("into {q}"),
                "mistral.rs 0.8.1 adds a bias twice there; use another type",
            ));
        }
        Ok(plans)
    }

    fn files(
        &self,
        directory: &UqffDirectory,
        variants: &[Variant],
        biased: &BTreeSet<TargetModule>,
    ) -> Result<Files> {
        let source = self.source;
        let all = 0..1 + 7 * source.spec.layers;
        let own: BTreeSet<usize> = biased
            .iter()
            .map(|s| uqff::index(s.layer, s.kind))
            .collect();
        let mut earlier = BTreeMap::new();
        for module in biased {
            let entry = source.weight(*module)?.1;
            if let Some(bias) = entry.as_ref().map(Entry::bias).transpose()?.flatten() {
                let index = uqff::index(module.layer, module.kind);
                earlier.insert(index, Floats(bias.to_vec1()?));
            }
        }
        let base = source.provenance()?;
        if !base.steering.is_empty() {
            return Err(refused(
                format!("steering into {}, which has some already", base.model),
                "change its coeff, or bake into the model that it was made of",
            ));
        }
        let common = variants.len() > 1;
        let mut files = Vec::new();
        for variant in variants {
            let provenance = Provenance {
                beside: common.then(|| SHARED.to_owned()),
                steering: variant
                    .interventions
                    .iter()
                    .map(Steered::of)
                    .collect::<Result<_>>()?,
                earlier: earlier.clone(),
                ..base.clone()
            };
            let indices: Vec<usize> = match common {
                true => own.iter().copied().collect(),
                false => all.clone().collect(),
            };
            files.push(directory.file(&file_name(&variant.name), indices, provenance)?);
        }
        let shared = match common {
            true => Some(directory.file(SHARED, all.filter(|i| !own.contains(i)), base)?),
            false => None,
        };
        Ok(Files {
            shared,
            variants: files,
        })
    }
}

/// The files of a bake.
struct Files {
    shared: Option<UqffWriter>,
    variants: Vec<UqffWriter>,
}

impl Files {
    /// Where an entry goes that all have in common.
    fn common(&mut self) -> &mut UqffWriter {
        match &mut self.shared {
            Some(shared) => shared,
            None => &mut self.variants[0], // there is one
        }
    }

    fn finish(self, variants: &[Variant]) -> Result<BTreeMap<String, u64>> {
        let mut bytes = BTreeMap::new();
        if let Some(shared) = self.shared {
            bytes.insert(SHARED.to_owned(), shared.finish()?);
        }
        for (file, variant) in self.variants.into_iter().zip(variants) {
            bytes.insert(file_name(&variant.name), file.finish()?);
        }
        Ok(bytes)
    }
}

fn file_name(variant: &str) -> String {
    format!("{variant}.uqff")
}

/// The bias of a module; zeros where neither is.
fn sum(earlier: Option<&Tensor>, steering: Option<&Tensor>, hidden: usize) -> Result<Tensor> {
    Ok(match (earlier, steering) {
        (Some(earlier), Some(steering)) => (earlier + steering)?,
        (Some(bias), None) | (None, Some(bias)) => bias.clone(),
        (None, None) => Tensor::zeros(hidden, candle_core::DType::F32, &candle_core::Device::Cpu)?,
    })
}

fn norms(plan: &BakePlan) -> Result<BTreeMap<TargetModule, f64>> {
    let norm = |b: &Tensor| -> Result<f64> {
        Ok(f64::from(b.sqr()?.sum_all()?.sqrt()?.to_scalar::<f32>()?))
    };
    let each = plan.biases.iter();
    each.map(|(module, b)| Ok((*module, norm(b)?))).collect()
}

fn refused(what: impl Into<String>, reason: impl Into<String>) -> Error {
    Error::Bake {
        what: what.into(),
        reason: reason.into(),
    }
}
