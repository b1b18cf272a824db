//! Writing baked directories: one pass over the weights, one linear layer at a time.

use super::plan::{BakePlan, refused, writes_to_stream};
use crate::error::{Error, Result};
use crate::model::uqff::{
    self, BakedSteering, Entry, UQFF, UqffDirectory, UqffProvenance, UqffWriter, WeightType,
};
use crate::model::{EMBEDDINGS, Source, StoredLinear};
use crate::runtime::check_uqff;
use candle_core::{DType, Device, Tensor};
use reptune_adapters::formats::safetensors::TensorFile;
use reptune_adapters::model::ModuleKind;
use reptune_adapters::{Intervention, TargetModule, files};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// File of the entries that several doses have in common.
pub const SHARED: &str = "shared.uqff";

/// The most that may remain of an ablated direction in an exact bake: the rounding error of
/// f32.
const EXACT: f64 = 1e-5;

/// Whether a bake may differ from the interventions that it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exactness {
    /// Only in the last bits of a sum.
    Exact,
    /// By what the report says.
    Approximate,
}

/// One of several steered models that are written together.
#[derive(Debug, Clone)]
pub struct DoseFile {
    /// Name of its file, without `.uqff`. mistral.rs takes names that end in `-1`, `-2` .. for
    /// shards of one model.
    pub name: String,
    /// What is baked into it.
    pub interventions: Vec<Intervention>,
}

/// What a bake wrote.
#[derive(Debug, Clone, PartialEq)]
pub struct BakeReport {
    /// L2 norm of the bias of every module that has one, by name of the file without `.uqff`.
    pub biases: BTreeMap<String, BTreeMap<TargetModule, f64>>,
    /// Share of the ablated directions that the weights still write, if there are some:
    /// `|d^T Q(W - d d^T W)| / |d^T W|` over all weights, with Q the rounding.
    pub left: Option<f64>,
    /// Tensors stored in another type than the one asked for, because its blocks do not
    /// divide their rows; mistral.rs falls back to the same types when it quantizes.
    pub other: BTreeMap<String, WeightType>,
    /// Bytes of every UQFF, by name.
    pub bytes: BTreeMap<String, u64>,
}

/// Bakes steering into a model.
pub struct Baker<'a> {
    /// The model.
    pub source: &'a Source,
    /// The type of all weights. If none, a UQFF keeps its types and a full checkpoint becomes
    /// f32.
    pub quantize: Option<WeightType>,
    /// Whether the result may differ from the interventions.
    pub exactness: Exactness,
}

impl Baker<'_> {
    /// Writes the model with `interventions` to the directory `out`: [`UQFF`], the other
    /// weights, configuration and tokenizer. `progress` is called after each block with the
    /// number of blocks that are done, and of all.
    ///
    /// Weights that stay f32 run only where mistral.rs loads as f32: it does not convert
    /// what a UQFF holds, and its default on the CPU is f16.
    ///
    /// # Errors
    /// Those of [`BakePlan::of`]; when `out` holds files, the model is incomplete or steered
    /// already, the type takes no bias, or the result would not be exact. Nothing is left at
    /// `out` then.
    pub fn write(
        &self,
        interventions: &[Intervention],
        out: &Path,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<BakeReport> {
        let plan = self.plan(interventions)?;
        let directory = UqffDirectory::create(out)?;
        let mut provenance = self.source.provenance()?;
        provenance.steering = self.steering(interventions)?;
        let entries = 0..1 + 7 * self.source.spec.layers;
        let file = directory.file(UQFF, entries, provenance)?;
        let name = UQFF.trim_end_matches(".uqff").to_owned();
        let files = BakeFiles {
            doses: vec![BakedDose { name, plan, file }],
            shared: None,
        };
        self.write_files(directory, files, progress)
    }

    /// Writes several `doses` to the directory `out`: [`SHARED`], for each dose a file with
    /// the entries that have a bias in one of them, the other weights, configuration and
    /// tokenizer. mistral.rs loads a dose from the two files `shared.uqff;NAME.uqff`.
    ///
    /// # Errors
    /// Those of [`Baker::write`], and when a dose needs more than biases.
    pub fn write_doses(
        &self,
        doses: &[DoseFile],
        out: &Path,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<BakeReport> {
        let plan = |dose: &DoseFile| self.plan_of_biases(&dose.interventions);
        let plans: Vec<BakePlan> = doses.iter().map(plan).collect::<Result<_>>()?;
        if plans.is_empty() {
            return Err(refused("nothing", "name at least one dose"));
        }
        let biased = plans.iter().flat_map(|p| p.biases.keys());
        let own: BTreeSet<usize> = biased.map(|m| uqff::index(m.layer, m.kind)).collect();
        let directory = UqffDirectory::create(out)?;
        let mut files = BakeFiles {
            doses: Vec::new(),
            shared: None,
        };
        for (dose, plan) in doses.iter().zip(plans) {
            let (name, provenance) = (dose.name.clone(), self.dose_provenance(dose)?);
            let file = directory.file(&file_name(&name), own.iter().copied(), provenance)?;
            files.doses.push(BakedDose { name, plan, file });
        }
        let shared = (0..1 + 7 * self.source.spec.layers).filter(|i| !own.contains(i));
        files.shared = Some(directory.file(SHARED, shared, self.source.provenance()?)?);
        self.write_files(directory, files, progress)
    }

    /// Writes one more dose, or one anew, to `directory`, which [`Baker::write_doses`] wrote
    /// from the same source and with the same type. Only the file of `dose` is written. It
    /// is renamed into place, so a program that opens it reads the old dose or the new one.
    ///
    /// # Errors
    /// When `dose` needs another bias than the doses there, or more than biases; when
    /// `directory` was baked from another model, or the disk is full.
    pub fn write_dose(&self, dose: &DoseFile, directory: &Path) -> Result<()> {
        let (source, spec) = (self.source, &self.source.spec);
        let plan = self.plan_of_biases(&dose.interventions)?;
        let path = directory.join(SHARED);
        let shared = TensorFile::open(&path)?;
        let names: BTreeSet<String> = shared.names().into_iter().collect();
        let own: Vec<TargetModule> = (0..spec.layers)
            .flat_map(|layer| ModuleKind::ALL.map(|kind| TargetModule { layer, kind }))
            .filter(|m| !names.contains(&uqff::index(m.layer, m.kind).to_string()))
            .collect();
        if let Some(module) = plan.biases.keys().find(|m| !own.contains(m)) {
            let what = format!("a bias at {module} next to {}", path.display());
            let reason = "the doses there have none at this module; bake into a new directory";
            return Err(refused(what, reason));
        }
        let provenance = UqffProvenance::read(&path, &shared.metadata())?;
        let found = provenance.map_or("no provenance".to_owned(), |p| p.model_fingerprint);
        if !spec.is(&found) {
            let hint = "name the model that the directory was baked from";
            let place = "model fingerprint";
            return Err(Error::model(path, place, &spec.fingerprint, found, hint));
        }
        files::replace(&directory.join(file_name(&dose.name)), |temporary| {
            let indices = own.iter().map(|m| uqff::index(m.layer, m.kind));
            let mut file = UqffWriter::create(temporary, indices, self.dose_provenance(dose)?)?;
            for module in &own {
                let entry = self.entry(source.linear(Some(*module))?)?;
                let index = uqff::index(module.layer, module.kind);
                file.push(index, &with_bias(&entry, plan.biases.get(module))?)?;
            }
            file.finish()?;
            Ok(())
        })
    }

    /// Fills `files` and completes the directory.
    fn write_files(
        &self,
        directory: UqffDirectory,
        mut files: BakeFiles,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<BakeReport> {
        let (source, spec) = (self.source, &self.source.spec);
        // Doses change biases only, so there is at most one plan that changes weights.
        let plan = files.doses[0].plan.clone();
        let ablates = !plan.erased.is_empty();
        // Squared norms along the ablated directions.
        let (mut before, mut after) = (0., 0.);
        let mut other = BTreeMap::new();
        let mut stored_as = |name: String, entry: &Entry| {
            let stored = entry.layout().stored;
            if self.quantize.is_some_and(|wanted| wanted != stored) {
                other.insert(name, stored);
            }
        };
        for layer in 0..spec.layers {
            for kind in ModuleKind::ALL {
                let module = TargetModule { layer, kind };
                let linear = source.linear(Some(module))?;
                let entry = match writes_to_stream(kind) && ablates {
                    false => self.entry(linear)?,
                    true => {
                        before += plan.written(&linear.weight, linear.bias.as_ref())?;
                        let entry = self.quantized(&plan.erase_from_linear(linear)?)?;
                        after += plan.written(&entry.weight()?, entry.bias()?.as_ref())?;
                        entry
                    }
                };
                stored_as(format!("{module}.weight"), &entry);
                files.push(module, &entry)?;
            }
            progress(layer + 1, spec.layers);
        }
        let head = self.entry(source.linear(None)?)?;
        stored_as(source.config.weight_name(None), &head);
        files.common().push(uqff::HEAD, &head)?;
        let mut left = None;
        if ablates {
            let table = source.other(EMBEDDINGS)?;
            before += plan.written(&table.t()?.contiguous()?, None)?;
            after += plan.written(&plan.embed(&table)?.t()?.contiguous()?, None)?;
            let share = (after / f64::max(before, f64::MIN_POSITIVE)).sqrt();
            if self.exactness == Exactness::Exact && share > EXACT {
                return Err(refused(
                    format!("an ablation of which {share:.4} would be left"),
                    "quantized weights round the direction back in; store f32, or accept the difference (--approximate)",
                ));
            }
            left = Some(share);
        }
        let (mut biases, mut bytes) = (BTreeMap::new(), BTreeMap::new());
        if let Some(shared) = files.shared {
            bytes.insert(SHARED.to_owned(), shared.finish()?);
        }
        for BakedDose { name, plan, file } in files.doses {
            let mut norms = BTreeMap::new();
            for (module, bias) in plan.biases {
                let norm: f32 = bias.sqr()?.sum_all()?.sqrt()?.to_scalar()?;
                norms.insert(module, f64::from(norm));
            }
            bytes.insert(file_name(&name), file.finish()?);
            biases.insert(name, norms);
        }
        directory.commit(spec, &source.directory, |name, _| {
            let tensor = source.other(name)?;
            match name == EMBEDDINGS {
                true => plan.embed(&tensor),
                false => Ok(tensor),
            }
        })?;
        Ok(BakeReport {
            biases,
            left,
            other,
            bytes,
        })
    }

    /// `linear` as it is stored. The entry that it comes from is copied where its type is the
    /// one that is wanted.
    fn entry(&self, linear: StoredLinear) -> Result<Entry> {
        let is = |q: WeightType, e: &Entry| q.fitted(e.layout().shape) == e.layout().stored;
        match linear.entry {
            Some(entry) if self.quantize.is_none_or(|q| is(q, &entry)) => Ok(entry),
            _ => self.quantized(&linear),
        }
    }

    /// `linear`, quantized, with its bias.
    fn quantized(&self, linear: &StoredLinear) -> Result<Entry> {
        let stored = linear.entry.as_ref();
        let stored = stored.map_or(WeightType::F32, |e| e.layout().stored);
        let wanted = self.quantize.unwrap_or(stored);
        Entry::quantize(&linear.weight, linear.bias.as_ref(), wanted)
    }

    fn plan(&self, interventions: &[Intervention]) -> Result<BakePlan> {
        check_uqff(&self.source.config)?;
        let plan = BakePlan::of(&self.source.spec, interventions)?;
        match self.quantize.filter(|q| !q.takes_bias()) {
            Some(q) if !plan.biases.is_empty() || self.source.config.is_biased() => {
                let reason = "mistral.rs 0.8.1 adds a bias twice there; use another type";
                Err(refused(format!("into {q}"), reason))
            }
            _ => Ok(plan),
        }
    }

    fn plan_of_biases(&self, interventions: &[Intervention]) -> Result<BakePlan> {
        let plan = self.plan(interventions)?;
        match plan.is_biases_only() {
            true => Ok(plan),
            false => Err(refused(
                "doses that change the embeddings or ablate everywhere",
                "doses share embeddings and all weights without a bias; bake each into its own directory",
            )),
        }
    }

    /// What is baked, for the provenance.
    fn steering(&self, interventions: &[Intervention]) -> Result<Vec<BakedSteering>> {
        let base = self.source.provenance()?;
        if !base.steering.is_empty() {
            let what = format!("steering into {}, which has some already", base.model);
            return Err(refused(what, "bake into the model that it was made of"));
        }
        interventions.iter().map(BakedSteering::of).collect()
    }

    fn dose_provenance(&self, dose: &DoseFile) -> Result<UqffProvenance> {
        Ok(UqffProvenance {
            shared: Some(SHARED.to_owned()),
            steering: self.steering(&dose.interventions)?,
            ..self.source.provenance()?
        })
    }
}

/// A dose that is being written.
struct BakedDose {
    name: String,
    plan: BakePlan,
    file: UqffWriter,
}

/// The files of a bake.
struct BakeFiles {
    /// The entries that all doses have in common; in the only file if none.
    shared: Option<UqffWriter>,
    doses: Vec<BakedDose>,
}

impl BakeFiles {
    /// The file of the entries that all doses have in common.
    fn common(&mut self) -> &mut UqffWriter {
        match &mut self.shared {
            Some(shared) => shared,
            None => &mut self.doses[0].file,
        }
    }

    /// Writes the entry of `module`: to every dose if one of them gives it a bias.
    fn push(&mut self, module: TargetModule, entry: &Entry) -> Result<()> {
        let index = uqff::index(module.layer, module.kind);
        let mut plans = self.doses.iter().map(|d| &d.plan);
        if !plans.any(|p| p.biases.contains_key(&module)) {
            return self.common().push(index, entry);
        }
        for BakedDose { plan, file, .. } in &mut self.doses {
            file.push(index, &with_bias(entry, plan.biases.get(&module))?)?;
        }
        Ok(())
    }
}

fn file_name(dose: &str) -> String {
    format!("{dose}.uqff")
}

/// `entry` with `bias` added to the one that it has; a bias of zeros if neither is there.
fn with_bias(entry: &Entry, bias: Option<&Tensor>) -> Result<Entry> {
    match bias {
        Some(bias) => entry.plus_bias(bias),
        None => entry.plus_bias(&Tensor::zeros(
            entry.layout().shape.0,
            DType::F32,
            &Device::Cpu,
        )?),
    }
}
