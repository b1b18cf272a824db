//! Files of llama.cpp's cvector-generator, which counts layers otherwise than llama.cpp applies
//! them (`tests/interop/cvector_layout.py`).

use super::interop;
use anyhow::Result;
use reptune_adapters::steering::exchange;
use reptune_adapters::{Dose, HookedModel, Intervention, Operator};
use reptune_tests::{Oracle, llama};

#[test]
fn layers_of_the_generator_are_moved_to_where_they_were_found() -> Result<()> {
    let path = interop("llama_cpp/cvector.gguf");
    let model = llama("tiny-llama2")?;
    let known = Oracle::read("oracle-llama2.safetensors")?.directions()?;
    let moved = exchange::read(&path, -1, Operator::Add)?;
    moved.set.check_model(&path, model.spec())?;
    let layers: Vec<usize> = moved.set.layers.keys().copied().collect();
    assert_eq!(layers, [0, 1, 2]);
    for (layer, d) in &moved.set.layers {
        let pairs = d.unit.iter().zip(&known.layers[layer].unit);
        let off = pairs.map(|(a, b)| (a - b).abs()).fold(0., f32::max);
        assert!(off < 1e-6, "layer {layer}: {off}");
    }
    let (origin, notes) = (&moved.set.provenance.origin, moved.notes.join("\n"));
    assert!(origin.contains("-1"), "the offset is on record: {origin}");
    assert!(notes.contains("-1"), "and is told: {notes}");
    // Where they lie now is where they act.
    Intervention::new(&moved.set, &[0], Dose::Strength(1.), Operator::Add)?;
    let named = exchange::read(&path, 0, Operator::Add)?.set;
    assert_eq!(named.layers.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
    Ok(())
}
