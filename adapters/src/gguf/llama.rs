//! How llama.cpp names and orders the weights of a Llama.
//!
//! It turns pairs of neighbouring columns of a head where Hugging Face turns column i with
//! i + half, so its converter reorders the rows of q and k: row (h, k, j) of Hugging Face
//! (head, half, place in the half) is row (h, j, k) there. Whole rows move, so nothing is
//! rounded, in quantized weights either.

use crate::host::ModelSpec;
use crate::low_rank::{Projection, Site};

/// Name of the weight of a site, `blk.3.attn_q.weight`.
pub fn name(site: Site) -> String {
    format!("blk.{}.{}.weight", site.layer, short(site.projection))
}

/// The site of the weight called `name`.
pub fn site(name: &str) -> Option<Site> {
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let weight = rest.strip_suffix(".weight")?;
    let projection = Projection::ALL.into_iter().find(|p| short(*p) == weight)?;
    let site = Site {
        layer: layer.parse().ok()?,
        projection,
    };
    (self::name(site) == name).then_some(site)
}

fn short(p: Projection) -> &'static str {
    match p {
        Projection::QProj => "attn_q",
        Projection::KProj => "attn_k",
        Projection::VProj => "attn_v",
        Projection::OProj => "attn_output",
        Projection::GateProj => "ffn_gate",
        Projection::UpProj => "ffn_up",
        Projection::DownProj => "ffn_down",
    }
}

/// Heads of a projection whose rows are reordered.
pub fn heads(p: Projection, model: &ModelSpec) -> Option<usize> {
    match p {
        Projection::QProj => Some(model.heads),
        Projection::KProj => Some(model.kv_heads),
        _ => None,
    }
}

/// Rows of Hugging Face in llama.cpp's order.
///
/// Shapes: `table` has `rows` rows of equal length, `rows` is a multiple of `2 * heads`.
pub fn to_llama_cpp<T: Copy>(table: &[T], rows: usize, heads: usize) -> Vec<T> {
    moved(table, rows, heads, |r, half| r % 2 * half + r / 2)
}

/// Rows of llama.cpp in Hugging Face's order.
///
/// Shapes: as in [`to_llama_cpp`].
pub fn from_llama_cpp<T: Copy>(table: &[T], rows: usize, heads: usize) -> Vec<T> {
    moved(table, rows, heads, |r, half| 2 * (r % half) + r / half)
}

/// Row r of every head is row `from(r, half)` of it in `table`.
fn moved<T: Copy>(
    table: &[T],
    rows: usize,
    heads: usize,
    from: impl Fn(usize, usize) -> usize,
) -> Vec<T> {
    let (row, width) = (table.len() / rows.max(1), rows / heads.max(1));
    let mut all = Vec::with_capacity(table.len());
    for head in 0..heads {
        for r in 0..width {
            let at = (head * width + from(r, width / 2)) * row;
            all.extend_from_slice(&table[at..at + row]);
        }
    }
    all
}

#[cfg(test)]
mod tests {
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
        for projection in Projection::ALL {
            let all = Site {
                layer: 12,
                projection,
            };
            assert_eq!(site(&name(all)), Some(all));
        }
        assert_eq!(site("blk.x.attn_q.weight"), None);
        assert_eq!(site("blk.01.attn_q.weight"), None);
        assert_eq!(site("blk.1.attn_norm.weight"), None);
    }
}
