//! An open GGUF of a model: its metadata and its tensors, with errors that name the file and the
//! key; rows of q and k in the order of Hugging Face.

use crate::error::{Error, Result};
use crate::model::ModelConfig;
use crate::model::checkpoint::embeddings_and_norms;
use crate::model::config::EMBEDDINGS;
use crate::model::uqff::{Entry, WeightType};
use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{Device, Tensor};
use reptune_adapters::formats::gguf::{Gguf, TensorInfo, Value as Field};
use reptune_adapters::model::{ModuleKind, llama_cpp as llama};
use reptune_adapters::{ModelSpec, TargetModule};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::Path;

/// An open GGUF of a model.
pub(super) struct GgufModel {
    pub(super) file: Gguf,
    /// As llama.cpp calls it, which begins the model's keys.
    pub(super) architecture: String,
}

impl GgufModel {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let (file, architecture) = (Gguf::open(path)?, String::new());
        let mut model = Self { file, architecture };
        let parts = model.value("split.count").and_then(whole);
        if let Some(parts) = parts.filter(|n| *n > 1) {
            let one = "1: join the parts with `llama-gguf-split --merge`";
            return Err(model.wrong("split.count", one, parts.to_string()));
        }
        let key = "general.architecture";
        let found = model.text(key)?.to_owned();
        if !["llama", "qwen2", "qwen3"].contains(&&*found) {
            let expected = "`llama` (also a Mistral), `qwen2` or `qwen3`; others are not supported";
            return Err(model.wrong(key, expected, format!("`{found}`")));
        }
        model.architecture = found;
        Ok(model)
    }

    /// A key of the model's own architecture.
    pub(super) fn own(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    pub(super) fn value(&self, key: &str) -> Option<&Field> {
        self.file.value(key)
    }

    /// What `read` makes of a field; none where the file does not have it.
    pub(super) fn optional<'a, T>(
        &'a self,
        key: &str,
        read: impl Fn(&'a Self, &str) -> Result<T>,
    ) -> Result<Option<T>> {
        self.value(key).map(|_| read(self, key)).transpose()
    }

    /// The id of a special token (`bos`, `eos`, `unknown`), if the file has one.
    pub(super) fn token_id(&self, which: &str) -> Option<u32> {
        let id = self.value(&format!("tokenizer.ggml.{which}_token_id"))?;
        id.to_u32().ok()
    }

    pub(super) fn text(&self, key: &str) -> Result<&str> {
        let text = self.value(key).and_then(|v| v.to_string().ok());
        let text = text.map(String::as_str);
        text.ok_or_else(|| self.wrong(key, "a text", self.shown(key)))
    }

    pub(super) fn texts(&self, key: &str) -> Result<Vec<&str>> {
        let list = self.value(key).and_then(|v| v.to_vec().ok());
        let texts = list.and_then(|l| {
            let each = l.iter().map(|v| v.to_string().ok().map(String::as_str));
            each.collect::<Option<Vec<_>>>()
        });
        texts.ok_or_else(|| self.wrong(key, "a list of texts", self.shown(key)))
    }

    /// A positive whole number. Lists with one number for every block are taken where all
    /// are the same.
    pub(super) fn count(&self, key: &str) -> Result<usize> {
        let found = match self.value(key) {
            Some(Field::Array(list)) => match list.split_first() {
                Some((n, rest)) if rest.iter().all(|v| whole(v) == whole(n)) => whole(n),
                _ => None,
            },
            value => value.and_then(whole),
        };
        found.ok_or_else(|| self.wrong(key, "a positive whole number", self.shown(key)))
    }

    pub(super) fn number(&self, key: &str) -> Result<f64> {
        let number = self.value(key).and_then(|v| {
            let short = v.to_f32().ok().and_then(|x| x.to_string().parse().ok());
            short.or_else(|| v.to_f64().ok())
        });
        let number = number.filter(|x: &f64| x.is_finite() && *x > 0.);
        number.ok_or_else(|| self.wrong(key, "a positive number", self.shown(key)))
    }

    /// What a field holds, in a few words.
    fn shown(&self, key: &str) -> String {
        match self.value(key) {
            None => "nothing".into(),
            Some(Field::Array(list)) => format!("a list of {}", list.len()),
            Some(value) => format!("{value:?}").chars().take(80).collect(),
        }
    }

    pub(super) fn wrong(&self, place: &str, expected: &str, found: String) -> Error {
        let (path, place) = (self.file.path(), format!("`{place}`"));
        let hint = "fetch the file again, or convert the model anew";
        Error::model(path, place, expected, found, hint)
    }

    /// Refuses a tensor that a model of this configuration does not have: without it, it would
    /// be another model.
    pub(super) fn check_complete(&self, config: &ModelConfig, spec: &ModelSpec) -> Result<()> {
        let mut known: BTreeSet<String> = ["output.weight", "rope_freqs.weight"]
            .map(str::to_owned)
            .into();
        known.extend(embeddings_and_norms(spec).map(|(name, _)| llama_cpp_name(&name)));
        for layer in 0..spec.layers {
            for kind in ModuleKind::ALL {
                let module = TargetModule { layer, kind };
                known.insert(llama::name(module));
                known.extend(config.bias_name(module).map(|_| llama::bias_name(module)));
            }
        }
        if let Some(other) = self.file.tensors().keys().find(|t| !known.contains(*t)) {
            let (blocks, class) = (spec.layers, spec.architecture.class());
            let expected = format!("only the weights of a {class} of {blocks} blocks");
            return Err(self.wrong(other, &expected, "a tensor".into()));
        }
        Ok(())
    }

    /// The number of embeddings.
    pub(super) fn vocabulary(&self) -> Result<usize> {
        let shape = &self.expected("token_embd.weight", &[])?.shape;
        Ok(shape.first().copied().unwrap_or(0))
    }

    /// A linear layer (O, I); `heads` of q and k, whose rows are put back in their order.
    pub(super) fn entry(
        &self,
        tensor: &str,
        shape: (usize, usize),
        heads: Option<usize>,
    ) -> Result<Entry> {
        let dims = [shape.0, shape.1];
        let dtype = self.expected(tensor, &dims)?.dtype;
        let mut bytes = self.file.bytes(tensor)?;
        if let Some(heads) = heads {
            bytes = llama::from_llama_cpp(&bytes, shape.0, heads);
        }
        let is_known = |(_, t): &(_, WeightType)| *t == WeightType::Ggml(dtype);
        match dtype {
            GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16 => {
                Entry::quantize(&floats(&bytes, dtype, &dims)?, None, WeightType::F32)
            }
            _ if WeightType::ALL.iter().any(is_known) => Entry::ggml(dtype, shape, &bytes),
            other => {
                let expected = "a type that mistral.rs reads from a UQFF: q8_0, q6k, q4_0 ..";
                Err(self.wrong(tensor, expected, format!("{other:?}").to_lowercase()))
            }
        }
    }

    /// The bias (O,) of a linear layer, f32; `heads` as in [`GgufModel::entry`].
    pub(super) fn bias(&self, tensor: &str, rows: usize, heads: Option<usize>) -> Result<Tensor> {
        let bias = self.tensor(tensor, &[rows])?;
        let Some(heads) = heads else {
            return Ok(bias);
        };
        let values = llama::from_llama_cpp(&bias.to_vec1::<f32>()?, rows, heads);
        Ok(Tensor::from_vec(values, rows, &Device::Cpu)?)
    }

    /// A tensor in f32, of `shape` if that is not empty.
    pub(super) fn tensor(&self, tensor: &str, shape: &[usize]) -> Result<Tensor> {
        let info = self.expected(tensor, shape)?;
        floats(&self.file.bytes(tensor)?, info.dtype, &info.shape)
    }

    /// The tensor's type and shape, which must be `shape` if that is not empty.
    fn expected(&self, tensor: &str, shape: &[usize]) -> Result<&TensorInfo> {
        match self.file.tensor(tensor) {
            Some(info) if shape.is_empty() || info.shape == shape => Ok(info),
            Some(info) => {
                let found = format!("{:?}", info.shape);
                Err(self.wrong(tensor, &format!("a tensor of shape {shape:?}"), found))
            }
            None => Err(self.wrong(tensor, "a tensor", "nothing".into())),
        }
    }
}

/// How llama.cpp calls the embeddings or a norm that Hugging Face calls `name`.
pub(super) fn llama_cpp_name(name: &str) -> String {
    let Some(block) = name.strip_prefix("model.layers.") else {
        return match name {
            EMBEDDINGS => "token_embd.weight".to_owned(),
            _ => "output_norm.weight".to_owned(),
        };
    };
    let names = [
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
    ];
    let renamed = names.iter();
    let renamed = renamed.fold(block.to_owned(), |name, (from, to)| name.replace(from, to));
    format!("blk.{renamed}")
}

/// A positive whole number, of whatever type.
fn whole(value: &Field) -> Option<usize> {
    let n = match value {
        Field::I8(n) => u64::try_from(*n).ok()?,
        Field::I16(n) => u64::try_from(*n).ok()?,
        Field::I32(n) => u64::try_from(*n).ok()?,
        Field::I64(n) => u64::try_from(*n).ok()?,
        other => other.to_u64().ok()?,
    };
    usize::try_from(n).ok().filter(|n| *n > 0)
}

fn floats(bytes: &[u8], dtype: GgmlDType, shape: &[usize]) -> Result<Tensor> {
    let storage = QStorage::from_data(Cow::from(bytes), &Device::Cpu, dtype)?;
    Ok(QTensor::new(storage, shape)?.dequantize(&Device::Cpu)?)
}
