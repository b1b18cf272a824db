//! The parts of a UQFF entry and where they lie in its bytes.
//!
//! mistral.rs's own readers trust an entry: they allocate the lengths that it claims and copy
//! unchecked. So every entry is measured here first. The layouts are those of UQFF 0.2.0 (mistral.rs 0.8.1), little endian:
//! version u32, kind u8, then
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
use candle_core::quantized::GgmlDType;
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
    pub bias: Option<(Dtype, Range<usize>)>,
}

/// Number types of tensors in an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Dtype {
    U8,
    U32,
    I32,
    F16,
    BF16,
    F32,
    F8,
    /// Known to the format, but in no weight or bias that runs on a CPU.
    Other(u32),
}

impl Dtype {
    fn of(code: u32) -> Self {
        match code {
            0 => Self::U8,
            1 => Self::U32,
            2 => Self::I32,
            4 => Self::F16,
            5 => Self::BF16,
            6 => Self::F32,
            9 => Self::F8,
            other => Self::Other(other),
        }
    }

    fn bytes(self) -> Option<usize> {
        match self {
            Self::U8 | Self::F8 => Some(1),
            Self::F16 | Self::BF16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::Other(_) => None,
        }
    }
}

const FLOATS: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::BF16];

struct Tensor {
    dtype: Dtype,
    dims: Vec<usize>,
    data: Range<usize>,
}

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
        let mut layout = match kind {
            0 => at.ggml()?,
            1 => at.full()?,
            2 => at.hqq()?,
            3 => at.fp8()?,
            4 => at.afq()?,
            5 => at.f8q8()?,
            6 => at.mxfp4()?,
            other => return misfit("a kind from 0 to 6", other.to_string()),
        };
        layout.end = at.at;
        match entry[layout.flag] {
            0 => {}
            1 => {
                let bias = at.tensor("bias")?;
                if bias.dims != [layout.shape.0] {
                    return misfit(
                        format!("a bias of shape ({},)", layout.shape.0),
                        format!("{:?}", bias.dims),
                    );
                }
                layout.bias = Some((bias.dtype, bias.data));
            }
            other => return misfit("0 or 1 for whether there is a bias", other.to_string()),
        }
        match at.at == entry.len() {
            true => Ok(layout),
            false => misfit(format!("{} bytes", at.at), format!("{} bytes", entry.len())),
        }
    }
}

fn misfit<T>(expected: impl Into<String>, found: impl Into<String>) -> Result<T, Misfit> {
    Err((expected.into(), found.into()))
}

struct Cursor<'a> {
    entry: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn take(&mut self, length: usize, what: &str) -> Result<Range<usize>, Misfit> {
        let end = self.at.checked_add(length);
        match end.filter(|end| *end <= self.entry.len()) {
            Some(end) => {
                let range = self.at..end;
                self.at = end;
                Ok(range)
            }
            None => misfit(
                format!("{length} bytes of {what} at byte {}", self.at),
                format!("{} left", self.entry.len() - self.at),
            ),
        }
    }

    fn u8(&mut self, what: &str) -> Result<u8, Misfit> {
        let range = self.take(1, what)?;
        Ok(self.entry[range.start])
    }

    fn u32(&mut self, what: &str) -> Result<u32, Misfit> {
        let range = self.take(4, what)?;
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.entry[range]);
        Ok(u32::from_le_bytes(bytes))
    }

    /// Where it says whether there is a bias.
    fn flag(&mut self) -> Result<usize, Misfit> {
        Ok(self.take(1, "bias flag")?.start)
    }

    fn dims(&mut self) -> Result<Vec<usize>, Misfit> {
        let count = self.u32("number of dims")?;
        if count > 4 {
            return misfit("at most 4 dims", count.to_string());
        }
        (0..count).map(|_| Ok(self.u32("dims")? as usize)).collect()
    }

    fn matrix(&mut self) -> Result<(usize, usize), Misfit> {
        match self.dims()?.as_slice() {
            [o, i] if *o > 0 && *i > 0 => Ok((*o, *i)),
            other => misfit("a shape (O, I)", format!("{other:?}")),
        }
    }

    fn tensor(&mut self, what: &str) -> Result<Tensor, Misfit> {
        let length = self.u32(what)? as usize;
        let dtype = Dtype::of(self.u32("dtype")?);
        let dims = self.dims()?;
        let elements = dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        let size = match dtype.bytes() {
            Some(size) => size,
            None => return misfit(format!("a known dtype of {what}"), format!("{dtype:?}")),
        };
        if elements.and_then(|n| n.checked_mul(size)) != Some(length) {
            return misfit(
                format!("as many bytes of {what} as {dims:?} of {dtype:?} take"),
                format!("{length} bytes"),
            );
        }
        let data = self.take(length, what)?;
        Ok(Tensor { dtype, dims, data })
    }

    fn expect(&mut self, what: &str, dims: &[usize], dtypes: &[Dtype]) -> Result<(), Misfit> {
        let tensor = self.tensor(what)?;
        match tensor.dims == dims && dtypes.contains(&tensor.dtype) {
            true => Ok(()),
            false => misfit(
                format!("{what} {dims:?} of {dtypes:?}"),
                format!("{:?} of {:?}", tensor.dims, tensor.dtype),
            ),
        }
    }

    fn made(stored: WeightType, shape: (usize, usize), flag: usize) -> Layout {
        Layout {
            stored,
            shape,
            data: 0..0,
            full: None,
            flag,
            end: 0,
            bias: None,
        }
    }

    fn ggml(&mut self) -> Result<Layout, Misfit> {
        let length = self.u32("data length")? as usize;
        let flag = self.flag()?;
        let code = self.u32("type")?;
        use GgmlDType as G;
        let dtype = match code {
            0 => G::F32,
            1 => G::F16,
            2 => G::Q4_0,
            3 => G::Q4_1,
            6 => G::Q5_0,
            7 => G::Q5_1,
            8 => G::Q8_0,
            9 => G::Q8_1,
            10 => G::Q2K,
            11 => G::Q3K,
            12 => G::Q4K,
            13 => G::Q5K,
            14 => G::Q6K,
            15 => G::Q8K,
            30 => G::BF16,
            other => return misfit("a type of ggml", other.to_string()),
        };
        let (o, i) = self.matrix()?;
        let blocks = (o.checked_mul(i)).filter(|_| i.is_multiple_of(dtype.block_size()));
        let needed = blocks.and_then(|n| (n / dtype.block_size()).checked_mul(dtype.type_size()));
        if needed != Some(length) {
            return misfit(
                format!("as many bytes as ({o}, {i}) of {dtype:?} takes"),
                format!("{length} bytes"),
            );
        }
        let data = self.take(length, "data")?;
        Ok(Layout {
            data,
            ..Self::made(WeightType::Ggml(dtype), (o, i), flag)
        })
    }

    fn full(&mut self) -> Result<Layout, Misfit> {
        let flag = self.flag()?;
        let tensor = self.tensor("weight")?;
        let full = match tensor.dtype {
            Dtype::F32 => Some(DType::F32),
            Dtype::F16 => Some(DType::F16),
            Dtype::BF16 => Some(DType::BF16),
            _ => None,
        };
        match (tensor.dims.as_slice(), tensor.dtype) {
            ([o, i], _) if *o > 0 && *i > 0 && full.is_some() => Ok(Layout {
                full,
                ..Self::made(WeightType::F32, (*o, *i), flag)
            }),
            (dims, dtype) => misfit("a float weight (O, I)", format!("{dims:?} of {dtype:?}")),
        }
    }

    fn hqq(&mut self) -> Result<Layout, Misfit> {
        let flag = self.flag()?;
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
        let (groups, long) = (elements / group, codes.dims.len() == 2);
        // codes are packed along the first dim: 8 / bits of them a byte, ten 3-bit codes an i32
        let (dtype, packed) = match bits {
            8 | 4 | 2 | 1 => (Dtype::U8, group / (8 / usize::from(bits))),
            3 => (Dtype::I32, group.div_ceil(10)),
            other => return misfit("8, 4, 3, 2 or 1 bits", other.to_string()),
        };
        let expected = match axis {
            0 => [packed, groups],
            _ => [
                codes.dims.first().copied().unwrap_or(0),
                codes.dims.last().copied().unwrap_or(0),
            ],
        };
        let fits =
            |t: &Tensor| t.dims.iter().product::<usize>() == groups && FLOATS.contains(&t.dtype);
        if !long
            || codes.dims != expected
            || codes.dtype != dtype
            || !fits(&scales)
            || !fits(&zeros)
        {
            return misfit(
                format!("codes {expected:?} of {dtype:?}, {groups} scales and zeros"),
                format!(
                    "codes {:?} of {:?}, scales {:?}, zeros {:?}",
                    codes.dims, codes.dtype, scales.dims, zeros.dims
                ),
            );
        }
        Ok(Self::made(WeightType::Hqq(bits), (o, i), flag))
    }

    fn fp8(&mut self) -> Result<Layout, Misfit> {
        let flag = self.flag()?;
        let tensor = self.tensor("weight")?;
        self.take(16, "scales and dtype")?;
        match (tensor.dims.as_slice(), tensor.dtype) {
            ([o, i], Dtype::F8) if *o > 0 && *i > 0 => {
                Ok(Self::made(WeightType::Fp8, (*o, *i), flag))
            }
            (dims, dtype) => misfit(
                "an 8-bit float weight (O, I)",
                format!("{dims:?} of {dtype:?}"),
            ),
        }
    }

    fn afq(&mut self) -> Result<Layout, Misfit> {
        let flag = self.flag()?;
        let codes = self.tensor("codes")?;
        // bits and group size come after the tensors that they explain
        let start = self.at;
        let scales = self.tensor("scales")?;
        self.tensor("biases")?;
        let (bits, group) = (self.u8("bits")?, usize::from(self.u8("group size")?));
        let end = self.at;
        let (&[o, words], &[_, groups]) = (codes.dims.as_slice(), scales.dims.as_slice()) else {
            return misfit("codes and scales in rows", format!("{:?}", codes.dims));
        };
        let i = groups.saturating_mul(group);
        let known = matches!(bits, 2 | 3 | 4 | 6 | 8) && matches!(group, 32 | 64 | 128);
        let fits =
            known && i > 0 && o > 0 && i.checked_mul(usize::from(bits)) == words.checked_mul(32);
        if !fits || codes.dtype != Dtype::U32 {
            return misfit(
                "packed codes of 2, 3, 4, 6 or 8 bits in groups of 32, 64 or 128",
                format!(
                    "{:?} for {groups} groups of {group} of {bits} bits",
                    codes.dims
                ),
            );
        }
        self.at = start;
        self.expect("scales", &[o, groups], &FLOATS)?;
        self.expect("biases", &[o, groups], &FLOATS)?;
        self.at = end;
        Ok(Self::made(WeightType::Afq(bits), (o, i), flag))
    }

    fn f8q8(&mut self) -> Result<Layout, Misfit> {
        let flag = self.flag()?;
        let blocks = self.u32("number of blocks")? as usize;
        let (o, i) = self.matrix()?;
        if o.checked_mul(i).map(|n| n.div_ceil(32)) != Some(blocks) {
            return misfit(
                format!("as many blocks of 32 as ({o}, {i}) takes"),
                format!("{blocks} blocks"),
            );
        }
        self.take(blocks.saturating_mul(33), "blocks")?;
        Ok(Self::made(WeightType::F8Q8, (o, i), flag))
    }

    fn mxfp4(&mut self) -> Result<Layout, Misfit> {
        let flag = self.flag()?;
        let codes = self.tensor("codes")?;
        let &[o, half] = codes.dims.as_slice() else {
            return misfit("codes in rows", format!("{:?}", codes.dims));
        };
        if o == 0 || half == 0 || !half.is_multiple_of(16) || codes.dtype != Dtype::U8 {
            return misfit("blocks of 16 bytes", format!("{:?}", codes.dims));
        }
        self.expect("scales", &[o, half / 16], &[Dtype::U8])?;
        Ok(Self::made(WeightType::Mxfp4, (o, 2 * half), flag))
    }
}
