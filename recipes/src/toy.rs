//! A Llama of plain tensors, for tests of the verbs without the runtime.

use crate::{Chat, Recipe};
use candle_core::{DType, Device, Tensor};
use reptune_adapters::model::ModuleKind;
use reptune_adapters::ops::{Rotation, attention, rms_norm, rotary, swiglu};
use reptune_adapters::steering::intervention::apply_all;
use reptune_adapters::{
    Architecture, CaptureTokens, ForwardOptions, ForwardOutput, HookPoint, HookedModel,
    KeyValueCache, ModelSpec, PrefixTree, Result, TargetModule, files,
};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A directory of this repository.
pub fn directory(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The small Llama of the fixtures: 4 layers of 32, byte tokens, random weights.
pub fn tiny() -> Toy {
    Toy::load(&directory("tests/fixtures/tiny-llama2"))
}

/// See the module.
pub struct Toy {
    spec: ModelSpec,
    eps: f64,
    theta: f64,
    weights: HashMap<String, Tensor>,
}

impl Toy {
    /// Loads one file of weights without rope scaling.
    pub fn load(directory: &Path) -> Self {
        let read = |name: &str| files::read(&directory.join(name)).expect("a file");
        let config: serde_json::Value = serde_json::from_slice(&read("config.json")).expect("JSON");
        let n = |key: &str| config[key].as_u64().expect("a number") as usize;
        let path = directory.join("model.safetensors");
        let weights = candle_core::safetensors::load(path, &Device::Cpu).expect("weights");
        let weights = weights
            .into_iter()
            .map(|(name, w)| (name, w.to_dtype(DType::F32).expect("numbers")))
            .collect();
        let spec = ModelSpec {
            name: "toy".into(),
            fingerprint: files::sha256([read("tokenizer.json").as_slice()]),
            architecture: Architecture::Llama,
            former_fingerprint: String::new(),
            layers: n("num_hidden_layers"),
            hidden: n("hidden_size"),
            intermediate: n("intermediate_size"),
            heads: n("num_attention_heads"),
            kv_heads: n("num_key_value_heads"),
            head_dim: n("hidden_size") / n("num_attention_heads"),
            vocab: n("vocab_size"),
            context: n("max_position_embeddings"),
        };
        Self {
            spec,
            eps: config["rms_norm_eps"].as_f64().expect("a number"),
            theta: config["rope_theta"].as_f64().expect("a number"),
            weights,
        }
    }

    fn weight(&self, name: &str) -> &Tensor {
        &self.weights[&format!("{name}.weight")]
    }

    fn rotation(&self, positions: &[u32]) -> Rotation {
        let half = self.spec.head_dim / 2;
        let angles = positions.iter().flat_map(|&p| {
            (0..half).map(move |i| f64::from(p) / self.theta.powf(i as f64 / half as f64))
        });
        let (cos, sin) = angles.map(|a| (a.cos() as f32, a.sin() as f32)).unzip();
        Rotation::new(cos, sin, half)
    }
}

impl HookedModel for Toy {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn device(&self) -> &Device {
        &Device::Cpu
    }

    fn forward(
        &self,
        tree: &PrefixTree,
        cache: &mut KeyValueCache,
        request: &ForwardOptions,
    ) -> Result<ForwardOutput> {
        let range = cache.rows()..tree.len();
        let first = range.start as u32;
        let rows = |i: usize| -> Vec<u32> {
            let marked = tree.masked(i, range.clone());
            marked.into_iter().map(|r| r - first).collect()
        };
        let change =
            |x: &Tensor, point, layer| apply_all(request.interventions, x, point, layer, rows);
        let ids = Tensor::new(&tree.ids()[range.clone()], &Device::Cpu)?;
        let rotation = self.rotation(&tree.positions()[range.clone()]);
        let ancestors = Arc::new(tree.ancestors(range.clone()));
        let mut residuals = BTreeMap::new();
        let embeddings = self.weight("model.embed_tokens");
        let mut x = embeddings.index_select(&ids, 0)?; // (N, H)
        let table = |rows: &[u32]| {
            let rows = rows.iter().map(|r| r - first);
            Tensor::from_iter(rows, &Device::Cpu)
        };
        let mut leave = |x: &Tensor, layer: usize| -> Result<Tensor> {
            let x = change(x, HookPoint::ResidPost, layer)?;
            if request.capture.contains(&layer) {
                let handed = match request.captured {
                    CaptureTokens::All => x.clone(),
                    CaptureTokens::Only(rows) => x.index_select(&table(rows)?, 0)?,
                };
                residuals.insert(layer, handed);
            }
            Ok(x)
        };
        let mut above = 0;
        if let Some(start) = request.start {
            x = leave(start.rows, start.layer)?;
            above = start.layer + 1;
        }
        for layer in above..self.spec.layers {
            let linear = |kind: ModuleKind, x: &Tensor| -> Result<Tensor> {
                let module = TargetModule { layer, kind };
                let y = x.matmul(&self.weight(&module.to_string()).t()?)?;
                match request.adapter.and_then(|l| l.at(layer, kind)) {
                    Some(update) => Ok((y + update.forward(x)?)?),
                    None => Ok(y),
                }
            };
            let norm = |name: &str, x: &Tensor| {
                let weight = self.weight(&format!("model.layers.{layer}.{name}"));
                rms_norm(x, weight, self.eps)
            };
            x = change(&x, HookPoint::ResidPre, layer)?;
            let h = norm("input_layernorm", &x)?;
            let q = rotary(&linear(ModuleKind::QProj, &h)?, &rotation)?;
            let k = rotary(&linear(ModuleKind::KProj, &h)?, &rotation)?;
            let (k, v) = cache.append(layer, k, linear(ModuleKind::VProj, &h)?)?;
            let y = attention(&q, &k, &v, &ancestors, self.spec.head_dim)?;
            x = (x + linear(ModuleKind::OProj, &y)?)?;
            x = change(&x, HookPoint::ResidMid, layer)?;
            let h = norm("post_attention_layernorm", &x)?;
            let y = swiglu(
                &linear(ModuleKind::GateProj, &h)?,
                &linear(ModuleKind::UpProj, &h)?,
            )?;
            x = (&x + linear(ModuleKind::DownProj, &y)?)?;
            x = leave(&x, layer)?;
        }
        cache.advance(range.end);
        if request.logits.is_empty() {
            return Ok(ForwardOutput {
                residuals,
                logits: None,
            });
        }
        let x = x.index_select(&table(request.logits)?, 0)?;
        Ok(ForwardOutput {
            residuals,
            logits: Some(self.unembed(&x)?),
        })
    }

    fn unembed(&self, rows: &Tensor) -> Result<Tensor> {
        let x = rms_norm(rows, self.weight("model.norm"), self.eps)?;
        let embeddings = self.weight("model.embed_tokens");
        let head = self.weights.get("lm_head.weight").unwrap_or(embeddings);
        Ok(x.matmul(&head.t()?)?)
    }
}

#[test]
fn the_toy_computes_what_the_oracle_does() {
    let path = directory("tests/fixtures/oracle-llama2.safetensors");
    let oracle = candle_core::safetensors::load(path, &Device::Cpu).expect("the oracle");
    let ids = oracle["prompt.0.ids"].to_dtype(DType::U32).expect("ids");
    let ids: Vec<u32> = ids.to_vec1().expect("ids");
    let (tree, rows) = PrefixTree::pack(&[ids]);
    let request = ForwardOptions {
        logits: &rows[0],
        ..ForwardOptions::default()
    };
    let pass = tiny().forward(&tree, &mut KeyValueCache::none(), &request);
    let logits = pass.expect("a forward").logits.expect("logits");
    let off = (logits - &oracle["prompt.0.logits"]).expect("one shape");
    let off: f32 = off
        .abs()
        .and_then(|x| x.max_all())
        .and_then(|x| x.to_scalar())
        .expect("a number");
    assert!(off < 1e-4, "{off}");
}

/// The small Llama's tokenizer with a template after which an answer is one token.
pub fn chat() -> Chat {
    let from = directory("tests/fixtures/tiny-llama2");
    let to = tempfile::tempdir().expect("a directory");
    for file in ["tokenizer.json", "config.json", "generation_config.json"] {
        std::fs::copy(from.join(file), to.path().join(file)).expect("a copy");
    }
    let template = "{{ bos_token }}{% for m in messages %}<<{{ m['role'] }}>> {{ m['content'] | trim }}\n{% endfor %}{% if add_generation_prompt %}<<assistant>> {% endif %}";
    let config =
        serde_json::json!({"bos_token": "<s>", "eos_token": "</s>", "chat_template": template});
    let path = to.path().join("tokenizer_config.json");
    std::fs::write(path, config.to_string()).expect("a file");
    Chat::load(to.path()).expect("a chat")
}

/// A recipe for the small Llama, with the claims of the honest mini-Llama and `extraction` as its table.
pub fn recipe(extraction: &str) -> Recipe {
    let claims = directory("models/honest-mini/claims.jsonl");
    let text = format!(
        r#"
        name = "toy"
        model = "tiny-llama2"
        [behaviour]
        name = "honesty"
        positive = ["Be honest.", "Tell the truth."]
        negative = ["Lie."]
        [prompt]
        system = "One letter."
        claim = "{{claim}}<<end>> A) True B) False"
        [data]
        claims = {{ file = {claims:?}, group = "fact" }}
        [extraction]
        keep = "all"
        {extraction}
        [steering]
        layers = [1]
        coeff = 1.0
        [tuning]
        modes = ["truth"]
        layers = [1]
        learning_rate = 1e-3
        "#
    );
    toml::from_str(&text).expect("a recipe")
}
