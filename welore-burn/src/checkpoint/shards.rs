//! Safetensors files whose tensors are written in any order.
//!
//! Names, types and shapes of all tensors are known before the first one is computed, so every
//! file can be laid out first. Any thread can then write a tensor straight to its place, and no
//! shard is ever in memory.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::{Value, json};

use super::error::CheckpointError;
use super::file_shapes::FileShapes;
use super::turned::transposed;
use crate::files::{FileError, sync_dir, write_file};
use crate::forms::TensorSpec;

const INDEX_FILE: &str = "model.safetensors.index.json";

/// Shards are closed at about this size by default, as on the Hub.
pub const DEFAULT_SHARD_BYTES: u64 = 5_000_000_000;

/// Where every tensor goes: one `model.safetensors`, or shards if the tensors do not fit into one.
#[derive(Debug, Default)]
pub struct ShardLayout {
    files: Vec<FileLayout>,
    places: BTreeMap<String, Place>,
    bytes: u64,
    parameters: u64,
}

#[derive(Debug)]
struct FileLayout {
    name: String,
    /// The length of the header, and the header.
    head: Vec<u8>,
    /// Size of the whole file.
    bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    file: usize,
    /// Offset from the beginning of the file.
    start: u64,
    bytes: u64,
    /// Rows and columns of a matrix that the file has turned.
    turned: Option<[usize; 2]>,
}

impl ShardLayout {
    /// Fills shards in the order of the tensors; a shard is closed at about `shard_bytes`.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::NotStorable`] if a name occurs twice or a header grows too large.
    pub fn new(tensors: &[TensorSpec], shard_bytes: u64) -> Result<Self, CheckpointError> {
        Self::shaped(tensors, shard_bytes, &FileShapes::default())
    }

    /// The same, where files have some matrices as `[in, out]`, or with kernels. Who writes and reads
    /// them has `[out, in]`.
    pub(crate) fn shaped(
        tensors: &[TensorSpec],
        shard_bytes: u64,
        shapes: &FileShapes,
    ) -> Result<Self, CheckpointError> {
        let mut shards: Vec<Vec<&TensorSpec>> = Vec::new();
        let (mut shard, mut filled) = (Vec::new(), 0u64);
        for tensor in tensors {
            if filled > 0 && filled.saturating_add(tensor.bytes()) > shard_bytes {
                shards.push(std::mem::take(&mut shard));
                filled = 0;
            }
            filled = filled.saturating_add(tensor.bytes());
            shard.push(tensor);
        }
        shards.push(shard);
        let count = shards.len();
        let mut layout = Self::default();
        for (index, shard) in shards.into_iter().enumerate() {
            layout.add(shard_name(index, count), shard, shapes)?;
        }
        Ok(layout)
    }

    /// All tensors in one file of this name.
    pub(crate) fn of_file(
        name: &str,
        tensors: &[TensorSpec],
        shapes: &FileShapes,
    ) -> Result<Self, CheckpointError> {
        let mut layout = Self::default();
        layout.add(name.into(), tensors.iter().collect(), shapes)?;
        Ok(layout)
    }

    fn add(
        &mut self,
        name: String,
        mut tensors: Vec<&TensorSpec>,
        shapes: &FileShapes,
    ) -> Result<(), CheckpointError> {
        let unstorable = |reason: String| CheckpointError::NotStorable { reason };
        // As the safetensors library does, so that tensors stay aligned.
        tensors.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(&b.name)));
        let mut end = 0;
        let mut infos = Vec::with_capacity(tensors.len());
        for tensor in &tensors {
            let start = end;
            end += tensor.bytes() as usize;
            let info = TensorInfo {
                dtype: tensor.dtype,
                shape: shapes.of(tensor),
                data_offsets: (start, end),
            };
            infos.push((tensor.name.clone(), info));
        }
        // transformers refuses files that do not say which framework wrote them.
        let format = HashMap::from([("format".to_string(), "pt".to_string())]);
        let metadata =
            Metadata::new(Some(format), infos).map_err(|error| unstorable(error.to_string()))?;
        let mut header =
            serde_json::to_vec(&metadata).map_err(|error| unstorable(error.to_string()))?;
        header.resize(header.len().next_multiple_of(8), b' ');
        if header.len() > LONGEST_HEADER {
            return Err(unstorable("there are too many for one file".into()));
        }
        let head = [&(header.len() as u64).to_le_bytes()[..], &header[..]].concat();
        let mut start = head.len() as u64;
        for tensor in tensors {
            let (file, turned) = (self.files.len(), shapes.turned_sides(tensor));
            let place = Place { file, start, bytes: tensor.bytes(), turned };
            start += place.bytes;
            self.bytes += place.bytes;
            self.parameters += tensor.entries();
            if self.places.insert(tensor.name.clone(), place).is_some() {
                return Err(unstorable(format!("two would have the name `{}`", tensor.name)));
            }
        }
        self.files.push(FileLayout { name, head, bytes: start });
        Ok(())
    }

    /// Identifies files, names, types, shapes and places.
    pub fn digest(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for file in &self.files {
            hasher.update(&(file.name.len() as u64).to_le_bytes()).update(file.name.as_bytes());
            hasher.update(&file.head);
        }
        hasher.finalize()
    }

    /// Whether a tensor of this name is laid out.
    pub fn has_tensor(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// Whether a file of this name is laid out.
    pub fn has_file(&self, name: &str) -> bool {
        self.files.iter().any(|file| file.name == name)
    }
}

/// Bytes of the longest header that is written or read. The safetensors library accepts 100 MB.
pub(super) const LONGEST_HEADER: usize = 64 << 20;

/// The files of a layout on disk. Several threads may write different tensors at once.
#[derive(Debug)]
pub struct ShardWriter<'a> {
    dir: &'a Path,
    layout: &'a ShardLayout,
}

impl<'a> ShardWriter<'a> {
    /// Creates the files in a directory at their full size, with their headers. Content left by an
    /// interrupted run stays.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::File`].
    pub fn new(dir: &'a Path, layout: &'a ShardLayout) -> Result<Self, CheckpointError> {
        for file in &layout.files {
            let path = dir.join(&file.name);
            // Never writes through a link to somewhere else.
            if path.symlink_metadata().is_ok_and(|found| !found.is_file()) {
                fs::remove_file(&path).map_err(FileError::io(&path))?;
            }
            let made = File::options().write(true).create(true).truncate(false).open(&path);
            made.and_then(|mut made| {
                made.set_len(file.bytes)?;
                made.write_all(&file.head)
            })
            .map_err(FileError::io(&path))?;
        }
        Ok(Self { dir, layout })
    }

    /// Writes the content of a tensor, little-endian, row-major.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::File`].
    ///
    /// # Panics
    ///
    /// Panics if the tensor is not in the layout, or if the length of `data` does not match its
    /// type and shape.
    pub fn write(&self, tensor: &str, data: &[u8]) -> Result<(), CheckpointError> {
        let place = self.layout.places[tensor];
        assert_eq!(data.len() as u64, place.bytes, "data does not fit its shape");
        let data = match place.turned {
            Some(sides) => Cow::Owned(transposed(data, sides)),
            None => Cow::Borrowed(data),
        };
        let path = self.dir.join(&self.layout.files[place.file].name);
        let write = || {
            let mut file = File::options().write(true).open(&path)?;
            file.seek(SeekFrom::Start(place.start))?;
            file.write_all(&data)
        };
        Ok(write().map_err(FileError::io(&path))?)
    }

    /// The content of a tensor that was written.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::File`].
    ///
    /// # Panics
    ///
    /// Panics if the tensor is not in the layout.
    pub fn read(&self, tensor: &str) -> Result<Vec<u8>, CheckpointError> {
        let place = self.layout.places[tensor];
        let path = self.dir.join(&self.layout.files[place.file].name);
        let read = || {
            let mut file = File::open(&path)?;
            file.seek(SeekFrom::Start(place.start))?;
            let mut data = Vec::new();
            file.take(place.bytes).read_to_end(&mut data)?;
            Ok(data)
        };
        let data = read().map_err(FileError::io(&path))?;
        Ok(match place.turned {
            Some([rows, cols]) => transposed(&data, [cols, rows]),
            None => data,
        })
    }

    /// Hashes the stored content of some tensors, one after the other.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::File`].
    ///
    /// # Panics
    ///
    /// Panics if a tensor is not in the layout.
    pub fn digest(&self, tensors: &[TensorSpec]) -> Result<String, CheckpointError> {
        let mut hasher = blake3::Hasher::new();
        for tensor in tensors {
            let place = self.layout.places[&tensor.name];
            if place.turned.is_some() {
                hasher.update(&self.read(&tensor.name)?);
                continue;
            }
            let path = self.dir.join(&self.layout.files[place.file].name);
            let io = || FileError::io(&path);
            let mut file = File::open(&path).map_err(io())?;
            file.seek(SeekFrom::Start(place.start)).map_err(io())?;
            hasher.update_reader(file.take(place.bytes)).map_err(io())?;
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// Syncs the files and writes the shard index.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::File`].
    pub fn finish(self) -> Result<(), CheckpointError> {
        let ShardLayout { files, places, bytes, parameters } = self.layout;
        for file in files {
            let path = self.dir.join(&file.name);
            File::open(&path).and_then(|file| file.sync_all()).map_err(FileError::io(&path))?;
        }
        sync_dir(self.dir)?;
        if files.len() == 1 {
            return Ok(());
        }
        let file_of = |place: &Place| files[place.file].name.clone();
        let map: BTreeMap<&str, String> =
            places.iter().map(|(name, place)| (name.as_str(), file_of(place))).collect();
        write_index(self.dir, &index_of(&map, *bytes, *parameters))
    }
}

/// The name of a weight file, as on the Hub.
fn shard_name(index: usize, count: usize) -> String {
    match count {
        1 => "model.safetensors".into(),
        _ => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
    }
}

/// The shard index, from the file of every tensor.
fn index_of(weight_map: &BTreeMap<&str, String>, bytes: u64, parameters: u64) -> Value {
    json!({
        "metadata": { "total_size": bytes, "total_parameters": parameters },
        "weight_map": weight_map,
    })
}

/// Writes the shard index into a model directory.
fn write_index(dir: &Path, index: &Value) -> Result<(), CheckpointError> {
    Ok(write_file(dir.join(INDEX_FILE), format!("{index:#}").as_bytes())?)
}
