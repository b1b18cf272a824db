//! Reading the tensors of an adapter, as its configuration says.

use super::config::{CONFIG, Config, PICKLE, PREFIX, WEIGHTS};
use crate::error::{Error, Result};
use crate::formats::safetensors::TensorFile;
use crate::lora::adapter::{Adapter, WeightDelta};
use crate::model::TargetModule;
use candle_core::{DType, Tensor};
use safetensors::Dtype;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Reads the adapter that lies in `directory` itself.
pub(super) fn read(directory: &Path) -> Result<Adapter> {
    let config = Config::read(&directory.join(CONFIG))?;
    let mut weights = Weights::open(directory)?;
    let mut modules = BTreeMap::new();
    for name in weights.left.clone() {
        let Some(path) = name.strip_suffix(".lora_A.weight") else {
            continue;
        };
        let bare = path.strip_prefix(PREFIX).unwrap_or(path);
        let module = TargetModule::parse(bare).ok_or_else(|| {
            weights.wrong(
                &name,
                "a linear layer of a block",
                format!("`{bare}`"),
                "only q, k, v, o, gate, up and down are supported",
            )
        })?;
        let rank = config.rank(bare);
        let delta = WeightDelta {
            a: weights.take(&name, 0, rank)?,
            b: weights.take(&format!("{path}.lora_B.weight"), 1, rank)?,
            scale: config.scale(bare),
            full: None,
        };
        if modules.insert(module, delta).is_some() {
            let hint = "save the adapter again";
            return Err(weights.wrong(&name, "each module once", format!("{module} twice"), hint));
        }
    }
    weights.finish()?;
    if modules.is_empty() {
        return Err(Error::content(
            &weights.path,
            "tensors",
            "at least one `lora_A.weight`",
            "none",
            "the file holds no LoRA",
        ));
    }
    Ok(Adapter { modules })
}

/// The tensors of the file, and which of them were not taken yet.
struct Weights {
    path: PathBuf,
    file: TensorFile,
    left: BTreeSet<String>,
}

impl Weights {
    fn open(directory: &Path) -> Result<Self> {
        let path = directory.join(WEIGHTS);
        let pickle = directory.join(PICKLE);
        if !path.exists() && pickle.exists() {
            return Err(Error::Unsupported {
                what: format!("{}, a pickle,", pickle.display()),
                reason: format!(
                    "reading a pickle runs code in it; if you trust it, load it with PEFT and \
                     write {WEIGHTS} with `save_pretrained`"
                ),
            });
        }
        let file = TensorFile::open(&path)?;
        let left = file.names().into_iter().collect();
        Ok(Self { path, file, left })
    }

    /// A factor in f32, whose dim `dim` is the rank.
    fn take(&mut self, name: &str, dim: usize, rank: usize) -> Result<Tensor> {
        let misfit = |found: String| {
            let expected = format!("a matrix whose dim {dim} is the rank {rank} of its config");
            let hint = "tensors and config belong to different adapters; save the adapter again";
            self.wrong(name, &expected, found, hint)
        };
        let info = self
            .file
            .info(name)
            .ok_or_else(|| misfit("nothing".into()))?;
        if !matches!(info.shape[..], [_, _] if info.shape[dim] == rank) {
            return Err(misfit(format!("shape {:?}", info.shape)));
        }
        if !matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            let found = format!("{:?}", info.dtype);
            let hint = "convert the adapter to float32";
            return Err(self.wrong(name, "dtype F32, F16 or BF16", found, hint));
        }
        let tensor = self.file.tensor(name)?.to_dtype(DType::F32)?;
        // A sum of squares is finite only if all of its terms are.
        let norm = tensor.to_dtype(DType::F64)?.sqr()?.sum_all()?;
        if !norm.to_scalar::<f64>()?.is_finite() {
            let found = "NaN or infinity".into();
            let hint = "the training that wrote it has diverged";
            return Err(self.wrong(name, "finite numbers", found, hint));
        }
        self.left.remove(name);
        Ok(tensor)
    }

    /// Refuses a file that has more than A and B.
    fn finish(&self) -> Result<()> {
        let Some(name) = self.left.iter().next() else {
            return Ok(());
        };
        let found = [
            ("lora_magnitude_vector", "the magnitudes of DoRA"),
            ("lora_B.bias", "a bias"),
            ("lora_embedding", "a tuned embedding"),
        ];
        let found = found.iter().find(|(part, _)| name.contains(part));
        Err(self.wrong(
            name,
            "only `lora_A.weight` and `lora_B.weight`",
            found.map_or("another tensor", |(_, kind)| kind).to_owned(),
            "only plain LoRA on linear layers is supported",
        ))
    }

    fn wrong(&self, name: &str, expected: &str, found: String, hint: &str) -> Error {
        Error::content(
            &self.path,
            format!("tensor `{name}`"),
            expected,
            found,
            hint,
        )
    }
}
