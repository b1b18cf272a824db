//! UQFF files: what stands where, and how entries are read.
//!
//! A `.uqff` is a safetensors file of U8 tensors whose names are indices in the
//! order of mistral.rs's `Llama::get_layers`: `0` the output head, then q, k, v,
//! o, gate, up, down of every block.

use crate::error::{Error, Result};
use reptune_adapters::artefact;
use reptune_adapters::low_rank::Projection;
use safetensors::SafeTensors;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The entries of all shards of one UQFF model.
pub struct UqffEntries {
    path: PathBuf,
    entries: BTreeMap<usize, Vec<u8>>,
}

impl UqffEntries {
    /// Reads the `.uqff` at `path`, or the only one (in all its shards) of the
    /// directory `path`; none when there is no `.uqff`.
    ///
    /// # Errors
    /// When several models lie in the directory, or a file is broken.
    pub fn find(path: &Path) -> Result<Option<Self>> {
        let files = match path.extension() {
            Some(e) if e == "uqff" && path.is_file() => vec![path.to_owned()],
            _ => {
                let listing =
                    std::fs::read_dir(path).map_err(|e| reptune_adapters::Error::read(path, e))?;
                let mut files: Vec<PathBuf> = listing
                    .filter_map(|f| Some(f.ok()?.path()))
                    .filter(|f| f.extension().is_some_and(|e| e == "uqff"))
                    .collect();
                files.sort();
                files
            }
        };
        let families: std::collections::BTreeSet<String> =
            files.iter().map(|f| family(f)).collect();
        if families.len() > 1 {
            let names = families.into_iter().collect::<Vec<_>>().join(", ");
            return Err(Error::model(
                path,
                "*.uqff",
                "one model",
                names,
                "name the .uqff file itself",
            ));
        }
        if files.is_empty() {
            return Ok(None);
        }
        let mut entries = BTreeMap::new();
        for file in &files {
            let bytes = artefact::read(file)?;
            let tensors =
                SafeTensors::deserialize(&bytes).map_err(|e| artefact::broken(file, &e))?;
            for (name, view) in tensors.tensors() {
                let index = name.parse().map_err(|_| {
                    Error::model(
                        file,
                        format!("tensor `{name}`"),
                        "an index",
                        format!("`{name}`"),
                        "this is not a UQFF of mistral.rs",
                    )
                })?;
                entries.insert(index, view.data().to_vec());
            }
        }
        Ok(Some(Self {
            path: files[0].clone(),
            entries,
        }))
    }

    /// Index of a linear layer.
    pub fn index(layer: usize, projection: Projection) -> usize {
        1 + 7 * layer + projection as usize
    }

    /// Bytes of an entry.
    ///
    /// # Errors
    /// When it is missing.
    pub fn entry(&self, index: usize) -> Result<&[u8]> {
        match self.entries.get(&index) {
            Some(bytes) => Ok(bytes),
            None => Err(Error::model(
                &self.path,
                format!("tensor `{index}`"),
                "an entry",
                "nothing",
                "the UQFF has fewer layers than config.json says",
            )),
        }
    }
}

/// The name without extension and shard number.
fn family(file: &Path) -> String {
    let stem = file
        .file_stem()
        .map(|s| s.to_string_lossy().into_owned())
        .unwrap_or_default();
    match stem.rsplit_once('-') {
        Some((name, number)) if number.parse::<usize>().is_ok() => name.to_owned(),
        _ => stem,
    }
}
