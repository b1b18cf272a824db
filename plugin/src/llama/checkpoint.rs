//! The safetensors files of a Hugging Face directory, checked before they are used.

use super::config::LlamaConfig;
use crate::error::{Error, Result};
use reptune_adapters::low_rank::Projection;
use reptune_adapters::{ModelSpec, artefact};
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The files that hold a checkpoint's tensors.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// In the order of their names.
    pub files: Vec<PathBuf>,
}

const INDEX: &str = "model.safetensors.index.json";

impl Checkpoint {
    /// Finds the files of `directory`: those of its index, or `model.safetensors`.
    ///
    /// # Errors
    /// When one is missing.
    pub fn find(directory: &Path) -> Result<Self> {
        let index = directory.join(INDEX);
        if !index.is_file() {
            let file = directory.join("model.safetensors");
            if file.is_file() {
                return Ok(Self { files: vec![file] });
            }
            return Err(Error::model(
                directory,
                "weights",
                format!("model.safetensors or {INDEX}"),
                "neither",
                "give a directory in Hugging Face layout with safetensors weights",
            ));
        }
        let json: serde_json::Value =
            serde_json::from_slice(&artefact::read(&index)?).map_err(|e| {
                Error::model(
                    &index,
                    format!("line {}", e.line()),
                    "JSON",
                    e.to_string(),
                    "fetch the file again",
                )
            })?;
        let Some(map) = json["weight_map"].as_object() else {
            return Err(Error::model(
                &index,
                "key `weight_map`",
                "an object",
                json["weight_map"].to_string(),
                "fetch the file again",
            ));
        };
        let mut files: Vec<PathBuf> = map
            .values()
            .filter_map(|f| f.as_str())
            .map(|f| directory.join(f))
            .collect();
        files.sort();
        files.dedup();
        match files.iter().find(|f| !f.is_file()) {
            Some(missing) => Err(Error::model(
                &index,
                "key `weight_map`",
                format!("shard {}", missing.display()),
                "no such file",
                "fetch the missing shard",
            )),
            None => Ok(Self { files }),
        }
    }

    /// Checks headers against `spec`: every tensor there, of the right shape, in
    /// f32, f16 or bf16, and every file as long as its header says.
    ///
    /// # Errors
    /// Names the first file and tensor that is wrong.
    pub fn check(&self, config: &LlamaConfig, spec: &ModelSpec) -> Result<()> {
        let mut found = BTreeMap::new();
        for file in &self.files {
            for (name, shape, dtype) in header(file)? {
                found.insert(name, (file, shape, dtype));
            }
        }
        for (name, shape) in expected(config, spec) {
            let Some((file, actual, dtype)) = found.get(&name) else {
                let place = self
                    .files
                    .first()
                    .and_then(|f| f.parent())
                    .map_or_else(PathBuf::new, Path::to_owned);
                return Err(Error::model(
                    place,
                    format!("tensor `{name}`"),
                    format!("shape {shape:?}"),
                    "nothing",
                    "the checkpoint is not complete; fetch it again",
                ));
            };
            if *actual != shape {
                return Err(Error::model(
                    *file,
                    format!("tensor `{name}`"),
                    format!("shape {shape:?}"),
                    format!("{actual:?}"),
                    "config.json and weights belong to different models",
                ));
            }
            if !matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
                return Err(Error::model(
                    *file,
                    format!("tensor `{name}`"),
                    "dtype F32, F16 or BF16",
                    format!("{dtype:?}"),
                    "convert the checkpoint first",
                ));
            }
        }
        Ok(())
    }
}

/// Names and shapes of all tensors of a Llama.
fn expected(config: &LlamaConfig, spec: &ModelSpec) -> Vec<(String, Vec<usize>)> {
    let (h, v) = (spec.hidden, spec.vocab);
    let mut all = vec![("model.embed_tokens.weight".to_owned(), vec![v, h])];
    for layer in 0..spec.layers {
        let at = |name: &str| format!("model.layers.{layer}.{name}.weight");
        all.push((at("input_layernorm"), vec![h]));
        all.push((at("post_attention_layernorm"), vec![h]));
        for p in Projection::ALL {
            let (o, i) = p.shape(spec);
            all.push((at(p.path()), vec![o, i]));
        }
    }
    all.push(("model.norm.weight".into(), vec![h]));
    if !config.tie_word_embeddings {
        all.push(("lm_head.weight".into(), vec![v, h]));
    }
    all
}

/// Names, shapes and dtypes of a safetensors file; checks its length.
fn header(path: &Path) -> Result<Vec<(String, Vec<usize>, Dtype)>> {
    let io = |e| reptune_adapters::Error::io(path, e);
    let mut file = std::fs::File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    let mut size = [0u8; 8];
    let truncated = |found: String| {
        Error::model(
            path,
            "file",
            "a complete safetensors file",
            found,
            "it may be truncated; fetch it again",
        )
    };
    file.read_exact(&mut size)
        .map_err(|_| truncated(format!("{length} bytes")))?;
    let header_length = u64::from_le_bytes(size);
    if header_length > length.saturating_sub(8) {
        return Err(truncated(format!(
            "{length} bytes for a header of {header_length}"
        )));
    }
    let mut bytes = size.to_vec();
    bytes.resize(8 + header_length as usize, 0);
    file.read_exact(&mut bytes[8..]).map_err(io)?;
    // Only the header is at hand: read_metadata wants the data's length to fit.
    let (_, metadata) = SafeTensors::read_metadata(&bytes)
        .or_else(|e| match e {
            safetensors::SafeTensorError::MetadataIncompleteBuffer => parse_header(&bytes[8..]),
            other => Err(other),
        })
        .map_err(|e| truncated(e.to_string()))?;
    let needed = 8 + header_length + metadata.data_len() as u64;
    if needed != length {
        return Err(truncated(format!(
            "{length} bytes where the header tells of {needed}"
        )));
    }
    let tensors = metadata.tensors();
    Ok(tensors
        .into_iter()
        .map(|(name, info)| (name, info.shape.clone(), info.dtype))
        .collect())
}

fn parse_header(
    json: &[u8],
) -> std::result::Result<(usize, safetensors::tensor::Metadata), safetensors::SafeTensorError> {
    let metadata = serde_json::from_slice(json)
        .map_err(safetensors::SafeTensorError::InvalidHeaderDeserialization)?;
    Ok((json.len(), metadata))
}
