//! Matrices into the blocks of llama.cpp and back.
//!
//! Layouts are those of ggml (`ggml-common.h`, `dequantize_row_*` in `ggml-quants.c`). Scales are
//! searched for the weighted squared error of what is stored: after f16 and the integers of parts
//! have rounded them. `format` says what blocks can hold, `symmetric` and `offset` find the best
//! scales of one part, `search` those of a block, `pack` writes its bits. Codes are always the
//! nearest ones, so they follow from the scales.

mod error;
mod format;
mod offset;
mod pack;
mod search;
mod symmetric;

use half::{bf16, f16};
use rayon::prelude::*;

pub use self::error::QuantizeError;
use self::format::{Format, Scales};
use self::pack::pack;
use self::search::choose_scales;
use super::tensor_type::TensorType;
use crate::linalg::{FedBlock, Feedback};

/// Rows that go through [`Feedback::pass`] together. Fixed, so that results do not depend on the
/// number of threads.
pub(crate) const ROWS_AT_ONCE: usize = 64;

/// Weights of columns are at least this share of their mean, so that a column without inputs still
/// decides where no other one does.
const LEAST_WEIGHT: f64 = 1e-6;

impl TensorType {
    /// A matrix of rows of `columns` entries, row-major, as llama.cpp stores it: each block has the
    /// scales for which the squared errors of its entries, times the `weights` of their columns,
    /// add up to the least that was found. The weights are mean squares of inputs, for example
    /// [`SecondMoment::squares`](crate::linalg::SecondMoment::squares); without them all
    /// columns count the same. Floats are rounded to the nearest.
    ///
    /// A scale by itself is found by going through every way to round that uses more than about
    /// half of the levels; scales with minima, and those of parts, are the best of many. Rows are
    /// spread over the threads of the rayon pool that this is called in; results do not depend on
    /// their number.
    ///
    /// # Errors
    ///
    /// [`QuantizeError`]; [`QuantizeError::Overflow`] where scales would be beyond f16. Entries too
    /// small for any f16 become zeros.
    pub fn quantize(
        self,
        entries: &[f32],
        columns: usize,
        weights: Option<&[f64]>,
    ) -> Result<Vec<u8>, QuantizeError> {
        let weights = match weights {
            None => vec![1.0; columns],
            Some(weights) => normalized(weights, columns)?,
        };
        let Some(format) = self.checked(entries, columns)? else { return Ok(self.floats(entries)) };
        let columns = columns.max(1);
        let rows = entries.par_chunks_exact(columns).map(|row| {
            let mut bytes = Vec::with_capacity(row.len() / self.block_len() * self.block_bytes());
            let blocks = row.chunks_exact(self.block_len());
            for (block, weights) in blocks.zip(weights.chunks_exact(self.block_len())) {
                let scales = choose_scales(&format, block, weights);
                let mut codes = [0; MOST];
                for (at, (code, entry)) in codes.iter_mut().zip(block).enumerate() {
                    *code = format.nearest(&scales, at, *entry).0;
                }
                pack(self, &scales, &codes[..block.len()], &mut bytes);
            }
            bytes
        });
        Ok(rows.collect::<Vec<_>>().concat())
    }

    /// The same for inputs that are correlated: columns are rounded in turn, and what is rounded
    /// away is made up for by those behind them (GPTQ, arXiv 2210.17323, within the blocks of
    /// llama.cpp). The scales of a block are chosen when its turn comes, for its entries as the
    /// blocks before left them, weighted with what errors cost by then
    /// ([`Feedback::weights`]). Floats are rounded as they are.
    ///
    /// With `outputs`, for outputs whose gradients are correlated, rows make up for each other as
    /// well ([`Feedback::pass_both`]).
    ///
    /// # Errors
    ///
    /// Those of [`quantize`](TensorType::quantize); [`QuantizeError::Outputs`].
    pub fn quantize_with_feedback(
        self,
        entries: &[f32],
        columns: usize,
        feedback: &Feedback,
        outputs: Option<&Feedback>,
    ) -> Result<Vec<u8>, QuantizeError> {
        let weights = normalized(feedback.weights(), columns)?;
        let Some(format) = self.checked(entries, columns)? else { return Ok(self.floats(entries)) };
        let (width, columns) = (self.block_len(), columns.max(1));
        if let Some(outputs) = outputs {
            let (given, rows) = (outputs.size(), entries.len() / columns);
            if given != rows {
                return Err(QuantizeError::Outputs { given, rows });
            }
            let mut rows = vec![Vec::new(); rows];
            feedback.pass_both(
                outputs,
                &mut entries.to_vec(),
                width,
                |from, block| choose_scales(&format, block, &weights[from..from + width]),
                |row, scales, block| self.round_and_pack(&format, &scales, block, &mut rows[row]),
            );
            return Ok(rows.concat());
        }
        let parts = entries.par_chunks(ROWS_AT_ONCE * columns).map(|part| {
            let mut part = part.to_vec();
            let mut rows = vec![Vec::new(); part.len() / columns];
            feedback.pass(&mut part, width, |row, from, block| {
                let weights = &weights[from..from + width];
                let scales = choose_scales(&format, block.entries(), weights);
                self.round_and_pack(&format, &scales, block, &mut rows[row]);
            });
            rows.concat()
        });
        Ok(parts.collect::<Vec<_>>().concat())
    }

    /// Rounds a block to what these scales can hold, and appends its bytes.
    fn round_and_pack(
        self,
        format: &Format,
        scales: &Scales,
        block: FedBlock<'_>,
        bytes: &mut Vec<u8>,
    ) {
        let (width, mut codes) = (self.block_len(), [0; MOST]);
        block.round(|at, entry| {
            let (code, nearest) = format.nearest(scales, at, entry);
            codes[at] = code;
            nearest
        });
        pack(self, scales, &codes[..width], bytes);
    }

    /// The entries that llama.cpp computes with, of a matrix of rows of `columns` entries; row-major.
    ///
    /// # Errors
    ///
    /// [`QuantizeError::Rows`], [`QuantizeError::Length`], [`QuantizeError::Blocks`].
    pub fn dequantize_rows(self, bytes: &[u8], columns: usize) -> Result<Vec<f32>, QuantizeError> {
        let row = self.row_of(columns)?;
        if bytes.is_empty() {
            return Ok(Vec::new());
        }
        if row == 0 || !bytes.len().is_multiple_of(row) {
            return Err(QuantizeError::Length { len: bytes.len(), row });
        }
        let halves = || bytes.as_chunks::<2>().0.iter();
        match self {
            Self::F32 => Ok(numbers(bytes)),
            Self::F16 => Ok(halves().map(|half| f16::from_le_bytes(*half).to_f32()).collect()),
            Self::Bf16 => Ok(halves().map(|half| bf16::from_le_bytes(*half).to_f32()).collect()),
            _ => {
                let count = bytes.len() / row * columns;
                let mut entries = Vec::with_capacity(count * size_of::<f32>());
                self.dequantize(bytes, count, &mut entries)
                    .map_err(|reason| QuantizeError::Blocks { dtype: self, reason })?;
                Ok(numbers(&entries))
            }
        }
    }

    /// Checks all entries, and returns the blocks of the type; `None` for floats.
    fn checked(self, entries: &[f32], columns: usize) -> Result<Option<Format>, QuantizeError> {
        self.row_of(columns)?;
        let len = entries.len();
        if len > 0 && (columns == 0 || !len.is_multiple_of(columns)) {
            return Err(QuantizeError::Length { len, row: columns });
        }
        if let Some(at) = entries.iter().position(|x| !x.is_finite()) {
            let (row, column) = (at / columns, at % columns);
            return Err(QuantizeError::NotFinite { row, column, value: entries[at] });
        }
        let format = Format::of(self);
        let holds = |block: &[f32]| match (&format, self) {
            (Some(format), _) => {
                let lowest = block.iter().copied().fold(f32::INFINITY, f32::min);
                let highest = block.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                format.holds(lowest, highest)
            }
            (None, Self::F16) => f16::from_f32(block[0]).is_finite(),
            (None, Self::Bf16) => bf16::from_f32(block[0]).is_finite(),
            (None, _) => true,
        };
        let mut blocks = entries.chunks_exact(self.block_len());
        if let Some(block) = blocks.position(|block| !holds(block)) {
            let first = block * self.block_len();
            let sizes = entries[first..first + self.block_len()].iter().map(|x| x.abs());
            let largest = sizes.enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
            let at = first + largest.map_or(0, |(at, _)| at);
            let (row, column) = (at / columns, at % columns);
            let value = entries[at];
            return Err(QuantizeError::Overflow { row, column, value, dtype: self });
        }
        Ok(format)
    }

    /// Number of bytes of a row.
    fn row_of(self, columns: usize) -> Result<usize, QuantizeError> {
        self.row_bytes(columns).ok_or(QuantizeError::Rows { columns, dtype: self })
    }

    /// Entries as floats of this type.
    fn floats(self, entries: &[f32]) -> Vec<u8> {
        match self {
            Self::F16 => entries.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
            Self::Bf16 => entries.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
            _ => entries.iter().flat_map(|x| x.to_le_bytes()).collect(),
        }
    }
}

/// Most entries in a block.
const MOST: usize = 256;

/// Weights of columns with a mean of 1, none of them zero. If all are zero, they are all the same.
fn normalized(weights: &[f64], columns: usize) -> Result<Vec<f32>, QuantizeError> {
    if weights.len() != columns {
        return Err(QuantizeError::Weights { given: weights.len(), columns });
    }
    if let Some(column) = weights.iter().position(|w| !w.is_finite() || *w < 0.0) {
        return Err(QuantizeError::Weight { column, value: weights[column] });
    }
    let mean = weights.iter().sum::<f64>() / columns.max(1) as f64;
    if mean == 0.0 {
        return Ok(vec![1.0; columns]);
    }
    Ok(weights.iter().map(|w| (w / mean).max(LEAST_WEIGHT) as f32).collect())
}

fn numbers(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}
