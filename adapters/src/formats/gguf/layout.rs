//! Constants of the format, and the types of tensors by their number in a file.

use candle_core::quantized::{GgmlDType, gguf_file::Value};

/// The first four bytes.
pub const MAGIC: [u8; 4] = *b"GGUF";

/// Metadata key of the multiple at which every tensor's data starts.
pub const ALIGNMENT: &str = "general.alignment";

/// Most dims of a tensor.
pub const MOST_DIMS: usize = 4;

/// Longest name of a tensor that llama.cpp takes: its buffer has 64 bytes.
pub const LONGEST_NAME: usize = 63;

/// The alignment that the value of [`ALIGNMENT`] states, or the usual one; or a wrong value.
pub fn alignment(value: Option<&Value>) -> Result<u64, &Value> {
    match value {
        None => Ok(32),
        Some(Value::U32(n)) if n.is_power_of_two() => Ok((*n).into()),
        Some(other) => Err(other),
    }
}

/// The number of F32.
pub const F32: u32 = 0;

/// The number of F64, which candle does not have.
pub const F64: u32 = 28;

const NUMBERS: [(u32, GgmlDType); 15] = [
    (F32, GgmlDType::F32),
    (1, GgmlDType::F16),
    (2, GgmlDType::Q4_0),
    (3, GgmlDType::Q4_1),
    (6, GgmlDType::Q5_0),
    (7, GgmlDType::Q5_1),
    (8, GgmlDType::Q8_0),
    (9, GgmlDType::Q8_1),
    (10, GgmlDType::Q2K),
    (11, GgmlDType::Q3K),
    (12, GgmlDType::Q4K),
    (13, GgmlDType::Q5K),
    (14, GgmlDType::Q6K),
    (15, GgmlDType::Q8K),
    (30, GgmlDType::BF16),
];

/// Types of llama.cpp that candle does not compute with, by number.
const FOREIGN: [(u32, &str); 22] = [
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (F64, "F64"),
    (29, "IQ1_M"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
    (41, "Q1_0"),
];

/// The type with this number in a file, or its name if candle does not compute with it.
pub fn dtype(number: u32) -> Result<GgmlDType, String> {
    match NUMBERS.iter().find(|(n, _)| *n == number) {
        Some((_, dtype)) => Ok(*dtype),
        None => Err(match FOREIGN.iter().find(|(n, _)| *n == number) {
            Some((_, name)) => format!("{name} (type {number})"),
            None => format!("type {number}"),
        }),
    }
}

/// The number of a type.
pub fn number_of(dtype: GgmlDType) -> u32 {
    let found = NUMBERS.iter().find(|(_, d)| *d == dtype);
    found.map_or(0, |(n, _)| *n)
}

/// Bytes of a tensor of `shape`; none where they are beyond counting, or a row is not
/// made of whole blocks.
pub fn bytes(dtype: GgmlDType, shape: &[usize]) -> Option<u64> {
    let row = shape.last().copied().unwrap_or(1);
    if !row.is_multiple_of(dtype.block_size()) {
        return None;
    }
    let count = |n: u64, dim: &usize| n.checked_mul(u64::try_from(*dim).ok()?);
    let elements = shape.iter().try_fold(1u64, count)?;
    (elements / dtype.block_size() as u64).checked_mul(dtype.type_size() as u64)
}
