//! Baking: additions to the residual stream written into the weights of a UQFF, so
//! that unmodified mistral.rs applies them at every token.
//!
//! A block ends with `h + down_proj(x)`. mistral.rs 0.8.1 adds the bias of a UQFF
//! entry to what its layer puts out, also where the architecture knows none, so a
//! bias at `down_proj` of block l is an addition to the residual stream at layer l.
//! That is all a bias can say: one vector, for every token.

use crate::error::{Error, Result};
use crate::llama::{Checkpoint, LlamaConfig, model_spec};
use crate::uqff::UqffEntries;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Tensor};
use mistralrs_quant::{
    GgufMatMul, IsqType, QuantMethod, QuantMethodConfig, QuantizedSerde, UnquantLinear,
};
use reptune_adapters::low_rank::Projection;
use reptune_adapters::staging::Staging;
use reptune_adapters::tensor_file::{TensorFile, TensorFileWriter};
use reptune_adapters::{Intervention, ModelSpec, Operator, Point, RowRule, Site};
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Name of the file with the linear layers. Without `-0` at its end mistral.rs does
/// not take files beside it for further shards.
pub const UQFF: &str = "model.uqff";
const RESIDUAL: &str = "residual.safetensors";
const EMBEDDINGS: &str = "model.embed_tokens.weight";

/// What a bake did.
#[derive(Debug, Clone, PartialEq)]
pub struct BakeReport {
    /// L2 norm of the bias, by layer.
    pub biases: BTreeMap<usize, f64>,
    /// Tensors left in f32 because blocks of 32 do not divide their rows; mistral.rs
    /// leaves them too when it quantizes.
    pub full: Vec<String>,
    /// Bytes of the UQFF.
    pub bytes: u64,
}

/// The biases that do what `interventions` do, by block: `sum of coeff / layers * d`.
///
/// An addition at the input of block l is one at the output of block l - 1.
///
/// Shapes: every bias (H,).
///
/// # Errors
/// [`Error::Bake`] when an intervention is no addition, acts on some rows only, acts
/// on the embeddings, or has directions of another width; a value error when the
/// model has no such layer.
pub fn additions(
    spec: &ModelSpec,
    interventions: &[Intervention],
) -> Result<BTreeMap<usize, Tensor>> {
    let mut biases: BTreeMap<usize, Tensor> = BTreeMap::new();
    for intervention in interventions {
        let layers: Vec<usize> = intervention.layers().collect();
        spec.check_layers(&layers)?;
        if intervention.operator() == Operator::Ablate {
            return Err(refused(
                format!("an ablation (layers {layers:?})"),
                "it depends on the row it acts on, and a bias is the same for all; \
                 use an addition, or tune the weights and merge",
            ));
        }
        if *intervention.rows() != RowRule::All {
            return Err(refused(
                format!("an addition on rows `{}`", intervention.rows()),
                "a bias acts on every token; use rows `all`, or steer without baking",
            ));
        }
        for layer in layers {
            let block = match intervention.point() {
                Point::Output => layer,
                Point::Input => layer.checked_sub(1).ok_or_else(|| {
                    refused(
                        "an addition at the input of layer 0",
                        "that is the embeddings, and no linear layer writes there; \
                         use the output of layer 0 or of a later one",
                    )
                })?,
            };
            let Some(addition) = intervention.addition(layer)? else {
                continue;
            };
            if addition.dims() != [spec.hidden] {
                return Err(refused(
                    format!(
                        "a direction of shape {:?} at layer {layer}",
                        addition.dims()
                    ),
                    format!(
                        "the residual stream of {} has {} columns; use directions of this model",
                        spec.name, spec.hidden
                    ),
                ));
            }
            let sum = match biases.remove(&block) {
                Some(earlier) => (earlier + addition)?,
                None => addition,
            };
            biases.insert(block, sum);
        }
    }
    Ok(biases)
}

/// Writes the full checkpoint `model` with `interventions` as biases to `out`, a UQFF
/// directory: [`UQFF`], the other weights, configuration and tokenizer.
///
/// Whatever stays f32 (all linear layers without `quantize`) runs only where mistral.rs
/// is told to load as f32: it does not convert what a UQFF holds, and its default on
/// the CPU is f16. `progress` hears how many blocks are done, and of how many.
///
/// # Errors
/// Those of [`additions`]; when `out` holds files, the checkpoint is not complete, or
/// the quantization is none of GGML's or does not divide a weight's rows. Nothing is
/// left at `out` then.
pub fn bake(
    model: &Path,
    interventions: &[Intervention],
    quantize: Option<IsqType>,
    out: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<BakeReport> {
    let dtype = quantize.map(ggml).transpose()?;
    let config = LlamaConfig::read(model)?;
    let spec = model_spec(&config, model)?;
    let checkpoint = Checkpoint::find(model)?;
    checkpoint.check(&config, &spec)?;
    let biases = additions(&spec, interventions)?;
    let weights = Weights::open(&checkpoint)?;
    let head = match config.tie_word_embeddings {
        true => EMBEDDINGS,
        false => "lm_head.weight",
    };
    let storage = |name: &str, row: usize| storage(name, row, dtype);
    // All refusals come before the first byte.
    storage(head, spec.hidden)?;
    for projection in Projection::ALL {
        let site = Site {
            layer: 0,
            projection,
        };
        storage(&format!("{site}.weight"), projection.shape(&spec).1)?;
    }

    let staging = Staging::new(out)?;
    let indices: Vec<String> = (0..1 + 7 * spec.layers).map(|i| i.to_string()).collect();
    let names = indices.iter().map(String::as_str);
    let mut uqff = TensorFileWriter::stage(&staging, UQFF, names)?;
    let mut full = Vec::new();
    let mut write = |index: usize, name: &str, bias: Option<&Tensor>| -> Result<()> {
        let weight = weights.get(name)?; // (O, I)
        let kept = storage(name, weight.dims2()?.1)?;
        if dtype.is_some() && kept.is_none() {
            full.push(name.to_owned());
        }
        let entry = entry(weight, bias.cloned(), kept)?;
        Ok(uqff.push(&indices[index], Dtype::U8, &[entry.len()], &entry)?)
    };
    write(0, head, None)?;
    for layer in 0..spec.layers {
        for projection in Projection::ALL {
            let bias = match projection {
                Projection::DownProj => biases.get(&layer),
                _ => None,
            };
            let name = format!("{}.weight", Site { layer, projection });
            write(UqffEntries::index(layer, projection), &name, bias)?;
        }
        progress(layer + 1, spec.layers);
    }
    let bytes = uqff.finish()?;
    weights.write_residual(&staging, spec.layers)?;
    for file in companions(model)? {
        staging.copy(&file)?;
    }
    staging.commit()?;
    let norm = |b: &Tensor| -> Result<f64> {
        Ok(f64::from(b.sqr()?.sum_all()?.sqrt()?.to_scalar::<f32>()?))
    };
    Ok(BakeReport {
        biases: biases
            .iter()
            .map(|(layer, b)| Ok((*layer, norm(b)?)))
            .collect::<Result<_>>()?,
        full,
        bytes,
    })
}

fn refused(what: impl Into<String>, reason: impl Into<String>) -> Error {
    Error::Bake {
        what: what.into(),
        reason: reason.into(),
    }
}

/// GGML's type of a quantization.
fn ggml(isq: IsqType) -> Result<GgmlDType> {
    Ok(match isq {
        IsqType::Q4_0 => GgmlDType::Q4_0,
        IsqType::Q4_1 => GgmlDType::Q4_1,
        IsqType::Q5_0 => GgmlDType::Q5_0,
        IsqType::Q5_1 => GgmlDType::Q5_1,
        IsqType::Q8_0 => GgmlDType::Q8_0,
        IsqType::Q2K => GgmlDType::Q2K,
        IsqType::Q3K => GgmlDType::Q3K,
        IsqType::Q4K => GgmlDType::Q4K,
        IsqType::Q5K => GgmlDType::Q5K,
        IsqType::Q6K => GgmlDType::Q6K,
        other => {
            return Err(refused(
                format!("into {other}"),
                "biases are known to work in q4_0, q4_1, q5_0, q5_1, q8_0, q2k, q3k, q4k, q5k and q6k; \
                 use one of these, or none",
            ));
        }
    })
}

/// How the tensor `name` with rows of `row` numbers is stored; none is f32.
fn storage(name: &str, row: usize, dtype: Option<GgmlDType>) -> Result<Option<GgmlDType>> {
    let Some(dtype) = dtype else { return Ok(None) };
    match dtype.block_size() {
        block if row.is_multiple_of(block) => Ok(Some(dtype)),
        32 => Ok(None),
        block => Err(refused(
            format!("`{name}` into {dtype:?}"),
            format!(
                "its rows of {row} are not made of blocks of {block}; \
                 use a type with blocks of 32, such as q8_0 or q4_0"
            ),
        )),
    }
}

/// Bytes of a UQFF entry. Shapes: `weight` (O, I), `bias` (O,), both f32.
fn entry(weight: Tensor, bias: Option<Tensor>, dtype: Option<GgmlDType>) -> Result<Vec<u8>> {
    let bytes = match dtype {
        None => {
            let linear = candle_nn::Linear::new(weight, bias);
            UnquantLinear::new(QuantMethodConfig::Unquantized(linear))?
                .serialize()?
                .into_owned()
        }
        Some(dtype) => {
            let q_weight = Arc::new(QTensor::quantize(&weight, dtype)?);
            GgufMatMul::new(QuantMethodConfig::Gguf { q_weight, b: bias })?
                .serialize()?
                .into_owned()
        }
    };
    Ok(bytes)
}

/// The tensors of a checkpoint.
struct Weights(Vec<TensorFile>);

impl Weights {
    fn open(checkpoint: &Checkpoint) -> Result<Self> {
        let files = checkpoint.files.iter().map(|f| TensorFile::open(f));
        Ok(Self(files.collect::<reptune_adapters::Result<Vec<_>>>()?))
    }

    /// A tensor in f32. The checkpoint was checked, so it is there.
    fn get(&self, name: &str) -> Result<Tensor> {
        let holds = |f: &&TensorFile| f.info(name).is_some();
        let file = self.0.iter().find(holds).or(self.0.first());
        match file {
            Some(file) => Ok(file.tensor(name)?.to_dtype(DType::F32)?),
            None => Err(Error::model(
                name,
                "weights",
                "a file",
                "none",
                "fetch the model again",
            )),
        }
    }

    /// What a UQFF leaves to a file beside it: embeddings and norms.
    fn write_residual(&self, staging: &Staging, layers: usize) -> Result<()> {
        let mut names = vec![EMBEDDINGS.to_owned(), "model.norm.weight".to_owned()];
        for layer in 0..layers {
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                names.push(format!("model.layers.{layer}.{norm}.weight"));
            }
        }
        let mut file =
            TensorFileWriter::stage(staging, RESIDUAL, names.iter().map(String::as_str))?;
        for name in &names {
            let (tensor, mut bytes) = (self.get(name)?, Vec::new());
            tensor.write_bytes(&mut bytes)?;
            file.push(name, Dtype::F32, tensor.dims(), &bytes)?;
        }
        file.finish()?;
        Ok(())
    }
}

/// The files beside the weights that mistral.rs reads, and the licence.
fn companions(model: &Path) -> Result<Vec<std::path::PathBuf>> {
    let io = |e| reptune_adapters::Error::read(model, e);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(model).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let named = [
            "config.json",
            "generation_config.json",
            "special_tokens_map.json",
        ];
        let like = ["tokenizer", "chat_template", "LICENSE", "NOTICE"];
        if path.is_file()
            && (named.contains(&&*name) || like.iter().any(|start| name.starts_with(start)))
        {
            files.push(path);
        }
    }
    if !files.iter().any(|f| f.ends_with("tokenizer.json")) {
        return Err(Error::model(
            model,
            "tokenizer.json",
            "a file",
            "nothing",
            "fetch it: mistral.rs needs it beside the weights",
        ));
    }
    Ok(files)
}
