//! `config.json` from the metadata of a GGUF model.

use super::file::GgufModel;
use crate::error::Result;
use reptune_adapters::model::Architecture;
use serde_json::{Value, json};

impl GgufModel {
    /// The configuration as Hugging Face writes it; refused where the rotary embedding is of a
    /// kind that it cannot express exactly.
    ///
    /// llama.cpp calls a Mistral a llama. Its name makes it one again (transformers reads it so
    /// too), or a window or heads of a width of their own, which mistral.rs knows of a Mistral only.
    pub(super) fn config(&self) -> Result<Value> {
        let own = |key: &str| self.own(key);
        let count = |key: &str| self.count(&own(key));
        let optional = |key: &str| self.optional(&own(key), Self::count);
        let key = own("expert_count");
        if let Some(experts) = self.value(&key).map(|v| v.to_u32().ok())
            && experts != Some(0)
        {
            let found = experts.map_or("another value".into(), |n| n.to_string());
            return Err(self.wrong(&key, "0: no mixture of experts", found));
        }
        let (heads, hidden) = (count("attention.head_count")?, count("embedding_length")?);
        let kv_heads = optional("attention.head_count_kv")?.unwrap_or(heads);
        let rotated = optional("rope.dimension_count")?;
        let width = optional("attention.key_length")?.unwrap_or(hidden / heads.max(1));
        let values = optional("attention.value_length")?;
        let widths = [
            ("attention.value_length", values),
            ("rope.dimension_count", rotated),
        ];
        for (key, found) in widths {
            if let Some(found) = found.filter(|found| *found != width) {
                let expected = format!("{width}, the width of a head");
                return Err(self.wrong(&own(key), &expected, found.to_string()));
            }
        }
        let theta = self.optional(&own("rope.freq_base"), Self::number)?;
        let theta = theta.unwrap_or(10000.);
        let scaling = self.rope_scaling(theta, width)?;
        let window = optional("attention.sliding_window")?;
        let is_biased = |tensor: &str| {
            let name = format!("blk.0.{tensor}.bias");
            self.architecture == "llama" && self.file.tensor(&name).is_some()
        };
        let (attention_bias, mlp_bias) = (is_biased("attn_output"), is_biased("ffn_down"));
        let plain = !attention_bias && !mlp_bias && scaling.is_null();
        let name = self.value("general.name").and_then(|v| v.to_string().ok());
        let is_mistral = name.is_some_and(|n| n.to_lowercase().contains("mistral")) && plain
            || window.is_some()
            || Some(width) != hidden.checked_div(heads);
        let architecture = match self.architecture.as_str() {
            "qwen2" => Architecture::Qwen2,
            "qwen3" => Architecture::Qwen3,
            _ if is_mistral => Architecture::Mistral,
            _ => Architecture::Llama,
        };
        Ok(json!({
            "architectures": [architecture.class()],
            "model_type": architecture.model_type(),
            "hidden_size": hidden,
            "intermediate_size": count("feed_forward_length")?,
            "num_hidden_layers": count("block_count")?,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": width,
            "vocab_size": self.vocabulary()?,
            "max_position_embeddings": count("context_length")?,
            "rms_norm_eps": self.number(&own("attention.layer_norm_rms_epsilon"))?,
            "rope_theta": theta,
            "rope_scaling": scaling,
            "hidden_act": "silu",
            "sliding_window": window,
            "use_sliding_window": window.is_some(),
            "max_window_layers": 0,
            "attention_bias": attention_bias,
            "mlp_bias": mlp_bias,
            "tie_word_embeddings": self.file.tensor("output.weight").is_none(),
            "bos_token_id": self.token_id("bos"),
            "eos_token_id": self.ends(),
            "torch_dtype": "float32",
        }))
    }

    /// The tokens that end a text or a turn.
    fn ends(&self) -> Value {
        let mut ids: Vec<u32> = Vec::new();
        for id in ["eos", "eot", "eom"]
            .into_iter()
            .filter_map(|which| self.token_id(which))
        {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        match ids.as_slice() {
            [] => Value::Null,
            [one] => json!(one),
            all => json!(all),
        }
    }

    /// Llama 3.1 stretches slow rotations; GGUF holds the factor of every frequency, and
    /// config.json the rule. The rule is found again, and must give the factors.
    fn rope_scaling(&self, theta: f64, width: usize) -> Result<Value> {
        const FACTORS: &str = "rope_freqs.weight";
        let key = &self.own("rope.scaling.type");
        let kind = self.value(key);
        // As in llama.cpp: a factor without a type scales linearly, and the second key is what
        // its converter wrote in 2023.
        let kind = kind.map_or("linear", |v| v.to_string().map_or("", String::as_str));
        let factor = self.optional(&self.own("rope.scaling.factor"), Self::number)?;
        let former = self.optional(&self.own("rope.scale_linear"), Self::number)?;
        match (kind, factor.or(former).filter(|factor| *factor != 1.)) {
            ("none", _) | ("linear", None) => {}
            ("linear", Some(_)) if self.file.tensor(FACTORS).is_some() => {
                let expected = format!("no linear scaling next to `{FACTORS}`");
                return Err(self.wrong(key, &expected, "both".into()));
            }
            ("linear", Some(factor)) => {
                return Ok(json!({"rope_type": "linear", "factor": factor}));
            }
            (other, _) => return Err(self.wrong(key, "none or linear", format!("`{other}`"))),
        }
        if self.file.tensor(FACTORS).is_none() {
            return Ok(Value::Null);
        }
        let factors: Vec<f32> = self.tensor(FACTORS, &[])?.flatten_all()?.to_vec1()?;
        let most = factors.iter().copied().fold(0f32, f32::max);
        if factors.len() != width / 2 {
            let found = format!("{} factors", factors.len());
            return Err(self.wrong(FACTORS, &format!("{}, one a frequency", width / 2), found));
        }
        let frequency = |i: usize| theta.powf(-(2. * i as f64) / width as f64);
        let (low, high) = (1., 4.);
        let given = |factor: f64, original: f64, i: usize| {
            let turns = original * frequency(i) / (2. * std::f64::consts::PI);
            let smooth = ((turns - low) / (high - low)).clamp(0., 1.);
            1. / ((1. - smooth) / factor + smooth)
        };
        // Contexts that models are trained with are powers of two.
        for original in (4..24).map(|bits| 1usize << bits) {
            let same = factors.iter().enumerate().all(|(i, f)| {
                let rule = given(f64::from(most), original as f64, i);
                (rule - f64::from(*f)).abs() <= 1e-5 * rule
            });
            if same {
                return Ok(json!({
                    "rope_type": "llama3", "factor": most, "low_freq_factor": low,
                    "high_freq_factor": high, "original_max_position_embeddings": original,
                }));
            }
        }
        let found = format!("others, {:?} ..", &factors[..factors.len().min(4)]);
        Err(self.wrong(FACTORS, "the factors of Llama 3.1's rule", found))
    }
}
