//! `config.json` from the metadata of a GGUF Llama.

use super::file::GgufLlama;
use crate::error::Result;
use serde_json::{Value, json};

impl GgufLlama {
    /// The configuration as Hugging Face writes it; refused where the rotary embedding is of a
    /// kind that it cannot express exactly.
    pub(super) fn config(&self) -> Result<Value> {
        let key = "llama.expert_count";
        if let Some(experts) = self.value(key).map(|v| v.to_u32().ok())
            && experts != Some(0)
        {
            let found = experts.map_or("another value".into(), |n| n.to_string());
            return Err(self.wrong(key, "0: no mixture of experts", found));
        }
        let heads = self.count("llama.attention.head_count")?;
        let hidden = self.count("llama.embedding_length")?;
        let kv_heads = self.optional("llama.attention.head_count_kv", Self::count)?;
        let vocab = self.vocabulary()?;
        let width = hidden / heads.max(1);
        for key in [
            "llama.rope.dimension_count",
            "llama.attention.key_length",
            "llama.attention.value_length",
        ] {
            let found = self.optional(key, Self::count)?;
            if let Some(found) = found.filter(|found| *found != width) {
                let expected = format!("{width}, the width of a head");
                return Err(self.wrong(key, &expected, found.to_string()));
            }
        }
        let theta = self.optional("llama.rope.freq_base", Self::number)?;
        let theta = theta.unwrap_or(10000.);
        Ok(json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": hidden,
            "intermediate_size": self.count("llama.feed_forward_length")?,
            "num_hidden_layers": self.count("llama.block_count")?,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads.unwrap_or(heads),
            "vocab_size": vocab,
            "max_position_embeddings": self.count("llama.context_length")?,
            "rms_norm_eps": self.number("llama.attention.layer_norm_rms_epsilon")?,
            "rope_theta": theta,
            "rope_scaling": self.rope_scaling(theta, width)?,
            "hidden_act": "silu",
            "attention_bias": false,
            "mlp_bias": false,
            "tie_word_embeddings": self.0.tensor("output.weight").is_none(),
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
        let key = "llama.rope.scaling.type";
        let kind = self.value(key);
        // As in llama.cpp: a factor without a type scales linearly, and the second key is what
        // its converter wrote in 2023.
        let kind = kind.map_or("linear", |v| v.to_string().map_or("", String::as_str));
        let factor = self.optional("llama.rope.scaling.factor", Self::number)?;
        let former = self.optional("llama.rope.scale_linear", Self::number)?;
        match (kind, factor.or(former).filter(|factor| *factor != 1.)) {
            ("none", _) | ("linear", None) => {}
            ("linear", Some(_)) if self.0.tensor(FACTORS).is_some() => {
                let expected = format!("no linear scaling next to `{FACTORS}`");
                return Err(self.wrong(key, &expected, "both".into()));
            }
            ("linear", Some(factor)) => {
                return Ok(json!({"rope_type": "linear", "factor": factor}));
            }
            (other, _) => return Err(self.wrong(key, "none or linear", format!("`{other}`"))),
        }
        if self.0.tensor(FACTORS).is_none() {
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
