//! The parts of a UQFF entry and where they lie in its bytes.
//!
//! mistral.rs's own readers trust an entry: they allocate the lengths that it claims and copy
//! unchecked. So every entry is measured here first. The layouts are those of UQFF 0.2.0
//! (mistral.rs 0.8.1), little endian: version u32, kind u8, then
//!
//! - ggml (0): data length u32, has bias u8, type u32, dims, data
//! - f32 (1): has bias u8, tensor
//! - hqq (2): has bias u8, tensors codes, scales, zeros, dims, bits u8, group u32, axis u8,
//!   steps u32, two flags u8
//! - fp8 (3): has bias u8, tensor, three scales f32, dtype u32
//! - afq (4): has bias u8, tensors codes, scales, biases, bits u8, group u8
//! - f8q8 (5): has bias u8, number of blocks u32, dims, blocks of 33 bytes
//! - mxfp4 (6): has bias u8, tensors codes, scales
//!
//! and the bias, a tensor. Dims: their number u32, then each u32. A tensor: length of
//! its data u32, dtype u32, dims, data.

use super::weight_type::WeightType;
use candle_core::DType;
use reptune_adapters::formats::gguf as ggml;
use std::ops::Range;

/// The parts of an entry, all of them within its bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    /// How the weight is stored.
    pub stored: WeightType,
    /// Shape (O, I) of the weight.
    pub shape: (usize, usize),
    /// Data of a ggml weight; empty for other kinds.
    pub data: Range<usize>,
    /// Dtype of an unquantized weight.
    pub full: Option<DType>,
    /// Where it says whether there is a bias.
    pub flag: usize,
    /// Where the weight ends and the bias may begin.
    pub end: usize,
    /// Data of the bias (O,), with its dtype.
    pub bias: Option<(DType, Range<usize>)>,
}

/// Dtypes of weights, scales and biases that are computed with.
pub(super) const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// What is wrong with an entry: expected, found.
pub type Misfit = (String, String);

impl Layout {
    /// Measures `entry`.
    ///
    /// # Errors
    /// What was expected and what was found, where the entry contradicts itself.
    pub fn of(entry: &[u8]) -> Result<Self, Misfit> {
        let mut at = Cursor { entry, at: 0 };
        let version = at.u32("version")?;
        if version >> 16 != 0 || (version >> 8 & 0xff) > 2 {
            return misfit("version 0.2.0 or older", format!("{version:#08x}"));
        }
        let kind = at.u8("kind")?;
        if kind > 6 {
            return misfit("a kind from 0 to 6", kind.to_string());
        }
        let length = match kind {
            0 => at.u32("data length")? as usize,
            _ => 0,
        };
        let flag = at.take(1, "bias flag")?.start;
        let mut full = None;
        let (stored, shape) = match kind {
            0 => at.ggml(length)?,
            1 => {
                let (dtype, shape) = at.matrix_of(&FLOATS, "a float weight (O, I)")?;
                full = Some(dtype);
                (WeightType::F32, shape)
            }
            2 => at.hqq()?,
            3 => {
                let expected = "an 8-bit float weight (O, I)";
                let (_, shape) = at.matrix_of(&[DType::F8E4M3], expected)?;
                at.take(16, "scales and dtype")?;
                (WeightType::Fp8, shape)
            }
            4 => at.afq()?,
            5 => at.f8q8()?,
            _ => at.mxfp4()?,
        };
        let (end, mut bias) = (at.at, None);
        match entry[flag] {
            0 => {}
            1 => {
                let Tensor { dtype, dims, data } = at.tensor("bias")?;
                if dims != [shape.0] {
                    let expected = format!("a bias of shape ({},)", shape.0);
                    return misfit(expected, format!("{dims:?}"));
                }
                bias = Some((dtype, data));
            }
            other => return misfit("0 or 1 for whether there is a bias", other.to_string()),
        }
        if at.at != entry.len() {
            return misfit(format!("{} bytes", at.at), format!("{} bytes", entry.len()));
        }
        Ok(Self {
            stored,
            shape,
            data: end - length..end,
            full,
            flag,
            end,
            bias,
        })
    }
}

fn misfit<T>(expected: impl Into<String>, found: impl Into<String>) -> Result<T, Misfit> {
    Err((expected.into(), found.into()))
}

struct Tensor {
    dtype: DType,
    dims: Vec<usize>,
    data: Range<usize>,
}

impl Tensor {
    fn expect(&self, what: &str, dims: &[usize], dtypes: &[DType]) -> Result<(), Misfit> {
        match self.dims == dims && dtypes.contains(&self.dtype) {
            true => Ok(()),
            false => misfit(
                format!("{what} {dims:?} of {dtypes:?}"),
                format!("{:?} of {:?}", self.dims, self.dtype),
            ),
        }
    }
}

/// (O, I), if these are the dims of a matrix with elements.
fn matrix(dims: &[usize]) -> Option<Shape> {
    match dims {
        [o, i] if *o > 0 && *i > 0 => Some((*o, *i)),
        _ => None,
    }
}

/// (O, I).
type Shape = (usize, usize);
/// A weight's type and its shape.
type Weight = (WeightType, Shape);

struct Cursor<'a> {
    entry: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn take(&mut self, length: usize, what: &str) -> Result<Range<usize>, Misfit> {
        let (start, end) = (self.at, self.at.checked_add(length));
        match end.filter(|end| *end <= self.entry.len()) {
            Some(end) => {
                self.at = end;
                Ok(start..end)
            }
            None => misfit(
                format!("{length} bytes of {what} at byte {start}"),
                format!("{} left", self.entry.len() - start),
            ),
        }
    }

    fn u8(&mut self, what: &str) -> Result<u8, Misfit> {
        Ok(self.entry[self.take(1, what)?.start])
    }

    fn u32(&mut self, what: &str) -> Result<u32, Misfit> {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.entry[self.take(4, what)?]);
        Ok(u32::from_le_bytes(bytes))
    }

    fn dims(&mut self) -> Result<Vec<usize>, Misfit> {
        let count = self.u32("number of dims")?;
        if count > 4 {
            return misfit("at most 4 dims", count.to_string());
        }
        (0..count).map(|_| Ok(self.u32("dims")? as usize)).collect()
    }

    fn matrix(&mut self) -> Result<Shape, Misfit> {
        let dims = self.dims()?;
        matrix(&dims).map_or_else(|| misfit("a shape (O, I)", format!("{dims:?}")), Ok)
    }

    fn tensor(&mut self, what: &str) -> Result<Tensor, Misfit> {
        let length = self.u32(what)? as usize;
        let code = self.u32("dtype")?;
        let dims = self.dims()?;
        let dtype = match code {
            0 => DType::U8,
            1 => DType::U32,
            2 => DType::I32,
            4 => DType::F16,
            5 => DType::BF16,
            6 => DType::F32,
            9 => DType::F8E4M3,
            // known to the format, but in no weight or bias that runs on a CPU
            _ => return misfit(format!("a known dtype of {what}"), format!("number {code}")),
        };
        let elements = dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        if elements.and_then(|n| n.checked_mul(dtype.size_in_bytes())) != Some(length) {
            return misfit(
                format!("as many bytes of {what} as {dims:?} of {dtype:?} take"),
                format!("{length} bytes"),
            );
        }
        let data = self.take(length, what)?;
        Ok(Tensor { dtype, dims, data })
    }

    /// A matrix (O, I) of one of `dtypes`.
    fn matrix_of(&mut self, dtypes: &[DType], what: &str) -> Result<(DType, Shape), Misfit> {
        let Tensor { dtype, dims, .. } = self.tensor("weight")?;
        match matrix(&dims).filter(|_| dtypes.contains(&dtype)) {
            Some(shape) => Ok((dtype, shape)),
            None => misfit(what, format!("{dims:?} of {dtype:?}")),
        }
    }

    fn ggml(&mut self, length: usize) -> Result<Weight, Misfit> {
        let code = self.u32("type")?;
        let Ok(dtype) = ggml::dtype(code) else {
            return misfit("a type of ggml", code.to_string());
        };
        let (o, i) = self.matrix()?;
        if ggml::bytes(dtype, &[o, i]) != Some(length as u64) {
            return misfit(
                format!("as many bytes as ({o}, {i}) of {dtype:?} takes"),
                format!("{length} bytes"),
            );
        }
        self.take(length, "data")?;
        Ok((WeightType::Ggml(dtype), (o, i)))
    }

    fn hqq(&mut self) -> Result<Weight, Misfit> {
        let codes = self.tensor("codes")?;
        let (scales, zeros) = (self.tensor("scales")?, self.tensor("zeros")?);
        let (o, i) = self.matrix()?;
        let bits = self.u8("bits")?;
        let group = self.u32("group size")? as usize;
        let axis = self.u8("axis")?;
        self.take(6, "steps and flags")?;
        let elements = o.saturating_mul(i);
        if group == 0 || !elements.is_multiple_of(group) || axis > 1 {
            return misfit(
                format!("groups that divide ({o}, {i}), along axis 0 or 1"),
                format!("groups of {group} along axis {axis}"),
            );
        }
        let groups = elements / group;
        // codes are packed along the first dim: 8 / bits of them a byte, ten 3-bit codes an i32
        let (dtype, packed) = match bits {
            8 | 4 | 2 | 1 => (DType::U8, group / (8 / usize::from(bits))),
            3 => (DType::I32, group.div_ceil(10)),
            other => return misfit("8, 4, 3, 2 or 1 bits", other.to_string()),
        };
        let expected = match (axis, &*codes.dims) {
            (1, &[rows, columns]) => [rows, columns],
            _ => [packed, groups],
        };
        let fits =
            |t: &Tensor| t.dims.iter().product::<usize>() == groups && FLOATS.contains(&t.dtype);
        if codes.dims != expected || codes.dtype != dtype || !fits(&scales) || !fits(&zeros) {
            return misfit(
                format!("codes {expected:?} of {dtype:?}, {groups} scales and zeros"),
                format!(
                    "codes {:?} of {:?}, scales {:?}, zeros {:?}",
                    codes.dims, codes.dtype, scales.dims, zeros.dims
                ),
            );
        }
        Ok((WeightType::Hqq(bits), (o, i)))
    }

    fn afq(&mut self) -> Result<Weight, Misfit> {
        let codes = self.tensor("codes")?;
        let (scales, biases) = (self.tensor("scales")?, self.tensor("biases")?);
        let (bits, group) = (self.u8("bits")?, usize::from(self.u8("group size")?));
        let (&[o, words], &[_, groups]) = (codes.dims.as_slice(), scales.dims.as_slice()) else {
            return misfit("codes and scales in rows", format!("{:?}", codes.dims));
        };
        let i = groups.saturating_mul(group);
        let known = matches!(bits, 2 | 3 | 4 | 6 | 8) && matches!(group, 32 | 64 | 128);
        let fits =
            known && i > 0 && o > 0 && i.checked_mul(usize::from(bits)) == words.checked_mul(32);
        if !fits || codes.dtype != DType::U32 {
            let expected = "packed codes of 2, 3, 4, 6 or 8 bits in groups of 32, 64 or 128";
            let found = format!("{:?} for {groups} groups of {group}", codes.dims);
            return misfit(expected, format!("{found} of {bits} bits"));
        }
        scales.expect("scales", &[o, groups], &FLOATS)?;
        biases.expect("biases", &[o, groups], &FLOATS)?;
        Ok((WeightType::Afq(bits), (o, i)))
    }

    fn f8q8(&mut self) -> Result<Weight, Misfit> {
        let blocks = self.u32("number of blocks")? as usize;
        let (o, i) = self.matrix()?;
        if o.checked_mul(i).map(|n| n.div_ceil(32)) != Some(blocks) {
            return misfit(
                format!("as many blocks of 32 as ({o}, {i}) takes"),
                format!("{blocks} blocks"),
            );
        }
        self.take(blocks.saturating_mul(33), "blocks")?;
        Ok((WeightType::F8Q8, (o, i)))
    }

    fn mxfp4(&mut self) -> Result<Weight, Misfit> {
        let codes = self.tensor("codes")?;
        let &[o, half] = codes.dims.as_slice() else {
            return misfit("codes in rows", format!("{:?}", codes.dims));
        };
        if o == 0 || half == 0 || !half.is_multiple_of(16) || codes.dtype != DType::U8 {
            return misfit("blocks of 16 bytes", format!("{:?}", codes.dims));
        }
        let scales = self.tensor("scales")?;
        scales.expect("scales", &[o, half / 16], &[DType::U8])?;
        Ok((WeightType::Mxfp4, (o, 2 * half)))
    }
}
