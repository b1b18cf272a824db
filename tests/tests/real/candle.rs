//! The first block of a Llama in GGUF on candle's own quantized products, written out plainly: the
//! reference for quantized weights. torch multiplies dequantized weights, while a quantized product
//! on the CPU rounds its inputs to 8 bits too.

use anyhow::{Context, Result};
use candle_core::quantized::{QMatMul, gguf_file};
use candle_core::{DType, Device, Module, Tensor};
use candle_nn::ops::{rms_norm, silu, softmax_last_dim};
use candle_nn::rotary_emb::rope_i;
use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

pub struct QuantizedLlama {
    matrices: HashMap<String, QMatMul>,
    /// Embeddings and norms.
    tensors: HashMap<String, Tensor>,
    heads: usize,
    kv_heads: usize,
    eps: f64,
    theta: f64,
}

impl QuantizedLlama {
    pub fn load(path: &Path) -> Result<Self> {
        let mut file = File::open(path)?;
        let content = gguf_file::Content::read(&mut file)?;
        let field = |key: &str| content.metadata.get(key).with_context(|| key.to_owned());
        let (mut matrices, mut tensors) = (HashMap::new(), HashMap::new());
        for name in content.tensor_infos.keys() {
            let tensor = content.tensor(&mut file, name, &Device::Cpu)?;
            if name == "token_embd.weight" || name.contains("norm") {
                tensors.insert(name.clone(), tensor.dequantize(&Device::Cpu)?);
            } else {
                matrices.insert(name.clone(), QMatMul::from_qtensor(tensor)?);
            }
        }
        Ok(Self {
            matrices,
            tensors,
            heads: field("llama.attention.head_count")?.to_u32()? as usize,
            kv_heads: field("llama.attention.head_count_kv")?.to_u32()? as usize,
            eps: f64::from(field("llama.attention.layer_norm_rms_epsilon")?.to_f32()?),
            theta: f64::from(field("llama.rope.freq_base")?.to_f32()?),
        })
    }

    /// The output (T, H) of block 0 for one sequence.
    pub fn first_block(&self, ids: &[u32]) -> Result<Tensor> {
        let embeddings = &self.tensors["token_embd.weight"];
        let x = embeddings.index_select(&Tensor::new(ids, &Device::Cpu)?, 0)?;
        let linear =
            |name: &str, x: &Tensor| self.matrices[&format!("blk.0.{name}.weight")].forward(x);
        let norm = |name: &str, x: &Tensor| {
            let weight = &self.tensors[&format!("blk.0.{name}.weight")];
            rms_norm(x, weight, self.eps as f32)
        };
        let h = norm("attn_norm", &x)?;
        let [q, k, v] = ["attn_q", "attn_k", "attn_v"].map(|name| linear(name, &h));
        let y = self.attention(&q?, &k?, &v?)?;
        let x = (&x + linear("attn_output", &y)?)?;
        let h = norm("ffn_norm", &x)?;
        let y = (silu(&linear("ffn_gate", &h)?)? * linear("ffn_up", &h)?)?;
        Ok((&x + linear("ffn_down", &y)?)?)
    }

    /// Causal attention over neighbouring pairs of columns, as llama.cpp orders them.
    fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let (tokens, width) = q.dims2()?;
        let dim = width / self.heads;
        let split = |t: &Tensor, heads: usize| -> Result<Tensor> {
            Ok(t.reshape((1, tokens, heads, dim))?
                .transpose(1, 2)?
                .contiguous()?)
        };
        let (cos, sin) = self.angles(tokens, dim)?;
        let q = rope_i(&split(q, self.heads)?, &cos, &sin)?;
        let k = rope_i(&split(k, self.kv_heads)?, &cos, &sin)?;
        let shared = self.heads / self.kv_heads;
        let repeat = |t: Tensor| -> Result<Tensor> {
            let shape = (1, self.kv_heads, shared, tokens, dim);
            let t = t.unsqueeze(2)?.expand(shape)?.contiguous()?;
            Ok(t.reshape((1, self.heads, tokens, dim))?)
        };
        let (k, v) = (repeat(k)?, repeat(split(v, self.kv_heads)?)?);
        let scores = (q.matmul(&k.t()?)? / (dim as f64).sqrt())?;
        let future =
            |i: usize| (0..tokens).map(move |j| if j > i { f32::NEG_INFINITY } else { 0. });
        let mask: Vec<f32> = (0..tokens).flat_map(future).collect();
        let mask = Tensor::from_vec(mask, (1, 1, tokens, tokens), &Device::Cpu)?;
        let weights = softmax_last_dim(&scores.broadcast_add(&mask)?)?;
        let y = weights.matmul(&v)?.transpose(1, 2)?;
        Ok(y.reshape((tokens, width))?)
    }

    fn angles(&self, tokens: usize, dim: usize) -> Result<(Tensor, Tensor)> {
        let rates = (0..dim / 2).map(|i| self.theta.powf(-2. * i as f64 / dim as f64) as f32);
        let rates = Tensor::from_iter(rates, &Device::Cpu)?.unsqueeze(0)?;
        let positions = Tensor::arange(0u32, tokens as u32, &Device::Cpu)?;
        let positions = positions.to_dtype(DType::F32)?.unsqueeze(1)?;
        let angles = positions.matmul(&rates)?;
        Ok((angles.cos()?, angles.sin()?))
    }
}
