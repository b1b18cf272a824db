//! Directions, adapters and models in the formats of other programs.

use crate::error::{Error, Result};
use crate::model::{ModelDir, Source, dequantize, gguf};
use candle_core::DType;
use reptune_adapters::files::Staging;
use reptune_adapters::formats::gguf::Gguf;
use reptune_adapters::lora::{delta_file, gguf as lora};
use reptune_adapters::steering::exchange::control_vector::{self, Length};
use reptune_adapters::steering::exchange::{self, svec};
use reptune_adapters::{Dose, Error as Fault, ModelSpec, Operator, lora::peft};
use std::path::Path;

/// A conversion.
pub struct Conversion<'a> {
    /// What is converted.
    pub from: &'a Path,
    /// The file or directory to write; its extension gives the format.
    pub out: &'a Path,
    /// The model of an adapter.
    pub model: Option<&'a str>,
    /// The layers of directions, from the number of layers; all where there is none.
    pub layers: Option<&'a dyn Fn(usize) -> Result<Vec<usize>>>,
    /// The dose that the vectors of a GGUF get.
    pub dose: Option<Dose>,
    /// Layer i of a direction file is our layer i + this.
    pub layer_offset: i64,
    /// Write a model as a full checkpoint in this type.
    pub full: Option<DType>,
}

/// What was written.
pub struct Converted {
    /// In one sentence.
    pub what: String,
    /// What the reader must know about it.
    pub notes: Vec<String>,
}

impl Conversion<'_> {
    /// Converts; `progress` is called with the tensors of a model that are done, and all.
    ///
    /// # Errors
    /// When the file cannot be read, or the other format cannot hold it.
    pub fn convert(&self, progress: &mut dyn FnMut(usize, usize)) -> Result<Converted> {
        if let Some(dtype) = self.full {
            self.no_directions()?;
            dequantize(&Source::open(self.from)?, self.out, dtype, progress)?;
            let what = format!("a full checkpoint in {}", dtype.as_str());
            return converted(&what, &[]);
        }
        if self.from.is_dir() {
            return self.adapter();
        }
        if !self.from.is_file() {
            let (place, expected) = ("file or directory", "something to convert");
            let hint = "check the path";
            return Err(Error::model(self.from, place, expected, "nothing", hint));
        }
        if !Gguf::is_one(self.from) {
            return self.directions();
        }
        let file = Gguf::open(self.from)?;
        let kind = file.text("general.type")?;
        match (kind, file.text("general.architecture")?) {
            (Some("adapter"), _) => self.gguf_adapter(),
            (_, Some("controlvector")) => self.directions(),
            _ => {
                self.no_directions()?;
                gguf::import(self.from, self.out, progress)?;
                converted("a UQFF directory with the same quantized weights", &[])
            }
        }
    }

    fn directions(&self) -> Result<Converted> {
        let exchange::Read { mut set, mut notes } =
            exchange::read(self.from, self.layer_offset, Operator::Add)?;
        let held: Vec<usize> = set.layers.keys().copied().collect();
        let format = self.out.extension().and_then(|e| e.to_str());
        let format = format.unwrap_or_default();
        let layers = match self.layers {
            Some(layers) => layers(held.last().map_or(1, |l| l + 1))?,
            None if format == "gguf" && held.first() == Some(&0) => {
                notes.push("layer 0 is left out: llama.cpp cannot steer block 0".into());
                held[1..].to_vec()
            }
            None => held,
        };
        if self.dose.is_some() && format != "gguf" {
            let hint = "only control vectors of llama.cpp hold a dose; leave it out";
            let found = format!("`{}`", self.out.display());
            return Err(unfit("dose", "a .gguf file as --out", found, hint));
        }
        match format {
            "gguf" => {
                let length = match self.dose {
                    Some(dose) => Length::Dose(dose),
                    None if set.provenance.origin.is_empty() => Length::Unit,
                    None => Length::Stored,
                };
                control_vector::write(self.out, &set, &layers, length)?;
                notes.push(match length {
                    Length::Dose(dose) => format!("strength 1 in llama.cpp is {dose} here"),
                    Length::Unit => {
                        "unit vectors: a strength in llama.cpp is a coefficient at every layer"
                            .into()
                    }
                    Length::Stored => {
                        "vectors keep their norm: a strength means what it meant there".into()
                    }
                });
                notes.extend(self.dose.map(|_| {
                    "left out: the norms of the directions, which the dose replaces".into()
                }));
            }
            "svec" => {
                svec::write(self.out, &set, &layers)?;
                notes.push(
                    "left out, because .svec cannot hold it: name and fingerprint of the model, \
                     recipe, method, positions, numbers of pairs, residual norms, hash"
                        .into(),
                );
            }
            "safetensors" => {
                set.layers.retain(|l, _| layers.contains(l));
                set.save(self.out)?;
            }
            other => {
                let expected = "a name that ends in .safetensors, .gguf or .svec";
                let hint = "the extension gives the format";
                return Err(unfit("--out", expected, format!("`{other}`"), hint));
            }
        }
        let n = layers.len();
        let what = format!("directions of {n} layers; layer i is the output of block i, from 0");
        Ok(Converted { what, notes })
    }

    fn adapter(&self) -> Result<Converted> {
        self.no_directions()?;
        if self.out.extension().is_none_or(|e| e != "gguf") {
            let expected = "a name that ends in .gguf, for an adapter of llama.cpp";
            let found = self.out.display().to_string();
            return Err(unfit("--out", expected, found, "rename it"));
        }
        let spec = self.spec()?;
        let (update, notes) = peft::load_noted(self.from, &spec)?;
        lora::write(self.out, &update, &spec)?;
        let n = update.modules.len();
        let mut notes: Vec<&str> = notes.iter().map(String::as_str).collect();
        notes.extend([
            "rows of B of q_proj and k_proj are in llama.cpp's order",
            "left out: keys of adapter_config.json other than rank and alpha",
        ]);
        converted(&format!("a LoRA of {n} weights for llama.cpp"), &notes)
    }

    fn gguf_adapter(&self) -> Result<Converted> {
        self.no_directions()?;
        let spec = self.spec()?;
        let update = lora::read(self.from, &spec)?;
        // an earlier adapter, and nothing else, makes room
        let staging = Staging::replacing(self.out, is_adapter)?;
        let saved = peft::save(staging.path(), &update, &spec.name);
        saved.map_err(|e| staging.named(e))?;
        staging.commit()?;
        let n = update.modules.len();
        let note = "rows of B of q_proj and k_proj are in Hugging Face's order";
        converted(&format!("a PEFT adapter of {n} weights"), &[note])
    }

    /// Refuses settings that only directions have.
    fn no_directions(&self) -> Result<()> {
        let given = [
            ("--layers", self.layers.is_some()),
            ("dose", self.dose.is_some()),
            ("--layer-offset", self.layer_offset != 0),
        ];
        let Some((flag, _)) = given.into_iter().find(|(_, given)| *given) else {
            return Ok(());
        };
        let found = self.from.display().to_string();
        Err(unfit(flag, "directions to convert", found, "leave it out"))
    }

    fn spec(&self) -> Result<ModelSpec> {
        let expected = "the model of the adapter, whose heads give the order of rows";
        let missing = || unfit("--model", expected, "none", "add --model");
        Ok(ModelDir::resolve(self.model.ok_or_else(missing)?)?
            .config()?
            .1)
    }
}

/// Whether a directory holds the files of an adapter and no others.
fn is_adapter(directory: &Path) -> bool {
    let ours = |name: &str| {
        let starts = ["adapter_config.json", "adapter_model.", delta_file::FILE];
        starts.iter().any(|start| name.starts_with(start))
    };
    let mut entries = std::fs::read_dir(directory).into_iter().flatten();
    entries.all(|e| e.is_ok_and(|e| e.file_name().to_str().is_some_and(ours)))
}

fn converted(what: &str, notes: &[&str]) -> Result<Converted> {
    let notes = notes.iter().map(|note| (*note).to_owned()).collect();
    let what = what.to_owned();
    Ok(Converted { what, notes })
}

fn unfit(what: &str, expected: &str, found: impl Into<String>, hint: &str) -> Error {
    Fault::value(what, expected, found, hint).into()
}
