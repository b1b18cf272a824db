//! What the integration tests share: fixtures, the oracle's tensors, a comparison
//! that names the place, and the dual loss of a batch of labelled prompts.

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use rand::{Rng, SeedableRng};
use reptune::decoder::parse_device;
use reptune::{Llama, LoadOptions};
use reptune_adapters::lora::loss::{LabelRow, representation_loss, token_loss};
use reptune_adapters::model::ModuleKind;
use reptune_adapters::steering::direction::{Direction, Provenance};
use reptune_adapters::steering::intervention::token_mask;
use reptune_adapters::{
    Adapter, DirectionSet, ForwardOptions, ForwardOutput, HookedModel, Intervention, KeyValueCache,
    LoraInit, ModelSpec, PrefixTree,
};
use reptune_recipes::recipe::Mode;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// A file or directory of `tests/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures")
        .join(name)
}

/// The device in the environment variable `REPTUNE_TEST_DEVICE`, such as `cuda`; the CPU if
/// there is none.
///
/// # Errors
/// When it cannot be opened: then nothing would be tested there.
pub fn device() -> Result<Device> {
    match std::env::var("REPTUNE_TEST_DEVICE") {
        Ok(name) => Ok(parse_device(&name)?),
        Err(_) => Ok(Device::Cpu),
    }
}

/// A model of `tests/fixtures`, on the device that tests are run on.
pub fn llama(name: &str) -> Result<Llama> {
    ModelFixture::of(name.trim_start_matches("tiny-"))?.load()
}

/// Models of `tests/fixtures` of other architectures than a plain Llama, and a variant whose
/// sliding window is in some blocks only.
pub const OTHERS: [&str; 5] = ["mistral", "qwen2", "qwen3", "llama-bias", "qwen2-window"];

/// One model of each, without a sliding window: mistral.rs 0.8.1 lets a token of a prompt see one
/// more, and a GGUF of llama.cpp holds none.
pub const DECODERS: [&str; 4] = ["mistral-no-window", "qwen2", "qwen3", "llama-bias"];

/// The directory of a model of `tests/fixtures`, `tiny-{name}`; for a variant of
/// `tests/fixtures/variants.json` a copy with its configuration.
pub struct ModelFixture {
    /// The directory.
    pub path: PathBuf,
    _copy: Option<tempfile::TempDir>,
}

impl ModelFixture {
    /// Finds or makes it.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn of(name: &str) -> Result<Self> {
        let variants: serde_json::Value =
            serde_json::from_slice(&std::fs::read(fixture("variants.json"))?)?;
        let Some(model) = variants[name]["model"].as_str() else {
            return Ok(Self {
                path: fixture(&format!("tiny-{name}")),
                _copy: None,
            });
        };
        let copy = tempfile::tempdir()?;
        for entry in std::fs::read_dir(fixture(model))? {
            let entry = entry?;
            std::fs::copy(entry.path(), copy.path().join(entry.file_name()))?;
        }
        let path = copy.path().join("config.json");
        let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        let changes = variants[name]["config"].as_object();
        for (key, value) in changes.into_iter().flatten() {
            config[key] = value.clone();
        }
        std::fs::write(&path, config.to_string())?;
        Ok(Self {
            path: copy.path().to_owned(),
            _copy: Some(copy),
        })
    }

    /// Loads it on the device that tests are run on.
    ///
    /// # Errors
    /// When it does not load.
    pub fn load(&self) -> Result<Llama> {
        let options = LoadOptions {
            device: device()?,
            ..LoadOptions::default()
        };
        Ok(Llama::load(&self.path, options)?)
    }
}

/// What torch says: the tensors of `tests/oracle/make_fixtures.py`.
pub struct Oracle(HashMap<String, Tensor>);

impl Oracle {
    /// Reads a file of `tests/fixtures`.
    pub fn read(file: &str) -> Result<Self> {
        let path = fixture(file);
        let tensors = candle_core::safetensors::load(&path, &Device::Cpu)
            .with_context(|| path.display().to_string())?;
        Ok(Self(tensors))
    }

    /// A tensor.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        self.0.get(name).with_context(|| format!("oracle: {name}"))
    }

    /// Token ids.
    pub fn tokens(&self, name: &str) -> Result<Vec<u32>> {
        Ok(self.get(name)?.to_dtype(DType::U32)?.to_vec1()?)
    }

    /// The token ids of the three prompts.
    pub fn prompts(&self) -> Result<Vec<Vec<u32>>> {
        (0..3)
            .map(|i| self.tokens(&format!("prompt.{i}.ids")))
            .collect()
    }

    /// The unit directions of the four layers.
    pub fn directions(&self) -> Result<DirectionSet> {
        let layer = |l: usize| {
            let unit = self.get(&format!("direction.{l}"))?.to_vec1()?;
            Ok((l, Direction { unit, norm: 1. }))
        };
        Ok(DirectionSet {
            layers: (0..4).map(layer).collect::<Result<_>>()?,
            provenance: Provenance::default(),
        })
    }
}

/// Largest difference allowed, as a share of the largest value of the expected tensor.
pub fn tolerance(dtype: DType) -> f32 {
    match dtype {
        DType::F32 => 1e-4,
        other => panic!("no llama computes in {other:?} yet: measure, then add a line here"),
    }
}

/// What rounding alone may do, as a share of the largest value: the matrix product
/// blocks its sums by the number of rows, so a row's last bits depend on how many
/// rows it is computed with.
pub const ROUNDING: f32 = 5e-6;

/// The values of a tensor, row-major.
pub fn flat(t: &Tensor) -> Vec<f32> {
    t.flatten_all()
        .and_then(|t| t.to_vec1())
        .expect("f32 on the CPU")
}

/// The bits of a tensor's values, for "bit for bit".
pub fn bits(t: &Tensor) -> Vec<u32> {
    flat(t).into_iter().map(f32::to_bits).collect()
}

/// Compares tensors in the order of the computation and stops at the first place that differs.
pub struct Walk {
    allowed: f32,
    worst: f32,
    at: String,
}

impl Default for Walk {
    fn default() -> Self {
        Self::within(tolerance(DType::F32))
    }
}

impl Walk {
    /// With another tolerance than that of the table.
    pub fn within(allowed: f32) -> Self {
        Self {
            allowed,
            worst: 0.,
            at: "everywhere".into(),
        }
    }

    /// Panics with `place` and the element that is furthest off, if it is too far.
    pub fn check(&mut self, place: &str, ours: &Tensor, expected: &Tensor) {
        assert_eq!(ours.dims(), expected.dims(), "{place}: shape");
        let (ours, theirs) = (flat(ours), flat(expected));
        let scale = theirs.iter().fold(0f32, |m, x| m.max(x.abs()));
        for (i, (a, b)) in ours.iter().zip(&theirs).enumerate() {
            let off = (a - b).abs() / scale.max(f32::MIN_POSITIVE);
            // not `>`: NaN must fail
            assert!(
                off <= self.allowed,
                "{place} is the first place that differs: element {i} of {:?} is {a}, expected {b}; \
                 {off:.2e} of the largest value {scale}, allowed {:.0e}",
                expected.dims(),
                self.allowed
            );
            if off > self.worst {
                (self.worst, self.at) = (off, place.to_owned());
            }
        }
    }

    /// Prints how far off the furthest place was (seen with `--nocapture`).
    pub fn finish(self, what: &str) {
        println!(
            "{what}: largest difference {:.1e} ({})",
            self.worst, self.at
        );
    }
}

/// All layers and all logits of one forward of `tree`.
pub fn whole(
    llama: &dyn HookedModel,
    tree: &PrefixTree,
    request: ForwardOptions,
) -> Result<ForwardOutput> {
    let layers: Vec<usize> = (0..llama.spec().layers).collect();
    let rows: Vec<u32> = (0..tree.len() as u32).collect();
    let request = ForwardOptions {
        capture: &layers,
        logits: &rows,
        ..request
    };
    Ok(llama.forward(tree, &mut KeyValueCache::none(), &request)?)
}

/// The logits of a pass that was asked for them.
pub fn logits(pass: &ForwardOutput) -> &Tensor {
    pass.logits.as_ref().expect("logits were requested")
}

/// Rows `rows` of a table.
pub fn pick(table: &Tensor, rows: &[u32]) -> Result<Tensor> {
    Ok(table.index_select(&Tensor::new(rows, table.device())?, 0)?)
}

/// A tree whose rows are marked for `interventions`, and the rows of every prompt.
pub fn marked(prompts: &[Vec<u32>], interventions: &[Intervention]) -> (PrefixTree, Vec<Vec<u32>>) {
    let mut tree = PrefixTree::new();
    let rows = prompts
        .iter()
        .map(|p| tree.insert(None, p, |i| token_mask(interventions, i, p.len())))
        .collect();
    (tree, rows)
}

/// An update whose A and B are both random: B = 0 would hide half of the gradients.
pub fn random_update(
    spec: &ModelSpec,
    layers: &[usize],
    projections: &[ModuleKind],
    seed: u64,
) -> Result<Adapter> {
    let mut update = Adapter::init(
        spec,
        &LoraInit {
            layers,
            kinds: projections,
            rank: 4,
            alpha: 8.,
            seed,
        },
    )?;
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed + 1);
    for adapter in update.modules.values_mut() {
        let dims = adapter.b.dims2()?;
        let b: Vec<f32> = (0..dims.0 * dims.1)
            .map(|_| rng.random_range(-0.2..0.2))
            .collect();
        adapter.b = Tensor::from_vec(b, dims, &Device::Cpu)?;
    }
    Ok(update)
}

/// The dual loss as the oracle has it.
pub struct Objective<'a> {
    /// Which losses.
    pub mode: Mode,
    /// Towards or away from what.
    pub directions: &'a DirectionSet,
    /// Applied in the forward.
    pub interventions: &'a [Intervention],
}

/// Layers of the representation loss.
pub const LAYERS: [usize; 2] = [1, 2];
/// Its row, counted back from the last prompt token.
pub const OFFSET: usize = 2;

/// What the losses of a batch are functions of.
pub struct Measured {
    /// By layer of [`LAYERS`]: the row of every prompt (P, H) and the direction (H,).
    pub rows: Vec<(Tensor, Tensor)>,
    /// At the last token of every prompt (P, V).
    pub logits: Tensor,
}

impl Objective<'_> {
    /// Runs all prompts in one tree.
    pub fn measure(
        &self,
        llama: &dyn HookedModel,
        prompts: &[Vec<u32>],
        adapter: Option<&Adapter>,
    ) -> Result<Measured> {
        let (tree, rows) = marked(prompts, self.interventions);
        let back = |n: usize| -> Vec<u32> { rows.iter().map(|r| r[r.len() - 1 - n]).collect() };
        let (last, chosen) = (back(0), back(OFFSET));
        let request = ForwardOptions {
            interventions: self.interventions,
            capture: &LAYERS,
            logits: &last,
            adapter,
            ..ForwardOptions::default()
        };
        let pass = llama.forward(&tree, &mut KeyValueCache::none(), &request)?;
        let at = |layer: usize| {
            let d = Tensor::new(
                self.directions.layer(layer)?.unit.as_slice(),
                llama.device(),
            )?;
            Ok((pick(&pass.residuals[&layer], &chosen)?, d))
        };
        Ok(Measured {
            rows: LAYERS.into_iter().map(at).collect::<Result<_>>()?,
            logits: logits(&pass).clone(),
        })
    }

    /// Representation loss, mean over layers and prompts, plus the weighted token loss.
    pub fn loss(
        &self,
        llama: &dyn HookedModel,
        prompts: &[Vec<u32>],
        labels: &[u32],
        adapter: Option<&Adapter>,
    ) -> Result<Tensor> {
        let measured = self.measure(llama, prompts, adapter)?;
        let token = token_loss(&measured.logits, &label_rows(labels), self.mode.losses().1)?;
        // As in the paper: 1 alone, 1/100 beside a representation loss.
        let weight = self.mode.losses().0.map_or(1., |_| 0.01);
        let mut loss = (token * weight)?;
        if let Some(kind) = self.mode.losses().0 {
            for (h, d) in &measured.rows {
                let share = 1. / LAYERS.len() as f64;
                loss = (loss + (representation_loss(h, d, kind, 1.)? * share)?)?;
            }
        }
        Ok(loss)
    }
}

/// The labels of a batch whose letters are A (65) and B (66).
pub fn label_rows(labels: &[u32]) -> Vec<LabelRow> {
    let row = |(i, &right): (usize, &u32)| LabelRow {
        row: i as u32,
        right,
        wrong: 131 - right,
    };
    labels.iter().enumerate().map(row).collect()
}
