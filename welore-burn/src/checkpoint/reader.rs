use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use half::{bf16, f16};
use safetensors::Dtype;

use super::convolutions::Kernels;
use super::error::{CheckpointError, TensorProblem};
use super::interleaved::Interleaved;
use super::remark::Remark;
use super::scaled::Scales;
use super::tensor_meta::TensorMeta;
use super::turned::Turned;
use crate::files::MappedFile;
use crate::forms::{FormError, TensorSpec, parameters_in};
use crate::linalg::{LinalgError, Matrix};
use crate::modules::{MatrixName, natural_key};

/// The tensors of a model directory, memory-mapped: data is read only when it is requested.
///
/// Headers are untrusted. The safetensors parser checks sizes and offsets against the file before
/// anything is allocated, and an index may only name files beside it. A header may have 64 MiB, and a
/// model 1 048 576 tensors; the largest models have two hundred thousand.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    pub(super) shards: Vec<Shard>,
    pub(super) tensors: BTreeMap<String, (usize, TensorMeta)>,
    /// The scales of tensors whose bytes are numbers of 8 bits, though they are read as BF16.
    pub(super) scaled: BTreeMap<String, Scales>,
    /// The places of entries that do not follow each other.
    pub(super) interleaved: BTreeMap<String, Interleaved>,
    /// The layers whose weights are the transpose of what is read.
    pub(super) turned: Turned,
    /// The convolutions that are read as matrices.
    pub(super) kernels: Kernels,
    /// Whether tensors come from another file than the model's.
    pub(super) has_replaced: bool,
    order: Vec<String>,
    remarks: Vec<Remark>,
    /// How names began in the files, and how they begin now.
    pub(super) beginnings: Option<(String, String)>,
    /// Digests of tensors already hashed, so that none is hashed twice.
    digests: Mutex<HashMap<String, String>>,
}

/// A file of tensors.
#[derive(Debug)]
pub(super) struct Shard {
    pub map: MappedFile,
    /// Where the tensors begin, after the header.
    pub data_start: usize,
}

impl Checkpoint {
    /// One without tensors.
    pub(super) fn empty(dir: &Path) -> Self {
        let (tensors, scaled, order) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        let (shards, remarks, digests) = (Vec::new(), Vec::new(), Mutex::default());
        let (interleaved, turned) = (BTreeMap::new(), Turned::default());
        let (kernels, beginnings, dir) = (Kernels::default(), None, dir.into());
        Self {
            dir,
            shards,
            tensors,
            scaled,
            interleaved,
            turned,
            kernels,
            has_replaced: false,
            order,
            remarks,
            beginnings,
            digests,
        }
    }

    pub(super) fn in_order(mut self) -> Self {
        // The parts of each name are found once, not at every comparison.
        let mut names: Vec<(Vec<Result<u64, &str>>, &String)> =
            self.tensors.keys().map(|name| (natural_key(name).collect(), name)).collect();
        names.sort_unstable();
        self.order = names.into_iter().map(|(_, name)| name.clone()).collect();
        self
    }

    /// The checkpoint without the tensors for which `ignored` is true: as if they did not exist.
    pub fn without(mut self, ignored: impl Fn(&str) -> bool) -> Self {
        self.tensors.retain(|name, _| !ignored(name));
        self.order.retain(|name| !ignored(name));
        self
    }

    /// The checkpoint with other names for its tensors, each of which has to get its own. The names
    /// of matrices that begin with `from` begin with `to` instead, also those in its plan.
    pub(crate) fn renamed(
        mut self,
        new_name: impl Fn(&str) -> String,
        from: &str,
        to: &str,
    ) -> Self {
        self.beginnings = Some((from.into(), to.into()));
        let tensors = std::mem::take(&mut self.tensors).into_iter();
        self.tensors = tensors.map(|(name, tensor)| (new_name(&name), tensor)).collect();
        let scaled = std::mem::take(&mut self.scaled).into_iter();
        self.scaled = scaled.map(|(name, scales)| (new_name(&name), scales)).collect();
        let interleaved = std::mem::take(&mut self.interleaved).into_iter();
        self.interleaved = interleaved.map(|(name, part)| (new_name(&name), part)).collect();
        self.turned = std::mem::take(&mut self.turned).renamed(&new_name);
        self.kernels = std::mem::take(&mut self.kernels).renamed(&new_name);
        self.forget_digests().in_order()
    }

    /// Hashes tensors again: they have other names or shapes.
    pub(super) fn forget_digests(mut self) -> Self {
        self.digests = Mutex::default();
        self
    }

    /// Adds to what [`remarks`](Checkpoint::remarks) says.
    pub(crate) fn with_remark(mut self, remark: Remark) -> Self {
        self.remarks.push(remark);
        self
    }

    /// What was unusual about it and has been put right.
    pub fn remarks(&self) -> &[Remark] {
        &self.remarks
    }

    /// The model directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Tensor names in the model's order: numbers in them are compared as numbers.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.order.iter().map(String::as_str)
    }

    /// Type and shape of a tensor, if it exists.
    pub fn meta(&self, tensor: &str) -> Option<&TensorMeta> {
        self.tensors.get(tensor).map(|(_, meta)| meta)
    }

    /// Number of parameters of all tensors. Indices do not count, and blocks count as the numbers in
    /// them.
    pub fn parameters(&self) -> u64 {
        let tensors = self.tensors.iter();
        tensors.map(|(name, (_, meta))| parameters_in(name, meta.dtype, &meta.shape)).sum()
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.values().map(|(_, meta)| meta.bytes()).sum()
    }

    /// Bytes of all tensors in their files, scales and exponents that entries share included.
    pub fn stored_bytes(&self) -> u64 {
        let tensors = self.tensors.iter().map(|(name, (_, meta))| {
            let scales = self.scaled.get(name).map_or(0, |scales| scales.meta.stored_bytes());
            let exponents = self.interleaved.get(name).map_or(0, |part| part.bytes_beside(meta));
            meta.stored_bytes() + scales + exponents
        });
        tensors.sum()
    }

    /// The stored bytes of a tensor, little-endian, row-major: without their scales, where it has
    /// some. [`content`](Checkpoint::content) multiplies by them.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::TensorMissing`].
    pub fn raw(&self, tensor: &str) -> Result<(&TensorMeta, &[u8]), CheckpointError> {
        let (shard, meta) = self.tensors.get(tensor).ok_or_else(|| {
            CheckpointError::TensorMissing { dir: self.dir.clone(), tensor: tensor.into() }
        })?;
        Ok((meta, self.bytes_at(*shard, meta)))
    }

    pub(super) fn bytes_at(&self, shard: usize, meta: &TensorMeta) -> &[u8] {
        let shard = &self.shards[shard];
        let (start, end) = meta.range;
        &shard.map[shard.data_start + start..shard.data_start + end]
    }

    /// The entries of a tensor as f32, row-major.
    ///
    /// # Errors
    ///
    /// [`CheckpointError`] if it is missing, not of a float type, or not finite. An F64
    /// entry beyond the range of f32 counts as not finite.
    pub fn read_f32(&self, tensor: &str) -> Result<Vec<f32>, CheckpointError> {
        let values = self.decode(tensor, |x| x, f16::to_f32, bf16::to_f32, |x| x as f32)?;
        match values.iter().position(|x| !x.is_finite()) {
            Some(index) => Err(self.not_finite(tensor, index, f64::from(values[index]))),
            None => Ok(values),
        }
    }

    /// A matrix in f64.
    ///
    /// # Errors
    ///
    /// As [`Checkpoint::read_f32`], and [`CheckpointError::NotMatrix`].
    pub fn read_matrix(&self, tensor: &str) -> Result<Matrix, CheckpointError> {
        let [rows, cols] = self.matrix_shape(tensor)?;
        let values = self.decode(tensor, f64::from, f16::to_f64, bf16::to_f64, |x| x)?;
        Matrix::new(rows, cols, values).map_err(|source| match source {
            LinalgError::NotFinite { row, col, value } => {
                self.not_finite(tensor, row * cols + col, value)
            }
            source => CheckpointError::Linalg { tensor: tensor.into(), source },
        })
    }

    /// Checks that a tensor is of a float type and finite, without copying it.
    ///
    /// # Errors
    ///
    /// As [`Checkpoint::read_f32`].
    pub fn check_finite(&self, tensor: &str) -> Result<(), CheckpointError> {
        let (meta, bytes) = self.content(tensor)?;
        let found = match meta.dtype {
            Dtype::F32 => not_finite(&bytes, f32::from_le_bytes),
            Dtype::F16 => not_finite(&bytes, |b| f16::from_le_bytes(b).to_f32()),
            Dtype::BF16 => not_finite(&bytes, |b| bf16::from_le_bytes(b).to_f32()),
            Dtype::F64 => not_finite(&bytes, |b| f64::from_le_bytes(b) as f32),
            dtype => return Err(self.unsupported(tensor, dtype)),
        };
        match found {
            Some((index, value)) => Err(self.not_finite(tensor, index, f64::from(value))),
            None => Ok(()),
        }
    }

    /// Releases the pages of a tensor; see [`MappedFile::release`]. Call this after each tensor
    /// when reading a model larger than memory.
    pub fn release(&self, tensor: &str) {
        if let Some((shard, meta)) = self.tensors.get(tensor) {
            let Shard { map, data_start } = &self.shards[*shard];
            let (start, end) = meta.range;
            map.release(data_start + start..data_start + end);
        }
    }

    /// Checks that nobody has written to the weights since they were opened. Call this before
    /// anything that was made from them is kept.
    ///
    /// # Errors
    ///
    /// [`FileError::Changed`](crate::files::FileError::Changed).
    pub fn check_unchanged(&self) -> Result<(), CheckpointError> {
        Ok(self.shards.iter().try_for_each(|shard| shard.map.check_unchanged())?)
    }

    /// The shape `[out, in]` of a matrix.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::TensorMissing`] and [`CheckpointError::NotMatrix`].
    pub fn matrix_shape(&self, tensor: &str) -> Result<[usize; 2], CheckpointError> {
        let (meta, _) = self.raw(tensor)?;
        match meta.shape[..] {
            [rows, cols] if rows > 0 && cols > 0 => Ok([rows, cols]),
            _ => Err(CheckpointError::NotMatrix {
                dir: self.dir.clone(),
                tensor: tensor.into(),
                shape: meta.shape.clone(),
            }),
        }
    }

    /// The bytes of a tensor of a certain type and shape.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::TensorMissing`]; [`CheckpointError::Dtype`] or
    /// [`CheckpointError::Mismatch`] if its type or shape differs.
    pub(super) fn expected_bytes(&self, expected: &TensorSpec) -> Result<&[u8], CheckpointError> {
        let (meta, bytes) = self.raw(&expected.name)?;
        if meta.dtype != expected.dtype {
            return Err(self.unsupported(&expected.name, meta.dtype));
        }
        if meta.shape != expected.shape {
            let (tensor, found) = (expected.name.clone(), meta.shape.clone());
            let problem = TensorProblem::Shape { tensor, expected: expected.shape.clone(), found };
            let dir = self.dir.clone();
            return Err(CheckpointError::Mismatch { dir, problems: vec![problem] });
        }
        Ok(bytes)
    }

    /// BLAKE3 of a tensor's type, shape and bytes, in hexadecimal.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::TensorMissing`].
    pub fn digest(&self, tensor: &str) -> Result<String, CheckpointError> {
        let known = || self.digests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(digest) = known().get(tensor) {
            return Ok(digest.clone());
        }
        let (meta, bytes) = self.raw(tensor)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(format!("{} {:?}\n", meta.dtype, meta.shape).as_bytes());
        match self.interleaved.contains_key(tensor) {
            true => hasher.update(&self.content(tensor)?.1),
            false => hasher.update(bytes),
        };
        if let Some(scales) = self.scaled.get(tensor) {
            hasher.update(self.bytes_at(scales.shard, &scales.meta));
        }
        let digest = hasher.finalize().to_hex().to_string();
        known().insert(tensor.into(), digest.clone());
        Ok(digest)
    }

    /// Names the matrix in an error of its form.
    pub(crate) fn form_error(
        &self,
        matrix: &MatrixName,
    ) -> impl FnOnce(FormError) -> CheckpointError {
        let (dir, matrix) = (self.dir.clone(), matrix.clone());
        move |source| CheckpointError::Form { dir, matrix, source }
    }

    fn decode<T>(
        &self,
        tensor: &str,
        from_f32: impl Fn(f32) -> T,
        from_f16: impl Fn(f16) -> T,
        from_bf16: impl Fn(bf16) -> T,
        from_f64: impl Fn(f64) -> T,
    ) -> Result<Vec<T>, CheckpointError> {
        let (meta, bytes) = self.content(tensor)?;
        Ok(match meta.dtype {
            Dtype::F32 => entries(&bytes, |b| from_f32(f32::from_le_bytes(b))),
            Dtype::F16 => entries(&bytes, |b| from_f16(f16::from_le_bytes(b))),
            Dtype::BF16 => entries(&bytes, |b| from_bf16(bf16::from_le_bytes(b))),
            Dtype::F64 => entries(&bytes, |b| from_f64(f64::from_le_bytes(b))),
            dtype => return Err(self.unsupported(tensor, dtype)),
        })
    }

    fn unsupported(&self, tensor: &str, dtype: Dtype) -> CheckpointError {
        CheckpointError::Dtype { dir: self.dir.clone(), tensor: tensor.into(), dtype }
    }

    fn not_finite(&self, tensor: &str, index: usize, value: f64) -> CheckpointError {
        CheckpointError::NotFinite { dir: self.dir.clone(), tensor: tensor.into(), index, value }
    }
}

fn entries<const N: usize, T>(bytes: &[u8], convert: impl Fn([u8; N]) -> T) -> Vec<T> {
    let (chunks, _) = bytes.as_chunks::<N>();
    chunks.iter().map(|chunk| convert(*chunk)).collect()
}

/// The first entry that is infinite or not a number, and its position.
pub(crate) fn not_finite<const N: usize>(
    bytes: &[u8],
    convert: impl Fn([u8; N]) -> f32,
) -> Option<(usize, f32)> {
    let (chunks, _) = bytes.as_chunks::<N>();
    chunks.iter().map(|chunk| convert(*chunk)).enumerate().find(|(_, value)| !value.is_finite())
}
