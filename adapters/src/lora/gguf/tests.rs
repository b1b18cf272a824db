use super::*;
use crate::formats::gguf::GgmlDType;
use crate::lora::LoraInit;
use crate::model::{Architecture, ModuleKind, TargetModule};
use candle_core::quantized::QTensor;
use std::path::PathBuf;

fn directory() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("x.gguf");
    (directory, path)
}

fn spec() -> ModelSpec {
    ModelSpec {
        name: "small".into(),
        fingerprint: "f".into(),
        architecture: Architecture::Llama,
        former_fingerprint: String::new(),
        layers: 4,
        hidden: 8,
        intermediate: 12,
        heads: 2,
        kv_heads: 1,
        head_dim: 4,
        vocab: 9,
        context: 16,
    }
}

#[test]
fn an_adapter_goes_to_llama_cpp_and_back() -> Result<()> {
    let (_directory, path) = directory();
    let spec = spec();
    let all = [ModuleKind::QProj, ModuleKind::KProj, ModuleKind::DownProj];
    let mut update = Adapter::init(
        &spec,
        &LoraInit {
            layers: &[1, 2],
            kinds: &all,
            rank: 2,
            alpha: 3.,
            seed: 5,
        },
    )?;
    for (i, l) in update.modules.values_mut().enumerate() {
        let (o, r) = l.b.dims2()?;
        let b: Vec<f32> = (0..o * r).map(|x| ((x + i) as f32).cos()).collect();
        l.b = Tensor::from_vec(b, (o, r), &candle_core::Device::Cpu)?;
    }
    write(&path, &update, &spec)?;
    let back = read(&path, &spec)?;
    assert_eq!(back.content_hash()?, update.content_hash()?, "bit for bit");

    // scales of their own end up in B
    let module = TargetModule::parse("model.layers.2.self_attn.k_proj").expect("a module");
    update.modules.get_mut(&module).expect("there").scale = 0.25;
    write(&path, &update, &spec)?;
    let back = read(&path, &spec)?;
    for (module, l) in &update.modules {
        let off = (back.modules[module].delta()? - l.delta()?)?
            .abs()?
            .max_all()?;
        assert!(off.to_scalar::<f32>()? < 1e-6, "{module}");
    }

    // an alpha of 0 is a scale of 1 for llama.cpp; a scale of 0 is none
    let first = *update.modules.keys().next().expect("a module");
    update.modules.get_mut(&first).expect("there").scale = 0.;
    write(&path, &update, &spec)?;
    let back = read(&path, &spec)?;
    for (module, norm) in [(first, 0.), (module, 1.)] {
        let delta = back.modules[&module].delta()?.abs()?.max_all()?;
        assert_eq!(delta.to_scalar::<f32>()? > 0., norm > 0., "{module}");
    }

    let other = ModelSpec {
        hidden: 16,
        ..spec.clone()
    };
    let message = read(&path, &other).expect_err("another").to_string();
    assert!(
        message.contains("lora_a") && message.contains("[2, 16]"),
        "{message}"
    );
    update.make_direct(&spec, &[module])?;
    let message = write(&path, &update, &spec).expect_err("full").to_string();
    assert!(
        message.contains("k_proj") && message.contains("merge"),
        "{message}"
    );
    Ok(())
}

#[test]
fn factors_in_16_bits_are_taken_and_others_refused() -> Result<()> {
    let (_directory, path) = directory();
    let adapter = |a: GgmlDType, bytes: Vec<u8>| -> Result<()> {
        let mut file = GgufWriter::new("llama");
        file.text("general.type", "adapter");
        file.text("adapter.type", "lora");
        file.set("adapter.lora.alpha", Value::F32(2.));
        file.tensor("blk.0.attn_output.weight.lora_a", a, &[1, 8], bytes)?;
        file.floats("blk.0.attn_output.weight.lora_b", &[8, 1], &[0.5; 8])?;
        file.write(&path)?;
        Ok(())
    };
    let half = |x: u16| x.to_le_bytes().repeat(8);
    for (dtype, one) in [(GgmlDType::F16, 0x3c00), (GgmlDType::BF16, 0x3f80)] {
        adapter(dtype, half(one))?;
        let update = read(&path, &spec())?;
        let module = TargetModule::parse("model.layers.0.self_attn.o_proj").expect("a module");
        let delta = update.modules[&module].delta()?;
        assert_eq!(delta.to_vec2::<f32>()?, vec![vec![1f32; 8]; 8], "{dtype:?}");
    }
    adapter(GgmlDType::F16, half(0x7c00))?;
    let message = read(&path, &spec()).expect_err("infinite").to_string();
    assert!(message.contains("lora_a`: expected finite"), "{message}");
    adapter(GgmlDType::F32, f32::NAN.to_le_bytes().repeat(8))?;
    let message = read(&path, &spec()).expect_err("NaN").to_string();
    assert!(message.contains("lora_a`: expected finite"), "{message}");
    Ok(())
}

#[test]
fn quantized_factors_are_read_as_what_they_stand_for() -> Result<()> {
    let (_directory, path) = directory();
    let (rank, hidden) = (32, 64);
    let spec = ModelSpec {
        hidden,
        heads: 4,
        head_dim: 16,
        ..spec()
    };
    let table = |rows: usize, columns: usize| {
        let x: Vec<f32> = (0..rows * columns)
            .map(|i| (i as f32 * 0.7).sin())
            .collect();
        Tensor::from_vec(x, (rows, columns), &Device::Cpu)
    };
    let (a, b) = (table(rank, hidden)?, table(hidden, rank)?);
    for dtype in [GgmlDType::Q8_0, GgmlDType::Q4_0, GgmlDType::Q5_1] {
        let mut file = GgufWriter::new("llama");
        file.text("general.type", "adapter");
        file.text("adapter.type", "lora");
        file.set("adapter.lora.alpha", Value::F32(rank as f32));
        let mut expected = Vec::new();
        for (name, factor) in [("lora_a", &a), ("lora_b", &b)] {
            let quantized = QTensor::quantize(factor, dtype)?;
            expected.push(quantized.dequantize(&Device::Cpu)?);
            let name = format!("blk.0.attn_output.weight.{name}");
            file.tensor(&name, dtype, factor.dims(), quantized.data()?.to_vec())?;
        }
        file.write(&path)?;
        let update = read(&path, &spec)?;
        let module = TargetModule::parse("model.layers.0.self_attn.o_proj").expect("a module");
        let read = &update.modules[&module];
        assert_eq!(
            read.a.to_vec2::<f32>()?,
            expected[0].to_vec2::<f32>()?,
            "{dtype:?}"
        );
        assert_eq!(
            read.b.to_vec2::<f32>()?,
            expected[1].to_vec2::<f32>()?,
            "{dtype:?}"
        );
    }
    Ok(())
}

/// llama.cpp pairs neighbouring columns in a llama, which a Mistral is to it, and in no Qwen.
#[test]
fn rows_move_in_the_architectures_in_which_llama_cpp_moves_them() -> Result<()> {
    let (_directory, path) = directory();
    let kinds = [ModuleKind::QProj, ModuleKind::KProj, ModuleKind::VProj];
    let shown: Vec<f32> = (0..16).map(|x| x as f32).collect();
    for (architecture, name, moves) in [
        (Architecture::Llama, "llama", true),
        (Architecture::Mistral, "llama", true),
        (Architecture::Qwen2, "qwen2", false),
        (Architecture::Qwen3, "qwen3", false),
    ] {
        let spec = ModelSpec {
            architecture,
            ..spec()
        };
        let init = LoraInit {
            layers: &[1],
            kinds: &kinds,
            rank: 2,
            alpha: 4.,
            seed: 5,
        };
        let mut update = Adapter::init(&spec, &init)?;
        for l in update.modules.values_mut() {
            let (o, r) = l.b.dims2()?;
            l.b = Tensor::from_slice(&shown[..o * r], (o, r), &Device::Cpu)?;
        }
        write(&path, &update, &spec)?;
        let file = Gguf::open(&path)?;
        assert_eq!(file.text("general.architecture")?, Some(name));
        for (weight, values, moved) in [
            ("attn_q", 16, moves),
            ("attn_k", 8, moves),
            ("attn_v", 8, false),
        ] {
            let b = file.floats(&format!("blk.1.{weight}.weight.lora_b"))?;
            assert_eq!(b != shown[..values], moved, "{architecture}, {weight}");
        }
        assert_eq!(read(&path, &spec)?.content_hash()?, update.content_hash()?);
        let other = match name {
            "llama" => Architecture::Qwen2,
            _ => Architecture::Llama,
        };
        let other = ModelSpec {
            architecture: other,
            ..spec.clone()
        };
        let message = read(&path, &other).expect_err("another").to_string();
        assert!(message.contains(&format!("found `{name}`")), "{message}");
    }
    Ok(())
}
