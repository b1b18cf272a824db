use super::*;
use crate::lora::LoraInit;
use crate::lora::peft;
use crate::model::{Architecture, ModuleKind};

fn spec() -> ModelSpec {
    ModelSpec {
        name: "small".into(),
        fingerprint: "f".into(),
        architecture: Architecture::Llama,
        former_fingerprint: String::new(),
        layers: 2,
        hidden: 4,
        intermediate: 6,
        heads: 2,
        kv_heads: 1,
        head_dim: 2,
        vocab: 9,
        context: 16,
    }
}

fn update() -> Result<Adapter> {
    let spec = spec();
    let both = [ModuleKind::VProj, ModuleKind::DownProj];
    let mut update = Adapter::init(
        &spec,
        &LoraInit {
            layers: &[1],
            kinds: &both,
            rank: 2,
            alpha: 3.,
            seed: 5,
        },
    )?;
    let direct: TargetModule = *update.modules.keys().next().expect("a module");
    update.make_direct(&spec, &[direct])?;
    let (o, i) = direct.kind.shape(&spec);
    let data: Vec<f32> = (0..o * i).map(|x| (x as f32).sin()).collect();
    let delta = Tensor::from_vec(data, (o, i), &Device::Cpu)?;
    update.modules.insert(direct, WeightDelta::direct(delta)?);
    Ok(update)
}

fn deltas(update: &Adapter) -> Result<Vec<(TargetModule, Vec<f32>)>> {
    let delta = |(module, l): (&TargetModule, &WeightDelta)| {
        Ok((*module, l.delta()?.flatten_all()?.to_vec1()?))
    };
    update.modules.iter().map(delta).collect()
}

#[test]
fn a_full_delta_is_read_back_and_peft_refuses_it() -> Result<()> {
    let directory = tempfile::tempdir().expect("directory");
    let update = update()?;
    let message = peft::save(directory.path(), &update, "small")
        .expect_err("no form in PEFT")
        .to_string();
    assert!(
        message.contains("model.layers.1.self_attn.v_proj") && message.contains("delta_file"),
        "{message}"
    );
    peft::save_adapter(directory.path(), &update, &spec())?;
    let back = peft::load(directory.path(), &spec())?;
    assert_eq!(deltas(&update)?, deltas(&back)?);
    let plain = Adapter::init(
        &spec(),
        &LoraInit {
            layers: &[0],
            kinds: &[ModuleKind::QProj],
            rank: 2,
            alpha: 4.,
            seed: 1,
        },
    )?;
    peft::save_adapter(directory.path(), &plain, &spec())?;
    let back = peft::load(directory.path(), &spec())?;
    assert_eq!(deltas(&plain)?, deltas(&back)?, "the other form is gone");
    Ok(())
}

#[test]
fn an_update_for_another_model_or_changed_is_refused() -> Result<()> {
    let directory = tempfile::tempdir().expect("directory");
    save(directory.path(), &update()?, &spec())?;
    let refused = |spec: &ModelSpec| {
        load(directory.path(), spec)
            .expect_err("refused")
            .to_string()
    };
    let other = ModelSpec {
        fingerprint: "g".into(),
        ..spec()
    };
    assert!(refused(&other).contains("metadata `model_fingerprint`"));
    let wide = ModelSpec {
        hidden: 8,
        ..spec()
    };
    let message = refused(&wide);
    assert!(
        message.contains("v_proj`") && message.contains("(2, 8) of small"),
        "{message}"
    );
    let shallow = ModelSpec {
        layers: 1,
        ..spec()
    };
    assert!(refused(&shallow).contains("one of the 1 blocks of small"));
    let path = directory.path().join(FILE);
    let mut bytes = crate::files::read(&path)?;
    *bytes.last_mut().expect("bytes") ^= 1;
    std::fs::write(&path, bytes).expect("write");
    assert!(refused(&spec()).contains("metadata `content_sha256`"));
    Ok(())
}

#[test]
fn forward_and_gradient_of_a_full_delta_are_those_of_a_linear_layer() -> Result<()> {
    let x = Tensor::new(&[[1f32, 2., -1.], [0.5, -3., 2.]], &Device::Cpu)?;
    let mut update = Adapter::default();
    let module = TargetModule::parse("model.layers.0.self_attn.o_proj").expect("a module");
    let delta = Tensor::new(&[[0.1f32, 0.2, 0.3], [-1., 0., 1.]], &Device::Cpu)?;
    update
        .modules
        .insert(module, WeightDelta::direct(delta.clone())?);
    let vars = update.trainable(&Device::Cpu)?;
    assert_eq!(vars.len(), 1);
    let y = update.modules[&module].forward(&x)?;
    let by_hand = x.matmul(&delta.t()?)?;
    assert_eq!(y.to_vec2::<f32>()?, by_hand.to_vec2::<f32>()?);
    let weight = Tensor::new(&[[1f32, -2.], [3., 0.5]], &Device::Cpu)?;
    let store = (y * &weight)?.sum_all()?.backward()?;
    let gradient = store.get(vars[0].as_tensor()).expect("a gradient");
    let by_hand = weight.t()?.matmul(&x)?;
    assert_eq!(gradient.to_vec2::<f32>()?, by_hand.to_vec2::<f32>()?);
    Ok(())
}
