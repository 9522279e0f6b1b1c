//! Numbers of 8 bits with scales beside them, which are read as bf16.

use std::borrow::Cow;
use std::path::Path;

use half::{bf16, f16};
use safetensors::Dtype;
use serde_json::{Map, Value};

use super::error::CheckpointError;
use super::reader::Checkpoint;
use super::remark::Remark;
use super::remote_code::base_config;
use super::tensor_meta::TensorMeta;

/// What is added to the name of a tensor for that of its scales. Numbers are multiplied by either:
/// DeepSeek's are the inverses of those that it quantized with.
const SCALES: [&str; 2] = ["_scale_inv", "_scale"];

/// The rows and columns that share a scale, unless the configuration says otherwise.
const USUAL_BLOCK: [usize; 2] = [128, 128];

/// The values of `quant_method` in a `config.json` whose weights are numbers of 8 bits with scales, or
/// of 4 in the experts of gpt-oss.
const METHODS: [&str; 5] = ["fp8", "fbgemm_fp8", "compressed-tensors", "modelopt", "mxfp4"];

/// Whether weights with this `quantization_config` are read: numbers of 8 bits with scales, or of 4 in
/// the experts of gpt-oss.
pub(crate) fn has_scales(quantization: &Value) -> bool {
    let method = quantization.get("quant_method").and_then(Value::as_str);
    method.is_some_and(|method| METHODS.contains(&method))
}

/// Takes numbers of 8 bits with scales out of a `config.json`: nothing that is written has them.
/// Returns whether they were there.
pub(crate) fn forget_scales(config: &mut Map<String, Value>) -> bool {
    let is_there = config.get("quantization_config").is_some_and(has_scales);
    if is_there {
        config.remove("quantization_config");
    }
    is_there
}

/// The scales of a tensor.
#[derive(Debug, Clone)]
pub(super) struct Scales {
    /// Where they are.
    pub shard: usize,
    pub meta: TensorMeta,
    grid: Grid,
}

/// Which entries of a matrix share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Grid {
    /// Columns of the matrix.
    cols: usize,
    /// Rows and columns of a block; the last ones may be smaller.
    block: [usize; 2],
    /// Blocks beside each other.
    across: usize,
}

impl Grid {
    /// The grid of scales of one shape for a tensor of another. `None` if they do not fit.
    fn of(shape: &[usize], scales: &[usize], block: [usize; 2]) -> Option<Self> {
        let cols = shape.last().copied().unwrap_or(1);
        if scales.iter().all(|n| *n == 1) {
            return Some(Self { cols, block: [usize::MAX, usize::MAX], across: 1 });
        }
        let &[rows, cols] = shape else { return None };
        match scales {
            [all] | [all, 1] if *all == rows => {
                Some(Self { cols, block: [1, usize::MAX], across: 1 })
            }
            [down, across]
                if [*down, *across] == [rows.div_ceil(block[0]), cols.div_ceil(block[1])] =>
            {
                Some(Self { cols, block, across: *across })
            }
            _ => None,
        }
    }
}

impl Scales {
    /// The numbers of these codes as bf16, given the bytes of the scales.
    pub fn apply(&self, codes: &[u8], scales: &[u8]) -> Vec<u8> {
        let Grid { cols, block: [high, wide], across } = self.grid;
        let (scales, numbers) = (self.decode(scales), numbers());
        let mut made = Vec::with_capacity(2 * codes.len());
        for (row, codes) in codes.chunks(cols.max(1)).enumerate() {
            let scales = &scales[row / high * across..];
            for (col, code) in codes.iter().enumerate() {
                let number = numbers[usize::from(*code)] * scales[col / wide];
                made.extend_from_slice(&bf16::from_f32(number).to_le_bytes());
            }
        }
        made
    }

    fn decode(&self, bytes: &[u8]) -> Vec<f32> {
        let halves = bytes.as_chunks::<2>().0.iter().copied();
        match self.meta.dtype {
            Dtype::F16 => halves.map(|b| f16::from_le_bytes(b).to_f32()).collect(),
            Dtype::BF16 => halves.map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
            // An exponent alone.
            Dtype::F8_E8M0 => bytes.iter().map(|b| 2f64.powi(i32::from(*b) - 127) as f32).collect(),
            _ => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        }
    }
}

/// The number of each code of F8_E4M3: a sign, four bits of exponent and three of fraction, without
/// infinities.
fn numbers() -> [f32; 256] {
    std::array::from_fn(|code| {
        let (exponent, fraction) = (((code >> 3) & 15) as i32, (code & 7) as f32);
        let size = match (exponent, code & 7) {
            (15, 7) => f32::NAN,
            (0, _) => fraction * 2f32.powi(-9),
            _ => (1.0 + fraction / 8.0) * 2f32.powi(exponent - 7),
        };
        if code & 128 == 0 { size } else { -size }
    })
}

/// The rows and columns that share a scale, from a `config.json`.
fn stated_block(dir: &Path) -> Option<[usize; 2]> {
    let bytes = base_config(dir).ok()??;
    let config: Value = serde_json::from_slice(&bytes).ok()?;
    let block = config.get("quantization_config")?.get("weight_block_size")?.as_array()?;
    let sizes: Option<Vec<usize>> =
        block.iter().map(|size| usize::try_from(size.as_u64()?).ok().filter(|n| *n > 0)).collect();
    sizes?.try_into().ok()
}

impl Checkpoint {
    /// The bytes of a tensor in the type that it states, little-endian, row-major. Only those of
    /// numbers of 8 bits with scales have to be made, those of the experts of gpt-oss, and those of
    /// layers that are stored turned.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::TensorMissing`].
    pub fn content(&self, tensor: &str) -> Result<(&TensorMeta, Cow<'_, [u8]>), CheckpointError> {
        let (meta, bytes) = self.raw(tensor)?;
        if let Some(part) = self.interleaved.get(tensor) {
            return Ok((meta, Cow::Owned(part.content(self, &meta.shape))));
        }
        Ok((
            meta,
            match self.scaled.get(tensor) {
                Some(scales) => {
                    Cow::Owned(scales.apply(bytes, self.bytes_at(scales.shard, &scales.meta)))
                }
                None => Cow::Borrowed(bytes),
            },
        ))
    }

    /// Whether the bytes of a tensor have to be made: of numbers of 8 bits with scales, of the
    /// experts of gpt-oss, or of layers that are stored turned.
    pub(crate) fn is_made(&self, tensor: &str) -> bool {
        self.scaled.contains_key(tensor) || self.interleaved.contains_key(tensor)
    }

    /// Takes the scales of numbers of 8 bits from among the tensors: these then are of type BF16.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Unscaled`] for such numbers without scales, [`CheckpointError::Scales`] for
    /// scales that do not fit.
    pub(super) fn with_scales(mut self) -> Result<Self, CheckpointError> {
        let is_coded = |meta: &TensorMeta| meta.dtype == Dtype::F8_E4M3;
        let coded = self.tensors.iter().filter(|(_, (_, meta))| is_coded(meta));
        let coded: Vec<String> = coded.map(|(name, _)| name.clone()).collect();
        if coded.is_empty() {
            return Ok(self);
        }
        let block = stated_block(self.dir()).unwrap_or(USUAL_BLOCK);
        for tensor in &coded {
            let scales = self.scales_of(tensor, block)?;
            self.scaled.insert(tensor.clone(), scales);
        }
        for tensor in &coded {
            SCALES.iter().for_each(|end| drop(self.tensors.remove(&format!("{tensor}{end}"))));
            if let Some((_, meta)) = self.tensors.get_mut(tensor) {
                meta.dtype = Dtype::BF16;
            }
        }
        Ok(self.with_remark(Remark::Scaled { tensors: coded.len() }))
    }

    fn scales_of(&self, tensor: &str, block: [usize; 2]) -> Result<Scales, CheckpointError> {
        let (dir, name) = (self.dir().to_path_buf(), tensor.to_string());
        let beside = SCALES.iter().find_map(|end| self.tensors.get(&format!("{tensor}{end}")));
        let known = [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F8_E8M0];
        let (Some((shard, meta)), Some((_, of))) = (beside, self.tensors.get(tensor)) else {
            return Err(CheckpointError::Unscaled { dir, tensor: name });
        };
        match Grid::of(&of.shape, &meta.shape, block).filter(|_| known.contains(&meta.dtype)) {
            Some(grid) => Ok(Scales { shard: *shard, meta: meta.clone(), grid }),
            None => {
                let (shape, scales) = (of.shape.clone(), meta.shape.clone());
                Err(CheckpointError::Scales { dir, tensor: name, shape, scales, dtype: meta.dtype })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_the_numbers_of_the_format() {
        let numbers = numbers();
        for (code, number) in [
            (0x00, 0.0),
            (0x01, 0.001953125),
            (0x08, 0.015625),
            (0x38, 1.0),
            (0x3c, 1.5),
            (0x7e, 448.0),
        ] {
            assert_eq!(numbers[code], number, "{code:#x}");
            assert_eq!(numbers[code | 128], -number, "{code:#x}");
        }
        assert!(numbers[0x7f].is_nan() && numbers[0xff].is_nan());
    }

    #[test]
    fn scales_are_for_everything_for_rows_or_for_blocks() {
        let block = [2, 4];
        let grid = |scales: &[usize]| Grid::of(&[5, 6], scales, block);
        for whole in [&[][..], &[1], &[1, 1]] {
            assert_eq!(grid(whole).unwrap().across, 1);
        }
        for rows in [&[5][..], &[5, 1]] {
            assert_eq!(grid(rows).unwrap().block[0], 1);
        }
        assert_eq!(grid(&[3, 2]), Some(Grid { cols: 6, block, across: 2 }));
        for wrong in [&[3, 1][..], &[2, 2], &[6], &[5, 2], &[3, 2, 1], &[0]] {
            assert_eq!(grid(wrong), None, "{wrong:?}");
        }
        assert!(Grid::of(&[2, 2, 2], &[2, 1, 1], block).is_none());
        assert!(Grid::of(&[2, 2, 2], &[1], block).is_some());
    }
}
