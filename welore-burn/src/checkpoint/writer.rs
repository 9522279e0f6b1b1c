use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::tensor::View;
use safetensors::{Dtype, SafeTensorError, serialize_to_file};

use super::error::CheckpointError;
use super::layout::{index_of, shard_name, write_index};
use super::output::file_mode;

/// Shards are closed at about this size unless told otherwise, as on the Hub.
pub const DEFAULT_SHARD_BYTES: u64 = 5_000_000_000;

/// Writes tensors as one `model.safetensors`, or as shards with their index when they are
/// more than a shard holds. Holds one shard in memory at a time; tensors borrowed from a
/// [`Checkpoint`](super::Checkpoint) stay on disk.
#[derive(Debug)]
pub struct ShardWriter<'data> {
    dir: PathBuf,
    shard_bytes: u64,
    pending: BTreeMap<String, Stored<'data>>,
    pending_bytes: u64,
    written: Vec<(PathBuf, Vec<String>)>,
    parameters: u64,
    total_bytes: u64,
}

#[derive(Debug)]
struct Stored<'data> {
    dtype: Dtype,
    shape: Vec<usize>,
    data: Cow<'data, [u8]>,
}

impl View for &Stored<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.data)
    }
    fn data_len(&self) -> usize {
        self.data.len()
    }
}

impl<'data> ShardWriter<'data> {
    /// Writes into `dir`, closing a shard at about `shard_bytes`.
    pub fn new(dir: impl AsRef<Path>, shard_bytes: u64) -> Self {
        Self {
            dir: dir.as_ref().into(),
            shard_bytes: shard_bytes.max(1),
            pending: BTreeMap::new(),
            pending_bytes: 0,
            written: Vec::new(),
            parameters: 0,
            total_bytes: 0,
        }
    }

    /// Adds a tensor; `data` is little-endian, row-major.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Io`] if a full shard cannot be written.
    ///
    /// # Panics
    ///
    /// Panics if `data` has not the length that type and shape ask for.
    pub fn add(
        &mut self,
        name: impl Into<String>,
        dtype: Dtype,
        shape: &[usize],
        data: Cow<'data, [u8]>,
    ) -> Result<(), CheckpointError> {
        let entries: usize = shape.iter().product();
        assert_eq!(data.len(), entries * dtype.bitsize() / 8, "data does not fit its shape");
        let bytes = data.len() as u64;
        if self.pending_bytes > 0 && self.pending_bytes + bytes > self.shard_bytes {
            self.flush()?;
        }
        self.parameters += entries as u64;
        self.total_bytes += bytes;
        self.pending_bytes += bytes;
        let shape = shape.to_vec();
        self.pending.insert(name.into(), Stored { dtype, shape, data });
        Ok(())
    }

    /// Writes what is left and gives the files their final names.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Io`].
    pub fn finish(mut self) -> Result<(), CheckpointError> {
        if !self.pending.is_empty() || self.written.is_empty() {
            self.flush()?;
        }
        let count = self.written.len();
        let mut weight_map = BTreeMap::new();
        for (index, (temporary, names)) in self.written.iter().enumerate() {
            let file = shard_name(index, count);
            let path = self.dir.join(&file);
            std::fs::rename(temporary, &path).map_err(CheckpointError::io(path))?;
            weight_map.extend(names.iter().map(|name| (name.as_str(), file.clone())));
        }
        match count {
            1 => Ok(()),
            _ => write_index(&self.dir, &index_of(&weight_map, self.total_bytes, self.parameters)),
        }
    }

    fn flush(&mut self) -> Result<(), CheckpointError> {
        let path = self.dir.join(format!("shard-{}.partial", self.written.len() + 1));
        // transformers refuses files that do not say which framework wrote them.
        let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
        serialize_to_file(&self.pending, Some(metadata), &path).map_err(|error| match error {
            SafeTensorError::IoError(source) => CheckpointError::Io { path: path.clone(), source },
            error => CheckpointError::Header { path: path.clone(), reason: error.to_string() },
        })?;
        finalize(&path).map_err(CheckpointError::io(&path))?;
        self.pending_bytes = 0;
        let names = std::mem::take(&mut self.pending).into_keys().collect();
        self.written.push((path, names));
        Ok(())
    }
}

/// Syncs a shard, and gives it the permissions of an ordinary new file: the safetensors
/// crate leaves its files readable by their owner only.
fn finalize(path: &Path) -> std::io::Result<()> {
    let ordinary = tempfile::Builder::new()
        .permissions(file_mode())
        .tempfile_in(path.parent().unwrap_or(Path::new(".")))?;
    let mode = ordinary.as_file().metadata()?.permissions();
    std::fs::set_permissions(path, mode)?;
    std::fs::File::open(path)?.sync_all()
}

/// Rounds values to a stored type, little-endian.
///
/// # Errors
///
/// [`CheckpointError::Overflow`] if a finite value becomes infinite in `dtype`.
///
/// # Panics
///
/// Panics if `dtype` is not F64, F32, F16 or BF16; readers refuse others first.
pub fn encode_floats(
    tensor: &str,
    values: &[f64],
    dtype: Dtype,
) -> Result<Vec<u8>, CheckpointError> {
    let overflow = values.iter().find(|x| {
        let stored = match dtype {
            Dtype::F32 => f64::from(**x as f32),
            Dtype::F16 => f16::from_f64(**x).to_f64(),
            Dtype::BF16 => bf16::from_f64(**x).to_f64(),
            _ => **x,
        };
        !stored.is_finite()
    });
    if let Some(value) = overflow {
        let (tensor, value) = (tensor.to_string(), *value);
        return Err(CheckpointError::Overflow { tensor, value, dtype });
    }
    Ok(match dtype {
        Dtype::F64 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Dtype::F32 => values.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect(),
        Dtype::F16 => values.iter().flat_map(|x| f16::from_f64(*x).to_le_bytes()).collect(),
        Dtype::BF16 => values.iter().flat_map(|x| bf16::from_f64(*x).to_le_bytes()).collect(),
        dtype => panic!("{dtype} is not a float type that weights are stored in"),
    })
}
