//! Calibration files that are being written.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::error::CalibrationError;
use super::file::{
    CalibrationFile, EMBEDDING, HEAD, MANIFEST, Manifest, PROBES, SPREAD, TOKENS, inputs, outputs,
};
use super::resume::{Line, belongs};
use crate::checkpoint::{CheckpointError, ShardLayout, ShardWriter};
use crate::files::{Journal, StagedFile};
use crate::linalg::SecondMoment;
use crate::modules::MatrixName;

/// A calibration file being written. Second moments arrive in any order, and the file appears when
/// it is finished.
pub(super) struct CalibrationWriter {
    staged: StagedFile,
    layout: ShardLayout,
    /// The place of each matrix in the manifest.
    places: BTreeMap<MatrixName, usize>,
    /// What the tensor of spreads will hold.
    spread: Mutex<Vec<f64>>,
    /// Digests of the second moments that were written last, by tensor.
    written: Mutex<BTreeMap<String, String>>,
}

/// The only file of the layout.
pub(super) const FILE: &str = "model.safetensors";

impl CalibrationWriter {
    pub fn new(
        path: &Path,
        manifest: &Manifest,
        tokens: &[Vec<u32>],
    ) -> Result<Self, CalibrationError> {
        Self::begun(StagedFile::create(path)?, manifest, tokens)
    }

    /// The same for a file of which finished parts outlive the process; `model` identifies the model,
    /// and how it is computed. Also returns what an earlier process finished of it.
    pub fn resume(
        path: &Path,
        manifest: &Manifest,
        tokens: &[Vec<u32>],
        model: &str,
    ) -> Result<(Self, Journal, Vec<Line>), CalibrationError> {
        let mut job = blake3::Hasher::new();
        job.update(format!("calibration {model}\n{}\n", text_of(manifest)).as_bytes());
        for token in tokens.iter().flatten() {
            job.update(&token.to_le_bytes());
        }
        let job = job.finalize().to_hex().to_string();
        let (staged, journal, found) = StagedFile::resume(path, &job, belongs)?;
        Ok((Self::begun(staged, manifest, tokens)?, journal, found))
    }

    fn begun(
        staged: StagedFile,
        manifest: &Manifest,
        tokens: &[Vec<u32>],
    ) -> Result<Self, CalibrationError> {
        let text = text_of(manifest);
        let layout = ShardLayout::new(&manifest.tensors(&text), u64::MAX)?;
        let names = manifest.matrices.iter().map(|matrix| matrix.name.clone());
        let writer = Self {
            staged,
            layout,
            places: names.zip(0..).collect(),
            spread: Mutex::new(vec![f64::NAN; manifest.places_of_spread()]),
            written: Mutex::default(),
        };
        writer.write_tensor(MANIFEST, text.as_bytes())?;
        let tokens = tokens.iter().flatten().flat_map(|token| token.to_le_bytes());
        writer.write_tensor(TOKENS, &tokens.collect::<Vec<_>>())?;
        writer.write_probes(&vec![f64::NAN; manifest.matrices.len()])?;
        writer.write_spread()?;
        Ok(writer)
    }

    /// Does something with the file as it grows. Errors name the path that it will have.
    fn with_files(
        &self,
        work: impl FnOnce(ShardWriter<'_>) -> Result<(), CheckpointError>,
    ) -> Result<(), CalibrationError> {
        let files = ShardWriter::new(self.staged.dir(), &self.layout);
        let named = |error| self.staged.name_target(error);
        Ok(files.and_then(work).map_err(|error: CheckpointError| error.map_file(named))?)
    }

    fn write_tensor(&self, tensor: &str, data: &[u8]) -> Result<(), CalibrationError> {
        self.with_files(|files| files.write(tensor, data))
    }

    pub fn write_inputs(
        &self,
        name: &MatrixName,
        moment: &SecondMoment,
    ) -> Result<(), CalibrationError> {
        self.note_spread(self.places.get(name).map(|place| 2 * place), moment);
        self.write("inputs", name, inputs(name), moment)
    }

    pub fn write_outputs(
        &self,
        name: &MatrixName,
        moment: &SecondMoment,
    ) -> Result<(), CalibrationError> {
        self.note_spread(self.places.get(name).map(|place| 2 * place + 1), moment);
        self.write("gradients", name, outputs(name), moment)
    }

    /// Writes the second moment of the inputs of the head.
    pub fn write_head(&self, moment: &SecondMoment) -> Result<(), CalibrationError> {
        self.note_spread(Some(2 * self.places.len()), moment);
        self.write("inputs", &"head".into(), HEAD.into(), moment)
    }

    /// Writes the second moment of the gradients of what the embedding gives.
    pub fn write_embedding(&self, moment: &SecondMoment) -> Result<(), CalibrationError> {
        self.note_spread(Some(2 * self.places.len() + 1), moment);
        self.write("gradients", &"embedding".into(), EMBEDDING.into(), moment)
    }

    /// The directory in which the file grows.
    pub fn dir(&self) -> &Path {
        self.staged.dir()
    }

    /// The digests of the second moments that were written since this was last asked, by tensor.
    pub fn take_written(&self) -> BTreeMap<String, String> {
        std::mem::take(&mut *self.written.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the file has second moments of these digests.
    pub fn has_written(
        &self,
        moments: &BTreeMap<String, String>,
    ) -> Result<bool, CalibrationError> {
        let mut all = true;
        self.with_files(|files| {
            for (tensor, digest) in moments {
                let is_there = self.layout.has_tensor(tensor);
                all &= is_there && digest_of(&files.read(tensor)?) == *digest;
                if !all {
                    break;
                }
            }
            Ok(())
        })?;
        Ok(all)
    }

    /// How much rows differ, of the second moments so far, by place.
    pub fn known_spread(&self) -> BTreeMap<usize, f64> {
        let spread = self.spread.lock().unwrap_or_else(PoisonError::into_inner);
        let places = spread.iter().copied().enumerate();
        places.filter(|(_, fourth)| fourth.is_finite()).collect()
    }

    /// Takes over what an earlier process knew.
    pub fn know_spread(&self, known: &BTreeMap<usize, f64>) {
        let mut spread = self.spread.lock().unwrap_or_else(PoisonError::into_inner);
        for (place, fourth) in known {
            spread.get_mut(*place).into_iter().for_each(|place| *place = *fourth);
        }
    }

    fn note_spread(&self, place: Option<usize>, moment: &SecondMoment) {
        let mut spread = self.spread.lock().unwrap_or_else(PoisonError::into_inner);
        let place = place.and_then(|place| spread.get_mut(place));
        if let (Some(place), Some(fourth)) = (place, moment.mean_fourth()) {
            *place = fourth;
        }
    }

    fn write_spread(&self) -> Result<(), CalibrationError> {
        let spread = self.spread.lock().unwrap_or_else(PoisonError::into_inner);
        let data: Vec<u8> = spread.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.write_tensor(SPREAD, &data)
    }

    fn write(
        &self,
        what: &'static str,
        name: &MatrixName,
        tensor: String,
        moment: &SecondMoment,
    ) -> Result<(), CalibrationError> {
        let packed = moment.packed();
        if !packed.iter().all(|x| x.is_finite()) {
            return Err(CalibrationError::NotFinite { what, name: name.clone() });
        }
        let data: Vec<u8> = packed.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.write_tensor(&tensor, &data)?;
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.insert(tensor, digest_of(&data));
        Ok(())
    }

    /// Writes the probes of the matrices, in the order of the manifest; NaN where there is none.
    pub fn write_probes(&self, probes: &[f64]) -> Result<(), CalibrationError> {
        let data: Vec<u8> = probes.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.write_tensor(PROBES, &data)
    }

    /// The part of the file that has been written.
    pub fn so_far(&self) -> Result<CalibrationFile, CalibrationError> {
        CalibrationFile::open_unfinished(&self.staged.dir().join(FILE))
    }

    /// Moves the finished file to its path.
    pub fn finish(self) -> Result<(), CalibrationError> {
        self.write_spread()?;
        self.with_files(|files| files.finish())?;
        Ok(self.staged.commit(FILE)?)
    }
}

fn text_of(manifest: &Manifest) -> String {
    serde_json::to_string(manifest).expect("numbers and strings always serialize")
}

fn digest_of(data: &[u8]) -> String {
    blake3::hash(data).to_hex().to_string()
}
