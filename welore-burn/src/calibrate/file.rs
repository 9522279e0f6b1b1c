//! Calibration files: safetensors with the packed lower halves of second moments, the tokens
//! that were read, and a manifest.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use super::error::CalibrationError;
use crate::artifact::Header;
use crate::checkpoint::{Checkpoint, CheckpointError, Layout, ShardFiles, TensorSpec};
use crate::linalg::{SecondMoment, packed_len};

const FORMAT: &str = "welore-calibration";
const VERSION: u32 = 1;
const MANIFEST: &str = "manifest";
const TOKENS: &str = "tokens";
const PROBES: &str = "probes";

/// What a file holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Manifest {
    format: String,
    version: u32,
    /// Where the model came from, for people.
    pub source: String,
    /// Tokens in a block.
    pub seq_len: usize,
    /// Blocks whose inputs were measured.
    pub blocks: usize,
    /// Blocks whose gradients were.
    pub gradient_blocks: usize,
    pub matrices: Vec<MatrixEntry>,
}

/// What a file holds of a matrix.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct MatrixEntry {
    pub name: String,
    /// `[out, in]`.
    pub shape: [usize; 2],
    /// BLAKE3 of the dense matrix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The matrix under whose name its inputs are stored: some see the same.
    pub inputs_of: String,
}

impl Manifest {
    pub fn new(
        source: String,
        seq_len: usize,
        blocks: usize,
        gradient_blocks: usize,
        matrices: Vec<MatrixEntry>,
    ) -> Self {
        let (format, version) = (FORMAT.into(), VERSION);
        Self { format, version, source, seq_len, blocks, gradient_blocks, matrices }
    }

    fn tensors(&self, text: &str) -> Vec<TensorSpec> {
        let spec = |name: String, dtype, shape: Vec<usize>| TensorSpec { name, dtype, shape };
        let mut tensors = vec![
            spec(MANIFEST.into(), Dtype::U8, vec![text.len()]),
            spec(TOKENS.into(), Dtype::U32, vec![self.blocks, self.seq_len]),
            spec(PROBES.into(), Dtype::F64, vec![self.matrices.len()]),
        ];
        for matrix in &self.matrices {
            let [rows, cols] = matrix.shape;
            if matrix.inputs_of == matrix.name {
                tensors.push(spec(inputs(&matrix.name), Dtype::F32, vec![packed_len(cols)]));
            }
            if self.gradient_blocks > 0 {
                tensors.push(spec(outputs(&matrix.name), Dtype::F32, vec![packed_len(rows)]));
            }
        }
        tensors
    }
}

fn inputs(name: &str) -> String {
    format!("{name}.inputs")
}

fn outputs(name: &str) -> String {
    format!("{name}.outputs")
}

/// A file that is being written: moments come in any order, and the file appears when all are
/// there.
pub(super) struct CalibrationWriter {
    path: PathBuf,
    dir: tempfile::TempDir,
    layout: Layout,
    file: String,
}

impl CalibrationWriter {
    pub fn new(
        path: &Path,
        manifest: &Manifest,
        tokens: &[Vec<u32>],
    ) -> Result<Self, CalibrationError> {
        let io = || CheckpointError::io(path);
        let beside = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let dir = tempfile::Builder::new().prefix(".calibration-").tempdir_in(beside);
        let dir = dir.map_err(io())?;
        let text = serde_json::to_string(manifest).expect("numbers and strings always serialize");
        let layout = Layout::new(&manifest.tensors(&text), u64::MAX)?;
        let writer = Self { path: path.into(), dir, layout, file: "model.safetensors".into() };
        let files = ShardFiles::prepare(writer.dir.path(), &writer.layout)?;
        files.write(MANIFEST, text.as_bytes())?;
        let tokens = tokens.iter().flatten().flat_map(|token| token.to_le_bytes());
        files.write(TOKENS, &tokens.collect::<Vec<_>>())?;
        writer.write_probes(&vec![f64::NAN; manifest.matrices.len()])?;
        Ok(writer)
    }

    fn files(&self) -> Result<ShardFiles<'_>, CalibrationError> {
        Ok(ShardFiles::prepare(self.dir.path(), &self.layout)?)
    }

    pub fn write_inputs(&self, name: &str, moment: &SecondMoment) -> Result<(), CalibrationError> {
        self.write("inputs", name, inputs(name), moment)
    }

    pub fn write_outputs(&self, name: &str, moment: &SecondMoment) -> Result<(), CalibrationError> {
        self.write("gradients", name, outputs(name), moment)
    }

    fn write(
        &self,
        what: &'static str,
        name: &str,
        tensor: String,
        moment: &SecondMoment,
    ) -> Result<(), CalibrationError> {
        let packed = moment.packed();
        if !packed.iter().all(|x| x.is_finite()) {
            return Err(CalibrationError::NotFinite { what, name: name.into() });
        }
        let data: Vec<u8> = packed.iter().flat_map(|x| x.to_le_bytes()).collect();
        Ok(self.files()?.write(&tensor, &data)?)
    }

    /// What probes of the matrices cost, in the order of the manifest; not a number for none.
    pub fn write_probes(&self, probes: &[f64]) -> Result<(), CalibrationError> {
        let data: Vec<u8> = probes.iter().flat_map(|x| x.to_le_bytes()).collect();
        Ok(self.files()?.write(PROBES, &data)?)
    }

    /// What is written already.
    pub fn so_far(&self) -> Result<CalibrationFile, CalibrationError> {
        CalibrationFile::open(&self.dir.path().join(&self.file))
    }

    /// Puts the file where it belongs.
    pub fn finish(self) -> Result<(), CalibrationError> {
        self.files()?.finish()?;
        fs::rename(self.dir.path().join(&self.file), &self.path)
            .map_err(CheckpointError::io(&self.path))?;
        Ok(())
    }
}

/// A file that is read.
#[derive(Debug)]
pub(super) struct CalibrationFile {
    path: PathBuf,
    tensors: Checkpoint,
    manifest: Manifest,
    places: BTreeMap<String, usize>,
    digest: String,
}

impl CalibrationFile {
    pub fn open(path: &Path) -> Result<Self, CalibrationError> {
        let not = |reason: String| CalibrationError::NotCalibration { path: path.into(), reason };
        let tensors = Checkpoint::open_file(path)?;
        let (_, text) = tensors.raw(MANIFEST).map_err(|_| not("it has no manifest".into()))?;
        let text = std::str::from_utf8(text).map_err(|error| not(error.to_string()))?;
        let header = Header::of(text).map_err(|error| not(error.to_string()))?;
        if header.format != FORMAT {
            return Err(not(format!("its format is `{}`", header.format)));
        }
        if header.version != VERSION {
            return Err(CalibrationError::Version { path: path.into(), version: header.version });
        }
        let manifest: Manifest =
            serde_json::from_str(text).map_err(|error| not(error.to_string()))?;
        let names = manifest.matrices.iter().map(|matrix| matrix.name.clone());
        let places: BTreeMap<String, usize> = names.zip(0..).collect();
        let possible = |n: &usize| (1..1 << 28).contains(n);
        if !manifest.matrices.iter().all(|matrix| matrix.shape.iter().all(possible)) {
            return Err(not("a matrix in it cannot be".into()));
        }
        for spec in manifest.tensors(text) {
            let fits = tensors.meta(&spec.name);
            if fits.is_none_or(|meta| meta.dtype != spec.dtype || meta.shape != spec.shape) {
                return Err(not(format!("there is no `{}` of its shape", spec.name)));
            }
        }
        let mut hasher = blake3::Hasher::new();
        let file = fs::File::open(path).map_err(CheckpointError::io(path))?;
        hasher.update_reader(file).map_err(CheckpointError::io(path))?;
        let digest = hasher.finalize().to_hex().to_string();
        Ok(Self { path: path.into(), tensors, manifest, places, digest })
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub fn digest(&self) -> &str {
        &self.digest
    }

    pub fn inputs(&self, name: &str) -> Result<SecondMoment, CalibrationError> {
        let entry = self.entry(name)?;
        let count = self.manifest.blocks.saturating_mul(self.manifest.seq_len);
        self.moment(&inputs(&entry.inputs_of), entry.shape[1], count)
    }

    pub fn outputs(&self, name: &str) -> Result<SecondMoment, CalibrationError> {
        let entry = self.entry(name)?;
        let count = self.manifest.gradient_blocks.saturating_mul(self.manifest.seq_len);
        self.moment(&outputs(name), entry.shape[0], count)
    }

    fn moment(
        &self,
        tensor: &str,
        size: usize,
        count: usize,
    ) -> Result<SecondMoment, CalibrationError> {
        let packed = self.tensors.read_f32(tensor)?;
        self.tensors.release(tensor);
        SecondMoment::from_packed(size, &packed, count as u64)
            .map_err(|source| CalibrationError::Linalg { name: tensor.into(), source })
    }

    pub fn probe(&self, name: &str) -> Option<f64> {
        let place = *self.places.get(name)?;
        let (_, bytes) = self.tensors.raw(PROBES).ok()?;
        let (entries, _) = bytes.as_chunks::<8>();
        entries.get(place).map(|entry| f64::from_le_bytes(*entry)).filter(|x| x.is_finite())
    }

    pub fn blocks(&self) -> Result<Vec<Vec<u32>>, CalibrationError> {
        let (_, bytes) = self.tensors.raw(TOKENS)?;
        let (entries, _) = bytes.as_chunks::<4>();
        let tokens: Vec<u32> = entries.iter().map(|entry| u32::from_le_bytes(*entry)).collect();
        Ok(tokens.chunks(self.manifest.seq_len.max(1)).map(<[u32]>::to_vec).collect())
    }

    pub fn check(&self, name: &str, digest: &str) -> Result<(), CalibrationError> {
        match &self.entry(name)?.digest {
            Some(own) if own != digest => Err(CalibrationError::Foreign {
                reason: format!("`{name}` has other weights than were calibrated"),
            }),
            _ => Ok(()),
        }
    }

    fn entry(&self, name: &str) -> Result<&MatrixEntry, CalibrationError> {
        let place = self.places.get(name).ok_or_else(|| CalibrationError::Foreign {
            reason: format!("{} has no `{name}`", self.path.display()),
        })?;
        Ok(&self.manifest.matrices[*place])
    }
}
