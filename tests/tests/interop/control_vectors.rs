//! Control vectors in types and shapes that llama.cpp does not take
//! (`tests/interop/control_vector_types.py`), with the numbers of the gguf package.

use super::{interop, tensors};
use anyhow::Result;
use reptune_adapters::HookedModel;
use reptune_adapters::open_directions;
use reptune_tests::llama;

#[test]
fn numbers_of_any_type_are_those_of_the_gguf_package() -> Result<()> {
    let path = interop("llama_cpp/types.gguf");
    let theirs = tensors(&interop("llama_cpp/types.safetensors"))?;
    let set = open_directions(&path)?;
    assert_eq!(set.layers.len(), theirs.len());
    for (layer, direction) in &set.layers {
        let numbers: Vec<f32> = theirs[&format!("direction.{layer}")].to_vec1()?;
        let largest = numbers.iter().fold(0f64, |m, x| m.max(f64::from(x.abs())));
        for (unit, number) in direction.unit.iter().zip(&numbers) {
            let off = f64::from(*unit) * direction.norm - f64::from(*number);
            assert!(off.abs() < 1e-6 * largest, "layer {layer}: {off}");
        }
    }
    let (set, notes) = set.for_model(&path, llama("tiny-llama2")?.spec())?;
    assert_eq!(set.layers.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
    let notes = notes.join("\n");
    for said in ["made for `llama-3.1`", "layer 4 is left out"] {
        assert!(notes.contains(said), "{said}: {notes}");
    }
    Ok(())
}
