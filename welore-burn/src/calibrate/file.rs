//! Calibration files: safetensors with the packed lower triangles of second moments, the tokens
//! that were read, probes, and a manifest.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use super::content::problem_of;
use super::error::CalibrationError;
use super::labels::GradientLabels;
use super::text::TextRecord;
use crate::artifact::{Header, in_words};
use crate::checkpoint::Checkpoint;
use crate::files::{FileError, check_input};
use crate::forms::TensorSpec;
use crate::linalg::{SecondMoment, packed_len};
use crate::modules::MatrixName;

const FORMAT: &str = "welore-calibration";
/// Version 1 has no `texts`, version 2 no `gradient_labels`, which are those of the text, version 3 no
/// `width`, and version 4 no `spread`.
const VERSION: u32 = 5;
/// The first version with a `spread`.
const SPREAD_VERSION: u32 = 5;
pub(super) const MANIFEST: &str = "manifest";
pub(super) const TOKENS: &str = "tokens";
pub(super) const PROBES: &str = "probes";
pub(super) const HEAD: &str = "head.inputs";
pub(super) const EMBEDDING: &str = "embedding.outputs";
/// `E[|x|⁴]` of the inputs and of the gradients of each matrix, then of the head's inputs and of the
/// embedding's gradients; NaN for what was not measured.
pub(super) const SPREAD: &str = "spread";

/// What a calibration file holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    format: String,
    version: u32,
    /// Where the model came from, as a note.
    pub source: String,
    /// Number of tokens in a window.
    pub seq_len: usize,
    /// Number of windows whose inputs were measured.
    #[serde(rename = "blocks")]
    pub windows: usize,
    /// Number of windows whose gradients were measured.
    #[serde(rename = "gradient_blocks")]
    pub gradient_windows: usize,
    /// Which labels the gradients are for.
    #[serde(default)]
    pub gradient_labels: GradientLabels,
    /// The seed with which they were drawn, if they are the model's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_seed: Option<u64>,
    /// The texts that the windows were taken from, in turn.
    #[serde(default)]
    pub texts: Vec<TextRecord>,
    /// The width of hidden states, if those at both ends of the model were measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<usize>,
    pub matrices: Vec<MatrixEntry>,
}

/// What a calibration file holds for a matrix.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MatrixEntry {
    pub name: MatrixName,
    /// `[out, in]`.
    pub shape: [usize; 2],
    /// BLAKE3 digest of the dense matrix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The matrix under whose name its inputs are stored: several can share them.
    pub inputs_of: MatrixName,
}

impl Manifest {
    pub fn new(
        source: String,
        seq_len: usize,
        windows: usize,
        gradient_windows: usize,
        texts: Vec<TextRecord>,
        matrices: Vec<MatrixEntry>,
    ) -> Self {
        Self {
            format: FORMAT.into(),
            version: VERSION,
            source,
            seq_len,
            windows,
            gradient_windows,
            gradient_labels: GradientLabels::Text,
            label_seed: None,
            texts,
            width: None,
            matrices,
        }
    }

    /// States that the hidden states at both ends of the model, of this width, are measured.
    pub fn with_ends(self, width: usize) -> Self {
        Self { width: Some(width), ..self }
    }

    /// States which labels the gradients are for, if there are gradients.
    pub fn with_labels(mut self, labels: GradientLabels, seed: u64) -> Self {
        if self.gradient_windows > 0 {
            self.gradient_labels = labels;
            self.label_seed = (labels == GradientLabels::Model).then_some(seed);
        }
        self
    }

    /// Whether it is known how much tokens differ.
    pub fn has_spread(&self) -> bool {
        self.version >= SPREAD_VERSION
    }

    /// Number of second moments whose spread has a place.
    pub fn places_of_spread(&self) -> usize {
        2 * self.matrices.len() + 2
    }

    /// The tensors of the file; `text` is this manifest.
    pub fn tensors(&self, text: &str) -> Vec<TensorSpec> {
        let spec = |name: String, dtype, shape: Vec<usize>| TensorSpec { name, dtype, shape };
        let mut tensors = vec![
            spec(MANIFEST.into(), Dtype::U8, vec![text.len()]),
            spec(TOKENS.into(), Dtype::U32, vec![self.windows, self.seq_len]),
            spec(PROBES.into(), Dtype::F64, vec![self.matrices.len()]),
        ];
        if self.has_spread() {
            tensors.push(spec(SPREAD.into(), Dtype::F64, vec![self.places_of_spread()]));
        }
        if let Some(width) = self.width {
            tensors.push(spec(HEAD.into(), Dtype::F32, vec![packed_len(width)]));
            if self.gradient_windows > 0 {
                tensors.push(spec(EMBEDDING.into(), Dtype::F32, vec![packed_len(width)]));
            }
        }
        for matrix in &self.matrices {
            let [rows, cols] = matrix.shape;
            if matrix.inputs_of == matrix.name {
                tensors.push(spec(inputs(&matrix.name), Dtype::F32, vec![packed_len(cols)]));
            }
            if self.gradient_windows > 0 {
                tensors.push(spec(outputs(&matrix.name), Dtype::F32, vec![packed_len(rows)]));
            }
        }
        tensors
    }
}

/// The tensor of the inputs of a matrix.
pub(super) fn inputs(name: &MatrixName) -> String {
    name.part("inputs")
}

/// The tensor of the gradients of its outputs.
pub(super) fn outputs(name: &MatrixName) -> String {
    name.part("outputs")
}

/// Identifies a file by its content.
pub(super) fn digest_of_file(path: &Path) -> Result<String, FileError> {
    let mut hasher = blake3::Hasher::new();
    let file = File::open(path).map_err(FileError::io(path))?;
    hasher.update_reader(file).map_err(FileError::io(path))?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// A calibration file being read.
#[derive(Debug)]
pub(super) struct CalibrationFile {
    path: PathBuf,
    tensors: Checkpoint,
    manifest: Manifest,
    places: BTreeMap<MatrixName, usize>,
    digest: String,
}

impl CalibrationFile {
    /// Opens a finished file.
    pub fn open(path: &Path) -> Result<Self, CalibrationError> {
        let file = Self::open_unfinished(path)?;
        match problem_of(&file.tensors, &file.manifest)? {
            Some(reason) => Err(CalibrationError::NotCalibration { path: path.into(), reason }),
            None => Ok(file),
        }
    }

    /// The same for a file of which parts may still be missing.
    pub fn open_unfinished(path: &Path) -> Result<Self, CalibrationError> {
        let not = |reason: String| CalibrationError::NotCalibration { path: path.into(), reason };
        match check_input(path, u64::MAX) {
            Err(FileError::NotAFile { what, .. }) => return Err(not(format!("it is {what}"))),
            Err(FileError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                return Err(CalibrationError::Missing { path: path.into() });
            }
            found => found?,
        }
        let tensors = Checkpoint::open_file(path)?;
        let (_, text) = tensors.raw(MANIFEST).map_err(|_| not("it has no manifest".into()))?;
        let text = std::str::from_utf8(text).map_err(|_| not("it is not UTF-8 text".into()))?;
        let header = Header::of(text).map_err(|error| not(in_words(&error)))?;
        if header.format != FORMAT {
            return Err(not(format!("its format is `{}`", header.format)));
        }
        if !(1..=VERSION).contains(&header.version) {
            return Err(CalibrationError::Version { path: path.into(), version: header.version });
        }
        let manifest: Manifest =
            serde_json::from_str(text).map_err(|error| not(in_words(&error)))?;
        if manifest.gradient_windows > manifest.windows {
            let (gradients, all) = (manifest.gradient_windows, manifest.windows);
            return Err(not(format!("`gradient_blocks` is {gradients}, of {all} `blocks`")));
        }
        let names = manifest.matrices.iter().map(|matrix| matrix.name.clone());
        let places: BTreeMap<MatrixName, usize> = names.zip(0..).collect();
        if places.len() != manifest.matrices.len() {
            return Err(not("a matrix is in it twice".into()));
        }
        let possible = |n: &usize| (1..1 << 28).contains(n);
        if !manifest.matrices.iter().all(|matrix| matrix.shape.iter().all(possible)) {
            return Err(not("a matrix in it has an impossible shape".into()));
        }
        if !manifest.width.iter().all(possible) {
            return Err(not("its hidden states have an impossible width".into()));
        }
        let has_inputs = |matrix: &MatrixEntry| {
            let leader = places.get(&matrix.inputs_of).map(|place| &manifest.matrices[*place]);
            leader.is_some_and(|of| of.inputs_of == of.name && of.shape[1] == matrix.shape[1])
        };
        if let Some(matrix) = manifest.matrices.iter().find(|matrix| !has_inputs(matrix)) {
            return Err(not(format!("it has no inputs of `{}`", matrix.name)));
        }
        for spec in manifest.tensors(text) {
            let fits = tensors.meta(&spec.name);
            if fits.is_none_or(|meta| meta.dtype != spec.dtype || meta.shape != spec.shape) {
                return Err(not(format!("`{}` is missing or has another shape", spec.name)));
            }
        }
        let digest = digest_of_file(path)?;
        Ok(Self { path: path.into(), tensors, manifest, places, digest })
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub fn digest(&self) -> &str {
        &self.digest
    }

    pub fn shape(&self, name: &MatrixName) -> Result<[usize; 2], CalibrationError> {
        Ok(self.entry(name)?.shape)
    }

    pub fn inputs(&self, name: &MatrixName) -> Result<SecondMoment, CalibrationError> {
        let entry = self.entry(name)?;
        let place = self.places.get(&entry.inputs_of).map(|place| 2 * place);
        let moment = self.moment(name, &inputs(&entry.inputs_of), entry.shape[1], self.rows())?;
        Ok(moment.with_mean_fourth(self.spread(place)))
    }

    /// The diagonal of the second moment of the inputs, without the rest of it.
    pub fn input_squares(&self, name: &MatrixName) -> Result<SecondMoment, CalibrationError> {
        let entry = self.entry(name)?;
        let tensor = inputs(&entry.inputs_of);
        let (_, bytes) = self.tensors.raw(&tensor)?;
        let (entries, _) = bytes.as_chunks::<4>();
        // The last entry of each row of the lower half.
        let square = |i: usize| f64::from(f32::from_le_bytes(entries[packed_len(i + 1) - 1]));
        let squares: Vec<f64> = (0..entry.shape[1]).map(square).collect();
        self.tensors.release(&tensor);
        self.tensors.check_unchanged()?;
        SecondMoment::from_squares(&squares, self.rows() as u64)
            .map_err(|source| CalibrationError::Linalg { name: name.clone(), source })
    }

    /// Number of tokens whose inputs were measured.
    fn rows(&self) -> usize {
        self.manifest.windows.saturating_mul(self.manifest.seq_len)
    }

    /// Number of tokens whose gradients were measured.
    fn gradient_rows(&self) -> usize {
        self.manifest.gradient_windows.saturating_mul(self.manifest.seq_len)
    }

    pub fn inputs_of(&self, name: &MatrixName) -> Result<&MatrixName, CalibrationError> {
        Ok(&self.entry(name)?.inputs_of)
    }

    pub fn outputs(&self, name: &MatrixName) -> Result<SecondMoment, CalibrationError> {
        let entry = self.entry(name)?;
        let place = self.places.get(name).map(|place| 2 * place + 1);
        let moment = self.moment(name, &outputs(name), entry.shape[0], self.gradient_rows())?;
        Ok(moment.with_mean_fourth(self.spread(place)))
    }

    /// The second moment of the inputs of the head, if it was measured.
    pub fn head(&self) -> Result<Option<SecondMoment>, CalibrationError> {
        let Some(width) = self.manifest.width else { return Ok(None) };
        let moment = self.moment(&"head".into(), HEAD, width, self.rows())?;
        Ok(Some(moment.with_mean_fourth(self.spread(Some(2 * self.places.len())))))
    }

    /// The second moment of the gradients of what the embedding gives, if it was measured.
    pub fn embedding(&self) -> Result<Option<SecondMoment>, CalibrationError> {
        let width = self.manifest.width.filter(|_| self.manifest.gradient_windows > 0);
        let Some(width) = width else { return Ok(None) };
        let moment = self.moment(&"embedding".into(), EMBEDDING, width, self.gradient_rows())?;
        Ok(Some(moment.with_mean_fourth(self.spread(Some(2 * self.places.len() + 1)))))
    }

    /// How much the rows of the second moment with this place differ, if that is known.
    fn spread(&self, place: Option<usize>) -> Option<f64> {
        if !self.manifest.has_spread() {
            return None;
        }
        let (_, bytes) = self.tensors.raw(SPREAD).ok()?;
        let (entries, _) = bytes.as_chunks::<8>();
        let entry = entries.get(place?).map(|entry| f64::from_le_bytes(*entry));
        entry.filter(|x| (0.0..=f64::MAX).contains(x))
    }

    fn moment(
        &self,
        name: &MatrixName,
        tensor: &str,
        size: usize,
        count: usize,
    ) -> Result<SecondMoment, CalibrationError> {
        let packed = self.tensors.read_f32(tensor)?;
        self.tensors.release(tensor);
        self.tensors.check_unchanged()?;
        SecondMoment::from_packed(size, &packed, count as u64)
            .map_err(|source| CalibrationError::Linalg { name: name.clone(), source })
    }

    pub fn probe(&self, name: &MatrixName) -> Option<f64> {
        let place = *self.places.get(name)?;
        let (_, bytes) = self.tensors.raw(PROBES).ok()?;
        let (entries, _) = bytes.as_chunks::<8>();
        entries.get(place).map(|entry| f64::from_le_bytes(*entry)).filter(|x| x.is_finite())
    }

    pub fn windows(&self) -> Result<Vec<Vec<u32>>, CalibrationError> {
        let (_, bytes) = self.tensors.raw(TOKENS)?;
        let (entries, _) = bytes.as_chunks::<4>();
        let tokens: Vec<u32> = entries.iter().map(|entry| u32::from_le_bytes(*entry)).collect();
        Ok(tokens.chunks(self.manifest.seq_len.max(1)).map(<[u32]>::to_vec).collect())
    }

    pub fn check(&self, name: &MatrixName, digest: &str) -> Result<(), CalibrationError> {
        match &self.entry(name)?.digest {
            Some(own) if own != digest => Err(CalibrationError::Foreign {
                reason: format!("`{name}` has weights other than the calibrated ones"),
            }),
            _ => Ok(()),
        }
    }

    fn entry(&self, name: &MatrixName) -> Result<&MatrixEntry, CalibrationError> {
        let place = self.places.get(name).ok_or_else(|| CalibrationError::Foreign {
            reason: format!("{} has no `{name}`", self.path.display()),
        })?;
        Ok(&self.manifest.matrices[*place])
    }
}
