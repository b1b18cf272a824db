//! The merge itself, block by block.

use super::survival::{QuantizedReport, Stored, Survival};
use super::types::Types;
use crate::decoder::{Layer, Stream, shared_input};
use crate::error::{Error, Result};
use crate::model::Source;
use crate::model::uqff::{self, Blocks, Entry, UqffDirectory, UqffWriter, WeightType};
use candle_core::Tensor;
use reptune_adapters::model::ModuleKind;
use reptune_adapters::rounding::{LayerInputs, gptq};
use reptune_adapters::{Adapter, TargetModule};
use std::collections::BTreeMap;
use std::path::Path;

/// How weights are rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorCompensation {
    /// Every number to the nearest.
    None,
    /// The same, and the mean error of every layer's outputs is taken back by a bias.
    Bias,
    /// With feedback from column to column, and the bias.
    Feedback,
}

/// A merge of `update` into `source`, quantized.
pub struct QuantizedMerge<'a> {
    /// Where the weights come from.
    pub source: &'a Source,
    /// What is added to them.
    pub update: &'a Adapter,
    /// What they become.
    pub types: Types,
    /// How they are rounded.
    pub way: ErrorCompensation,
    /// Prompts that show what the layers read. [`ErrorCompensation::None`] needs none, and measures
    /// [`Survival::noise`] where there are some.
    pub calibration: &'a [Vec<u32>],
}

/// What was done so far.
struct Done {
    file: UqffWriter,
    modules: BTreeMap<TargetModule, Survival>,
    types: BTreeMap<String, usize>,
    bytes: usize,
    weights: usize,
}

impl Done {
    fn push(&mut self, index: usize, entry: &Entry) -> Result<()> {
        let layout = entry.layout();
        *self.types.entry(layout.stored.to_string()).or_default() += 1;
        self.bytes += layout.end;
        self.weights += layout.shape.0 * layout.shape.1;
        self.file.push(index, entry)
    }
}

impl QuantizedMerge<'_> {
    /// Writes the UQFF directory `out`. `progress` hears how many blocks are done, and
    /// of how many.
    ///
    /// What a quantized model already has in the right type, and the update does not
    /// change, keeps its bytes.
    ///
    /// # Errors
    /// When `out` holds files, a module has another shape, the way needs calibration prompts
    /// and there are none, a type takes no bias, or a sum is not finite. Nothing is left
    /// at `out` then.
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
        let mut done = Done {
            file: directory.file(uqff::UQFF, entries, provenance)?,
            modules: BTreeMap::new(),
            types: BTreeMap::new(),
            bytes: 0,
            weights: 0,
        };
        let mut stream = match self.calibration {
            [] => None,
            prompts => {
                let embeddings = source.other("model.embed_tokens.weight")?;
                Some(Stream::start(&source.config, &embeddings, prompts)?)
            }
        };
        for layer in 0..spec.layers {
            self.block(layer, stream.as_mut(), &mut done)?;
            progress(layer + 1, spec.layers);
        }
        done.push(uqff::HEAD, &self.head(stream.as_ref())?)?;
        let bytes = done.file.finish()?;
        directory.commit(spec, &source.directory, |name| source.other(name))?;
        Ok(QuantizedReport {
            modules: done.modules,
            types: done.types,
            bits: 8. * done.bytes as f64 / done.weights.max(1) as f64,
            bytes,
        })
    }

    /// mistral.rs adds no bias to the head, so its mean error stays.
    fn head(&self, stream: Option<&Stream>) -> Result<Entry> {
        let (weight, entry) = self.source.head()?;
        let current = entry.as_ref().map(|e| e.layout().stored);
        let wanted = self.types.other(current).fitted(weight.dims2()?);
        if let Some(entry) = entry.filter(|_| current == Some(wanted)) {
            return Ok(entry);
        }
        let inputs = match stream {
            Some(stream) => Some(stream.head_inputs(&self.source.other("model.norm.weight")?)?),
            None => None,
        };
        let target = self.target(&weight, inputs.as_ref(), wanted)?;
        Entry::quantize(&target, None, wanted)
    }

    /// The numbers that are handed to the quantizer for `wanted`.
    fn target(
        &self,
        wanted: &Tensor,
        inputs: Option<&LayerInputs>,
        stored: WeightType,
    ) -> Result<Tensor> {
        let row = wanted.dims2()?.1;
        match (self.way, inputs, Blocks::of(stored, row)) {
            (ErrorCompensation::Feedback, Some(inputs), Some(blocks))
                if stored != WeightType::F32 =>
            {
                Ok(gptq(wanted, inputs, &blocks)?)
            }
            _ => Ok(wanted.clone()),
        }
    }

    fn check(&self) -> Result<()> {
        let spec = &self.source.spec;
        if self.way != ErrorCompensation::None && self.calibration.is_empty() {
            return Err(reptune_adapters::Error::value(
                "calibration prompts",
                "at least one for this way of rounding",
                "none",
                "name the recipe with --recipe: its training claims are the prompts",
            )
            .into());
        }
        for (module, adapter) in &self.update.modules {
            let expected = module.kind.shape(spec);
            let found = (adapter.b.dims()[0], adapter.a.dims()[1]);
            if module.layer >= spec.layers || found != expected {
                return Err(Error::model(
                    &self.source.directory,
                    format!("weight `{module}`"),
                    format!("shape {found:?}, that of the update"),
                    match module.layer < spec.layers {
                        true => format!("{expected:?}"),
                        false => format!("{} blocks", spec.layers),
                    },
                    "the update is for another model",
                ));
            }
        }
        Ok(())
    }

    fn block(&self, layer: usize, stream: Option<&mut Stream>, done: &mut Done) -> Result<()> {
        let source = self.source;
        let mut modules = Vec::new();
        for kind in ModuleKind::ALL {
            let module = TargetModule { layer, kind };
            let (weight, entry) = source.weight(module)?;
            let delta = match self.update.modules.get(&module) {
                Some(update) => Some(update.delta()?.to_dtype(candle_core::DType::F32)?),
                None => None,
            };
            let wanted = match &delta {
                Some(delta) => (&weight + delta)?,
                None => weight.clone(),
            };
            finite(&wanted, module, &source.directory)?;
            modules.push(Before {
                module,
                weight,
                entry,
                delta,
                wanted,
            });
        }
        let name = |norm: &str| format!("model.layers.{layer}.{norm}.weight");
        let norms = Layer {
            layer,
            norms: [
                source.other(&name("input_layernorm"))?,
                source.other(&name("post_attention_layernorm"))?,
            ],
        };
        let wanted: Vec<Tensor> = modules.iter().map(|s| s.wanted.clone()).collect();
        let inputs = match &stream {
            Some(stream) => stream.inputs(&norms, &wanted)?,
            None => BTreeMap::new(),
        };
        let mut entries = Vec::new();
        for before in &modules {
            let inputs = inputs.get(&shared_input(before.module.kind));
            let (entry, survival) = self.module(before, inputs)?;
            if let Some(survival) = survival {
                done.modules.insert(before.module, survival);
            }
            done.push(uqff::index(layer, before.module.kind), &entry)?;
            entries.push(entry);
        }
        if let Some(stream) = stream {
            stream.advance(&norms, &entries)?;
        }
        Ok(())
    }

    /// The entry of a module, and what survived if it was tuned.
    fn module(
        &self,
        before: &Before,
        inputs: Option<&LayerInputs>,
    ) -> Result<(Entry, Option<Survival>)> {
        let shape = before.wanted.dims2()?;
        let current = before.entry.as_ref().map(|e| e.layout().stored);
        let type_ = self.types.of(before.module, current).fitted(shape);
        if let (Some(entry), None) = (&before.entry, &before.delta)
            && current == Some(type_)
        {
            return Ok((entry.clone(), None));
        }
        let earlier = before
            .entry
            .as_ref()
            .map(Entry::bias)
            .transpose()?
            .flatten();
        let target = self.target(&before.wanted, inputs, type_)?;
        let entry = Entry::quantize(&target, None, type_)?;
        let correction = match (self.way, inputs) {
            (ErrorCompensation::Bias | ErrorCompensation::Feedback, Some(inputs))
                if type_.takes_bias() && type_ != WeightType::F32 =>
            {
                let error = (&before.wanted - entry.weight()?)?; // (O, I)
                Some(error.matmul(&inputs.mean()?.unsqueeze(1)?)?.squeeze(1)?) // (O,)
            }
            _ => None,
        };
        let bias = match (earlier, &correction) {
            (Some(earlier), Some(correction)) => Some((earlier + correction)?),
            (earlier, correction) => earlier.or(correction.clone()),
        };
        let entry = entry.with_bias(bias.as_ref())?;
        let Some(delta) = &before.delta else {
            return Ok((entry, None));
        };
        let base = match &before.entry {
            Some(_) => before.weight.clone(),
            None => Entry::quantize(&before.weight, None, type_)?.weight()?,
        };
        let stored = Stored {
            before: &before.weight,
            delta,
            base: &base,
            entry: &entry,
            bias: correction.as_ref(),
        };
        let survival = stored.survival(inputs)?;
        Ok((entry, Some(survival)))
    }
}

/// A module before it is rounded.
struct Before {
    module: TargetModule,
    weight: Tensor,
    entry: Option<Entry>,
    delta: Option<Tensor>,
    wanted: Tensor,
}

fn finite(weight: &Tensor, module: TargetModule, directory: &Path) -> Result<()> {
    let sum: f32 = weight.abs()?.sum_all()?.to_scalar()?;
    match sum.is_finite() {
        true => Ok(()),
        false => Err(Error::model(
            directory,
            format!("weight `{module}`"),
            "a finite sum of weight and update",
            "numbers that are not finite",
            "the update is broken or far too large",
        )),
    }
}
