use super::*;

#[test]
fn rows_are_interleaved_and_put_back() {
    // two heads of four rows, two columns
    let rows: Vec<u32> = (0..16).collect();
    let there = to_llama_cpp(&rows, 8, 2);
    assert_eq!(
        there,
        [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]
    );
    assert_eq!(from_llama_cpp(&there, 8, 2), rows);
    let wide: Vec<u32> = (0..48).collect();
    assert_eq!(from_llama_cpp(&to_llama_cpp(&wide, 24, 3), 24, 3), wide);
}

#[test]
fn names_are_read_as_they_are_written() {
    for kind in ModuleKind::ALL {
        let all = TargetModule { layer: 12, kind };
        assert_eq!(module(&name(all)), Some(all));
    }
    assert_eq!(module("blk.x.attn_q.weight"), None);
    assert_eq!(module("blk.01.attn_q.weight"), None);
    assert_eq!(module("blk.1.attn_norm.weight"), None);
}
