//! The importance matrices of llama.cpp: for each matrix, the sum of the squares of each of its
//! inputs, which is the diagonal of their second moment.
//!
//! `llama-imatrix` writes GGUF files, and earlier versions wrote files of their own; both are read.
//! Files are written as GGUF, which is what `llama-quantize` reads. Inputs are columns, whose order
//! llama.cpp does not change.

mod gguf;
mod legacy;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::error::CalibrationError;
use super::file::digest_of_file;
use super::text::TextRecord;
use crate::ggml::{
    is_router, matrix_in_stack, matrix_of_tensor, stack_of_matrix, tensor_of_matrix,
};
use crate::linalg::SecondMoment;
use crate::modules::MatrixName;

pub use write::{ImatrixSummary, write_imatrix};

/// Matrices that `llama-imatrix` can measure besides those of the layers. They are not compressed.
const OUTSIDE_LAYERS: [&str; 2] = ["output.weight", "token_embd.weight"];

/// An importance matrix that was read.
#[derive(Debug)]
pub(super) struct ImportanceMatrix {
    path: PathBuf,
    inputs: BTreeMap<MatrixName, SecondMoment>,
    texts: Vec<TextRecord>,
    windows: usize,
    digest: String,
}

/// What a file says, whichever format it has.
#[derive(Debug, Default)]
struct Content {
    /// By llama.cpp's names: one for each matrix of the tensor, which are several where it is of experts.
    entries: BTreeMap<String, Vec<Entry>>,
    /// Names of the texts that were read.
    datasets: Vec<String>,
    /// Number of windows that were read; 0 if that is unknown.
    chunks: usize,
}

/// What a file says of a matrix.
#[derive(Debug, Clone)]
struct Entry {
    /// Mean square of each input.
    squares: Vec<f64>,
    /// Number of tokens, or of windows in the earlier format, which does not state how long they are.
    count: u64,
}

/// The formats of files.
#[derive(Debug, Clone, Copy)]
enum Format {
    Gguf,
    Legacy,
}

impl Format {
    /// What a file is by its first bytes; `None` if it is neither.
    fn of(path: &Path) -> Option<Self> {
        if !path.is_file() {
            return None;
        }
        let mut start = Vec::new();
        File::open(path).ok()?.take(8).read_to_end(&mut start).ok()?;
        match start.starts_with(b"GGUF") {
            true => Some(Self::Gguf),
            false => legacy::is_start(&start).then_some(Self::Legacy),
        }
    }
}

impl ImportanceMatrix {
    /// Reads a file; `None` if its first bytes are not those of one.
    pub fn open(path: &Path) -> Result<Option<Self>, CalibrationError> {
        let content = match Format::of(path) {
            Some(Format::Gguf) => gguf::read(path)?,
            Some(Format::Legacy) => legacy::read(path)?,
            None => return Ok(None),
        };
        let mut inputs = BTreeMap::new();
        for (entry, matrices) in content.entries {
            let names = names_of(path, &entry, matrices.len())?;
            for (name, Entry { squares, count }) in names.into_iter().zip(matrices) {
                let failed = |source| CalibrationError::Linalg { name: name.clone(), source };
                let moment = SecondMoment::from_squares(&squares, count).map_err(failed)?;
                inputs.insert(name, moment);
            }
        }
        if inputs.is_empty() {
            let reason = "it has no matrix of a layer".into();
            return Err(CalibrationError::NotImatrix { path: path.into(), reason });
        }
        let windows = if content.datasets.len() == 1 { content.chunks } else { 0 };
        let record = |name| {
            let digest = String::new();
            TextRecord { name, windows, digest, bos: None, sampled: None }
        };
        let texts = content.datasets.into_iter().map(record).collect();
        let (path, digest) = (path.into(), digest_of_file(path)?);
        Ok(Some(Self { path, inputs, texts, windows: content.chunks, digest }))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The matrices, by the names that they have in most models.
    pub fn inputs(&self) -> &BTreeMap<MatrixName, SecondMoment> {
        &self.inputs
    }

    /// The second moment of the inputs of a matrix, by the name that it has in its model.
    pub fn input(&self, name: &MatrixName) -> Option<&SecondMoment> {
        self.inputs.get(name).or_else(|| self.inputs.get(&usual_name(name)?))
    }

    /// The texts, as far as the file says what they were: it has no tokens.
    pub fn texts(&self) -> &[TextRecord] {
        &self.texts
    }

    /// Number of windows that were read; 0 if that is unknown.
    pub fn windows(&self) -> usize {
        self.windows
    }

    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Refuses the importance matrix of a model that has other matrices.
    pub fn check_names(&self, model: &[&MatrixName]) -> Result<(), CalibrationError> {
        let own = |name: &&MatrixName| usual_name(name).unwrap_or_else(|| (*name).clone());
        let model: BTreeSet<MatrixName> = model.iter().map(own).collect();
        match self.inputs.keys().find(|name| !model.contains(*name)) {
            None => Ok(()),
            Some(name) => {
                let path = self.path.display();
                let reason = format!("{path} has `{name}`, which is no matrix of this one");
                Err(CalibrationError::Foreign { reason })
            }
        }
    }
}

/// The name that the matrix of the same tensor has in most models. `None` if llama.cpp has no such
/// tensor.
fn usual_name(name: &MatrixName) -> Option<MatrixName> {
    let usual = match stack_of_matrix(name.as_str()) {
        Some((tensor, expert)) => matrix_in_stack(&tensor, expert),
        None => matrix_of_tensor(&tensor_of_matrix(name.as_str())?),
    };
    usual.map(MatrixName::new)
}

/// The matrices of a tensor of so many; none for a tensor that is not compressed.
fn names_of(path: &Path, entry: &str, count: usize) -> Result<Vec<MatrixName>, CalibrationError> {
    if OUTSIDE_LAYERS.contains(&entry) || is_router(entry) {
        return Ok(Vec::new());
    }
    let one = matrix_of_tensor(entry);
    let names: Option<Vec<String>> = match (&one, count) {
        (Some(one), 1) => Some(vec![one.clone()]),
        _ => (0..count).map(|expert| matrix_in_stack(entry, expert)).collect(),
    };
    match names {
        Some(names) => Ok(names.into_iter().map(MatrixName::new).collect()),
        None if one.is_some() => {
            let reason = format!("is {count} matrices, as only those of experts are");
            Err(wrong(path, entry, reason))
        }
        None => Err(wrong(path, entry, UNKNOWN)),
    }
}

const UNKNOWN: &str = "is no matrix of the architectures that can be compressed";

/// An error about an entry.
fn wrong(path: &Path, entry: &str, reason: impl Into<String>) -> CalibrationError {
    CalibrationError::ImatrixEntry { path: path.into(), entry: entry.into(), reason: reason.into() }
}

/// The mean squares of an entry from the sums that a file has for them, `sums` as little-endian f32.
fn mean_squares(
    path: &Path,
    entry: &str,
    sums: &[u8],
    count: f64,
) -> Result<Vec<f64>, CalibrationError> {
    let (sums, _) = sums.as_chunks::<4>();
    let sums = sums.iter().map(|sum| f64::from(f32::from_le_bytes(*sum)));
    let mean = |sum: f64| match sum.is_finite() && sum >= 0.0 {
        true => Ok(sum / count),
        false => Err(wrong(path, entry, format!("has {sum} for a sum of squares"))),
    };
    sums.map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_of_one_tensor_have_one_usual_name() {
        for (name, usual) in [
            (
                "model.layers.1.mlp.shared_experts.up_proj",
                "model.layers.1.mlp.shared_expert.up_proj",
            ),
            ("model.layers.1.mlp.gate_up_proj", "model.layers.1.mlp.up_proj"),
            (
                "model.layers.1.block_sparse_moe.experts.3.w2",
                "model.layers.1.mlp.experts.3.down_proj",
            ),
            ("transformer.h.0.attn.c_attn", "model.layers.0.self_attn.qkv_proj"),
            ("model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.q_proj"),
        ] {
            assert_eq!(usual_name(&name.into()), Some(usual.into()), "{name}");
        }
        assert_eq!(usual_name(&"encoder.layer.0.output.dense".into()), None);
    }
}
