//! One merge of an update into quantized weights, block by block.

use super::delta::{QuantizedReport, RoundedModule};
use super::types::WeightTypes;
use crate::decoder::{Stream, shared_input};
use crate::error::{Error, Result};
use crate::model::uqff::{self, Blocks, Entry, UqffDirectory, UqffWriter, WeightType};
use crate::model::{Source, StoredLinear};
use crate::runtime::check_uqff;
use candle_core::{DType, Tensor};
use reptune_adapters::model::ModuleKind;
use reptune_adapters::rounding::{LayerInputs, gptq};
use reptune_adapters::{Adapter, TargetModule};
use std::collections::BTreeMap;
use std::path::Path;

/// What compensates for the errors of rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCompensation {
    /// Nothing: every weight is rounded to the nearest value.
    None,
    /// A bias, which adds back the mean error of every layer's outputs.
    Bias,
    /// The bias, and GPTQ's feedback from column to column.
    Feedback,
}

/// A merge of `update` into `source`, quantized.
pub struct QuantizedMerge<'a> {
    /// The model.
    pub source: &'a Source,
    /// What is added to its weights.
    pub update: &'a Adapter,
    /// The types that the sums are rounded to.
    pub types: WeightTypes,
    /// What compensates for the errors of rounding.
    pub compensation: ErrorCompensation,
    /// Prompts on which the inputs of the layers are measured. [`ErrorCompensation::None`]
    /// needs none, and measures [`RoundedModule::noise`] if there are some.
    pub calibration: &'a [Vec<u32>],
}

/// The file, and what it holds so far.
struct Written {
    file: UqffWriter,
    report: QuantizedReport,
    bytes: usize,
    weights: usize,
}

impl Written {
    fn push(&mut self, index: usize, entry: &Entry) -> Result<()> {
        let layout = entry.layout();
        let stored = layout.stored.to_string();
        *self.report.types.entry(stored).or_default() += 1;
        self.bytes += layout.end;
        self.weights += layout.shape.0 * layout.shape.1;
        self.file.push(index, entry)
    }
}

/// A module before it is rounded.
struct Unrounded {
    module: TargetModule,
    stored: StoredLinear,
    delta: Option<Tensor>,
    /// Weight and delta together.
    sum: Tensor,
}

impl QuantizedMerge<'_> {
    /// Writes the UQFF directory `out`. `progress` is called after each block with the
    /// number of blocks that are done, and of all.
    ///
    /// Entries of a quantized model that have the right type already, and are not changed by
    /// the update, are copied.
    ///
    /// # Errors
    /// When `out` holds files, a module has another shape, calibration prompts are needed and
    /// there are none, a type takes no bias, or a sum is not finite. Nothing is left at `out`
    /// then.
    pub fn write(
        &self,
        out: &Path,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<QuantizedReport> {
        self.check()?;
        let (source, spec) = (self.source, &self.source.spec);
        let directory = UqffDirectory::create(out)?;
        let mut provenance = source.provenance()?;
        if !self.update.modules.is_empty() {
            provenance.updates.push(self.update.content_hash()?);
        }
        let entries = 0..1 + 7 * spec.layers;
        let mut written = Written {
            file: directory.file(uqff::UQFF, entries, provenance)?,
            report: QuantizedReport::default(),
            bytes: 0,
            weights: 0,
        };
        let mut stream = match self.calibration {
            [] => None,
            prompts => Some(Stream::start(source, prompts)?),
        };
        for layer in 0..spec.layers {
            self.block(layer, stream.as_mut(), &mut written)?;
            progress(layer + 1, spec.layers);
        }
        written.push(uqff::HEAD, &self.head(stream.as_ref())?)?;
        let bytes = written.file.finish()?;
        directory.commit(spec, &source.directory, |name, _| source.other(name))?;
        Ok(QuantizedReport {
            bits: 8. * written.bytes as f64 / written.weights.max(1) as f64,
            bytes,
            ..written.report
        })
    }

    fn check(&self) -> Result<()> {
        let spec = &self.source.spec;
        check_uqff(&self.source.config)?;
        if let Some(named) = self.types.all.filter(|named| !named.takes_bias())
            && self.source.config.is_biased()
        {
            let (what, expected) = ("quantization", "a type that takes a bias, such as q4_0");
            let hint = "this model has biases, and mistral.rs 0.8.1 adds them twice there";
            let found = named.to_string();
            return Err(reptune_adapters::Error::value(what, expected, found, hint).into());
        }
        if self.compensation != ErrorCompensation::None && self.calibration.is_empty() {
            let (what, expected) = ("calibration prompts", "at least one for this rounding");
            let hint = "name the recipe with --recipe: its training claims are the prompts";
            return Err(reptune_adapters::Error::value(what, expected, "none", hint).into());
        }
        for (module, adapter) in &self.update.modules {
            let expected = module.kind.shape(spec);
            let found = (adapter.b.dims()[0], adapter.a.dims()[1]);
            if module.layer >= spec.layers || found != expected {
                let wanted = format!("shape {found:?}, that of the update");
                let found = match module.layer < spec.layers {
                    true => format!("{expected:?}"),
                    false => format!("{} blocks", spec.layers),
                };
                let hint = "the update is for another model";
                return Err(self.wrong(*module, &wanted, &found, hint));
            }
        }
        Ok(())
    }

    fn wrong(&self, module: TargetModule, expected: &str, found: &str, hint: &str) -> Error {
        let (path, place) = (&self.source.directory, format!("weight `{module}`"));
        Error::model(path, place, expected, found, hint)
    }

    fn block(
        &self,
        layer: usize,
        stream: Option<&mut Stream>,
        written: &mut Written,
    ) -> Result<()> {
        let module = |kind| self.unrounded(TargetModule { layer, kind });
        let modules = ModuleKind::ALL.into_iter().map(module);
        let modules: Vec<Unrounded> = modules.collect::<Result<_>>()?;
        let inputs = match &stream {
            Some(stream) => {
                let sums = modules.iter();
                stream.inputs(layer, sums.map(|m| (m.sum.clone(), m.stored.bias.clone())))?
            }
            None => BTreeMap::new(),
        };
        let mut entries = Vec::new();
        for unrounded in &modules {
            let kind = unrounded.module.kind;
            let (entry, measured) = self.round(unrounded, inputs.get(&shared_input(kind)))?;
            if let Some(measured) = measured {
                written.report.modules.insert(unrounded.module, measured);
            }
            written.push(uqff::index(layer, kind), &entry)?;
            entries.push(entry);
        }
        if let Some(stream) = stream {
            stream.advance(layer, &entries)?;
        }
        Ok(())
    }

    fn unrounded(&self, module: TargetModule) -> Result<Unrounded> {
        let stored = self.source.linear(Some(module))?;
        let (mut delta, mut sum) = (None, stored.weight.clone());
        if let Some(update) = self.update.modules.get(&module) {
            let added = update.delta()?.to_dtype(DType::F32)?;
            sum = (&stored.weight + &added)?;
            delta = Some(added);
        }
        let total: f32 = sum.abs()?.sum_all()?.to_scalar()?;
        if !total.is_finite() {
            let expected = "a finite sum of weight and update";
            let hint = "the update is broken or far too large";
            return Err(self.wrong(module, expected, "numbers that are not finite", hint));
        }
        Ok(Unrounded {
            module,
            stored,
            delta,
            sum,
        })
    }

    /// The entry of a module, and how much of its delta is left, if it has one.
    fn round(
        &self,
        unrounded: &Unrounded,
        inputs: Option<&LayerInputs>,
    ) -> Result<(Entry, Option<RoundedModule>)> {
        let (stored, sum) = (&unrounded.stored, &unrounded.sum);
        let (weight, earlier) = (&stored.weight, stored.entry.as_ref());
        let current = earlier.map(|e| e.layout().stored);
        let wanted = self.types.of(Some(unrounded.module), current);
        let wanted = wanted.fitted(sum.dims2()?);
        if let (Some(entry), None) = (earlier, &unrounded.delta)
            && current == Some(wanted)
        {
            return Ok((entry.clone(), None));
        }
        let mut entry = self.quantize(sum, inputs, wanted)?;
        let correction = match (self.compensation, inputs) {
            (ErrorCompensation::Bias | ErrorCompensation::Feedback, Some(inputs))
                if wanted.takes_bias() && wanted != WeightType::F32 =>
            {
                let error = (sum - entry.weight()?)?; // (O, I)
                Some(error.matmul(&inputs.mean()?.unsqueeze(1)?)?.squeeze(1)?) // (O,)
            }
            _ => None,
        };
        for bias in [&stored.bias, &correction].into_iter().flatten() {
            entry = entry.plus_bias(bias)?;
        }
        let Some(delta) = &unrounded.delta else {
            return Ok((entry, None));
        };
        let base = match earlier {
            Some(_) => weight.clone(),
            None => Entry::quantize(weight, None, wanted)?.weight()?,
        };
        let changed = (weight, delta, &base);
        let measured = RoundedModule::measure(changed, &entry, correction.as_ref(), inputs)?;
        Ok((entry, Some(measured)))
    }

    /// The output head. mistral.rs adds no bias to it, so its mean error is not corrected.
    fn head(&self, stream: Option<&Stream>) -> Result<Entry> {
        let StoredLinear { weight, entry, .. } = self.source.linear(None)?;
        let current = entry.as_ref().map(|e| e.layout().stored);
        let wanted = self.types.of(None, current).fitted(weight.dims2()?);
        if let Some(entry) = entry.filter(|_| current == Some(wanted)) {
            return Ok(entry);
        }
        let inputs = stream.map(Stream::head_inputs);
        self.quantize(&weight, inputs.transpose()?.as_ref(), wanted)
    }

    /// `weight` in the type `stored`, without a bias.
    fn quantize(
        &self,
        weight: &Tensor,
        inputs: Option<&LayerInputs>,
        stored: WeightType,
    ) -> Result<Entry> {
        let blocks = Blocks::of(stored, weight.dims2()?.1);
        let feedback =
            self.compensation == ErrorCompensation::Feedback && stored != WeightType::F32;
        match (inputs, blocks) {
            (Some(inputs), Some(blocks)) if feedback => {
                Entry::quantize(&gptq(weight, inputs, &blocks)?, None, stored)
            }
            _ => Entry::quantize(weight, None, stored),
        }
    }
}
