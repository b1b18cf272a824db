//! Writing baked directories: one pass over the weights, one linear layer at a time.

use super::plan::{BakePlan, writes_to_stream};
use super::refused;
use crate::error::{Error, Result};
use crate::model::Source;
use crate::model::uqff::{
    self, BakedSteering, EMBEDDINGS, Entry, Provenance, UQFF, UqffDirectory, UqffWriter, WeightType,
};
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Exactness {
    /// Only in the last bits of a sum.
    #[default]
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
        let model = DoseFile {
            name: UQFF.trim_end_matches(".uqff").to_owned(),
            interventions: interventions.to_vec(),
        };
        let plans = vec![self.plan(interventions)?];
        let directory = UqffDirectory::create(out)?;
        let mut provenance = self.source.provenance()?;
        provenance.steering = self.steering(&model)?;
        let entries = 0..1 + 7 * self.source.spec.layers;
        let file = directory.file(UQFF, entries, provenance)?;
        let files = BakeFiles {
            doses: vec![(model, file)],
            shared: None,
        };
        self.write_files(directory, files, &plans, progress)
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
        for dose in doses {
            let provenance = self.dose_provenance(dose)?;
            let file = directory.file(&file_name(&dose.name), own.iter().copied(), provenance)?;
            files.doses.push((dose.clone(), file));
        }
        let shared = (0..1 + 7 * self.source.spec.layers).filter(|i| !own.contains(i));
        files.shared = Some(directory.file(SHARED, shared, self.source.provenance()?)?);
        self.write_files(directory, files, &plans, progress)
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
            return Err(refused(
                format!("a bias at {module} next to {}", path.display()),
                "the doses there have none at this module; bake into a new directory",
            ));
        }
        let provenance = Provenance::read(&path, &shared.metadata())?;
        let found = provenance.map_or("no provenance".to_owned(), |p| p.model_fingerprint);
        if found != spec.fingerprint {
            let hint = "name the model that the directory was baked from";
            let place = "model fingerprint";
            return Err(Error::model(path, place, &spec.fingerprint, found, hint));
        }
        files::replace(&directory.join(file_name(&dose.name)), |temporary| {
            let indices = own.iter().map(|m| uqff::index(m.layer, m.kind));
            let mut file = UqffWriter::create(temporary, indices, self.dose_provenance(dose)?)?;
            for module in &own {
                let (weight, earlier) = source.weight(*module)?;
                let entry = self.entry(weight, earlier)?;
                let index = uqff::index(module.layer, module.kind);
                file.push(index, &with_bias(&entry, plan.biases.get(module))?)?;
            }
            file.finish()?;
            Ok(())
        })
    }

    /// Fills `files`, whose doses have `plans`, and completes the directory.
    fn write_files(
        &self,
        directory: UqffDirectory,
        mut files: BakeFiles,
        plans: &[BakePlan],
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<BakeReport> {
        let (source, spec) = (self.source, &self.source.spec);
        // Doses change biases only, so there is at most one plan that changes weights.
        let plan = &plans[0];
        let mut ablated = Ablated::default();
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
                let (weight, earlier) = source.weight(module)?;
                let entry = match writes_to_stream(kind) && !plan.erased.is_empty() {
                    false => self.entry(weight, earlier)?,
                    true => {
                        let entry = self.quantized(&plan.erase_from(&weight)?, earlier.as_ref())?;
                        ablated.add(plan, &weight, &entry.weight()?)?;
                        entry
                    }
                };
                stored_as(format!("{module}.weight"), &entry);
                files.push(module, &entry, plans)?;
            }
            progress(layer + 1, spec.layers);
        }
        let (weight, earlier) = source.head()?;
        let head = self.entry(weight, earlier)?;
        stored_as(source.config.head().to_owned(), &head);
        files.common().push(uqff::HEAD, &head)?;
        if !plan.erased.is_empty() {
            let table = source.other(EMBEDDINGS)?;
            let columns = |table: &Tensor| table.t()?.contiguous();
            ablated.add(plan, &columns(&table)?, &columns(&plan.embed(&table)?)?)?;
        }
        let left = (!plan.erased.is_empty()).then(|| ablated.left());
        if let (Some(left), Exactness::Exact) = (left, self.exactness)
            && left > EXACT
        {
            return Err(refused(
                format!("an ablation of which {left:.4} would be left"),
                "quantized weights round the direction back in; store f32, or accept the difference (--approximate)",
            ));
        }
        let named = files.doses.iter().zip(plans);
        let biases = named
            .map(|((dose, _), plan)| Ok((dose.name.clone(), norms(plan)?)))
            .collect::<Result<_>>()?;
        let bytes = files.finish()?;
        directory.commit(spec, &source.directory, |name| {
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

    /// `weight` as it is stored. The entry that it comes from is copied where its type is the
    /// one that is wanted.
    fn entry(&self, weight: Tensor, earlier: Option<Entry>) -> Result<Entry> {
        let keeps = |entry: &Entry| {
            let layout = entry.layout();
            self.quantize
                .is_none_or(|q| q.fitted(layout.shape) == layout.stored)
        };
        match earlier {
            Some(entry) if keeps(&entry) => Ok(entry),
            earlier => self.quantized(&weight, earlier.as_ref()),
        }
    }

    /// `weight`, quantized, with the bias of `earlier`.
    fn quantized(&self, weight: &Tensor, earlier: Option<&Entry>) -> Result<Entry> {
        let stored = earlier.map_or(WeightType::F32, |e| e.layout().stored);
        let bias = earlier.map(Entry::bias).transpose()?.flatten();
        Entry::quantize(weight, bias.as_ref(), self.quantize.unwrap_or(stored))
    }

    fn plan(&self, interventions: &[Intervention]) -> Result<BakePlan> {
        let plan = BakePlan::of(&self.source.spec, interventions)?;
        match self.quantize.filter(|q| !q.takes_bias()) {
            Some(q) if !plan.biases.is_empty() => Err(refused(
                format!("into {q}"),
                "mistral.rs 0.8.1 adds a bias twice there; use another type",
            )),
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
    fn steering(&self, dose: &DoseFile) -> Result<Vec<BakedSteering>> {
        let base = self.source.provenance()?;
        if !base.steering.is_empty() {
            return Err(refused(
                format!("steering into {}, which has some already", base.model),
                "bake into the model that it was made of",
            ));
        }
        dose.interventions.iter().map(BakedSteering::of).collect()
    }

    fn dose_provenance(&self, dose: &DoseFile) -> Result<Provenance> {
        Ok(Provenance {
            shared: Some(SHARED.to_owned()),
            steering: self.steering(dose)?,
            ..self.source.provenance()?
        })
    }
}

/// The files of a bake.
struct BakeFiles {
    /// The entries that all doses have in common; in the only file if none.
    shared: Option<UqffWriter>,
    doses: Vec<(DoseFile, UqffWriter)>,
}

impl BakeFiles {
    /// The file of the entries that all doses have in common.
    fn common(&mut self) -> &mut UqffWriter {
        match &mut self.shared {
            Some(shared) => shared,
            None => &mut self.doses[0].1,
        }
    }

    /// Writes the entry of `module`: to every dose if one of them gives it a bias.
    fn push(&mut self, module: TargetModule, entry: &Entry, plans: &[BakePlan]) -> Result<()> {
        let index = uqff::index(module.layer, module.kind);
        if !plans.iter().any(|p| p.biases.contains_key(&module)) {
            return self.common().push(index, entry);
        }
        for ((_, file), plan) in self.doses.iter_mut().zip(plans) {
            file.push(index, &with_bias(entry, plan.biases.get(&module))?)?;
        }
        Ok(())
    }

    fn finish(self) -> Result<BTreeMap<String, u64>> {
        let mut bytes = BTreeMap::new();
        if let Some(shared) = self.shared {
            bytes.insert(SHARED.to_owned(), shared.finish()?);
        }
        for (dose, file) in self.doses {
            bytes.insert(file_name(&dose.name), file.finish()?);
        }
        Ok(bytes)
    }
}

/// Squared norms along the ablated directions, before and after.
#[derive(Default)]
struct Ablated {
    before: f64,
    after: f64,
}

impl Ablated {
    fn add(&mut self, plan: &BakePlan, before: &Tensor, after: &Tensor) -> Result<()> {
        self.before += plan.written(before)?;
        self.after += plan.written(after)?;
        Ok(())
    }

    fn left(&self) -> f64 {
        (self.after / self.before.max(f64::MIN_POSITIVE)).sqrt()
    }
}

fn file_name(dose: &str) -> String {
    format!("{dose}.uqff")
}

/// `entry` with `bias` added to the one that it has; a bias of zeros if neither is there.
fn with_bias(entry: &Entry, bias: Option<&Tensor>) -> Result<Entry> {
    let bias = match (entry.bias()?, bias) {
        (Some(earlier), Some(bias)) => (earlier + bias)?,
        (Some(earlier), None) => earlier,
        (None, Some(bias)) => bias.clone(),
        (None, None) => Tensor::zeros(entry.layout().shape.0, DType::F32, &Device::Cpu)?,
    };
    entry.with_bias(Some(&bias))
}

fn norms(plan: &BakePlan) -> Result<BTreeMap<TargetModule, f64>> {
    let norm = |b: &Tensor| -> Result<f64> {
        Ok(f64::from(b.sqr()?.sum_all()?.sqrt()?.to_scalar::<f32>()?))
    };
    let each = plan.biases.iter();
    each.map(|(module, b)| Ok((*module, norm(b)?))).collect()
}
