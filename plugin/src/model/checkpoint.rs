//! The safetensors files of a model, checked before they are used: a full checkpoint, or the
//! weights next to a UQFF.

use super::config::{EMBEDDINGS, ModelConfig};
use crate::error::{Error, Result};
use candle_core::Tensor;
use reptune_adapters::ModelSpec;
use reptune_adapters::formats::safetensors::{TensorFile, shards};
use reptune_adapters::model::{ModuleKind, TargetModule};
use safetensors::Dtype;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Name of the file next to a UQFF that holds all weights but the linear layers.
pub const RESIDUAL: &str = "residual.safetensors";

/// Open safetensors files, of which only the headers are in memory.
///
/// mistral.rs maps such files into memory, so that while it loads a model lies in memory twice:
/// as pages of the file and as tensors. Read with plain reads, it does once.
pub struct Checkpoint {
    files: Vec<TensorFile>,
    /// File of each tensor.
    places: HashMap<String, usize>,
}

impl Checkpoint {
    /// Opens the files of the full checkpoint in `directory` and checks their headers: every
    /// tensor there, of the right shape, in f32, f16 or bf16, and every file as long as its
    /// header says. The error names the first file and tensor that is wrong.
    pub fn full(directory: &Path, config: &ModelConfig, spec: &ModelSpec) -> Result<Self> {
        let linears = (0..spec.layers).flat_map(|layer| {
            ModuleKind::ALL.into_iter().flat_map(move |kind| {
                let (o, i) = kind.shape(spec);
                let module = TargetModule { layer, kind };
                let bias = config.bias_name(module).map(|name| (name, vec![o]));
                std::iter::once((config.weight_name(Some(module)), vec![o, i])).chain(bias)
            })
        });
        let head = (config.weight_name(None), vec![spec.vocab, spec.hidden]);
        let expected = embeddings_and_norms(spec).chain(linears).chain([head]);
        Self::open(&shards(directory)?, expected)
    }

    /// Opens the embeddings and norms next to the UQFF in `directory`, checked in the same way.
    pub fn next_to_uqff(directory: &Path, spec: &ModelSpec) -> Result<Self> {
        let residual = directory.join(RESIDUAL);
        if !residual.is_file() {
            let hint = "copy it from where the UQFF was written";
            let expected = "a file next to the .uqff";
            return Err(Error::model(directory, RESIDUAL, expected, "nothing", hint));
        }
        Self::open(&[residual], embeddings_and_norms(spec))
    }

    /// Stops at the first tensor that is not there, however many are expected.
    fn open(
        paths: &[PathBuf],
        expected: impl Iterator<Item = (String, Vec<usize>)>,
    ) -> Result<Self> {
        let (mut files, mut places) = (Vec::new(), HashMap::new());
        for path in paths {
            let file = TensorFile::open(path)?;
            places.extend(file.names().into_iter().map(|name| (name, files.len())));
            files.push(file);
        }
        if let Some((path, name, method)) = packed(paths, &files) {
            let (place, expected) = (format!("tensor `{name}`"), "full weights");
            let found = format!("weights quantized by {method}");
            let hint = "give the full checkpoint";
            return Err(Error::model(path, place, expected, found, hint));
        }
        for (name, shape) in expected {
            let wrong = |path: &Path, expected: &str, found: &str, hint| {
                let place = format!("tensor `{name}`");
                Err(Error::model(path, place, expected, found, hint))
            };
            let wanted = format!("shape {shape:?}");
            let at = places.get(&name).copied();
            let Some((at, info)) = at.and_then(|at: usize| Some((at, files[at].info(&name)?)))
            else {
                let directory = paths.first().and_then(|f| f.parent());
                let hint = "the checkpoint is not complete; fetch it again";
                return wrong(directory.unwrap_or(Path::new("")), &wanted, "nothing", hint);
            };
            if info.shape != shape {
                let hint = "config.json and weights belong to different models";
                return wrong(&paths[at], &wanted, &format!("{:?}", info.shape), hint);
            }
            if !matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
                let (found, hint) = (format!("{:?}", info.dtype), "give the full checkpoint");
                return wrong(&paths[at], "dtype F32, F16 or BF16", &found, hint);
            }
        }
        Ok(Self { files, places })
    }

    /// A tensor in its own dtype.
    pub fn tensor(&self, name: &str) -> reptune_adapters::Result<Tensor> {
        self.files[self.places.get(name).copied().unwrap_or(0)].tensor(name)
    }
}

/// Endings of the tensors that packed weights consist of, and what writes them.
const PACKED: [(&str, &str); 10] = [
    (".qweight", "gptq or awq"),
    (".absmax", "bitsandbytes"),
    (".quant_map", "bitsandbytes"),
    (".SCB", "bitsandbytes"),
    (".weight_packed", "compressed-tensors"),
    (".weight_scale", "fp8"),
    (".weight_scale_inv", "fp8"),
    (".scales", "mlx"),
    ("_blocks", "mxfp4"),
    (".oscale", "quanto"),
];

/// The first tensor of packed weights, its file, and the method that packed them: the one that
/// config.json names, if it does.
fn packed(paths: &[PathBuf], files: &[TensorFile]) -> Option<(PathBuf, String, String)> {
    let all = paths.iter().zip(files);
    let mut names = all.flat_map(|(path, file)| file.names().into_iter().map(move |n| (path, n)));
    let method = |name: &str| PACKED.iter().find(|(end, _)| name.ends_with(end));
    let (path, name) = names.find(|(_, name)| method(name).is_some())?;
    let config = std::fs::read(path.with_file_name("config.json")).unwrap_or_default();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap_or_default();
    let said = config["quantization_config"]["quant_method"].as_str();
    let method = said
        .or(method(&name).map(|(_, method)| *method))?
        .to_owned();
    Some((path.clone(), name, method))
}

/// Names and shapes of the tensors that are no linear layer.
pub fn embeddings_and_norms(spec: &ModelSpec) -> impl Iterator<Item = (String, Vec<usize>)> {
    let (h, v, d) = (spec.hidden, spec.vocab, spec.head_dim);
    let ends = [
        (EMBEDDINGS.to_owned(), vec![v, h]),
        ("model.norm.weight".to_owned(), vec![h]),
    ];
    let heads: &[(&str, usize)] = match spec.architecture.normalises_heads() {
        true => &[("self_attn.q_norm", d), ("self_attn.k_norm", d)],
        false => &[],
    };
    let of_block = [("input_layernorm", h), ("post_attention_layernorm", h)];
    let of_block = [&of_block, heads].concat();
    let norms = (0..spec.layers).flat_map(move |layer| {
        let named = |(norm, width): &(&str, usize)| {
            (format!("model.layers.{layer}.{norm}.weight"), vec![*width])
        };
        of_block.iter().map(named).collect::<Vec<_>>()
    });
    ends.into_iter().chain(norms)
}
