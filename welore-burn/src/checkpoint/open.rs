//! Opens the files of a checkpoint: one, or the shards that an index names.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::ErrorKind;
use std::path::{Component, Path};

use safetensors::{SafeTensorError, SafeTensors};
use serde::Deserialize;

use super::error::{CheckpointError, MissingKind};
use super::reader::{Checkpoint, Shard};
use super::shards::LONGEST_HEADER;
use super::tensor_meta::TensorMeta;
use crate::artifact::in_words;
use crate::files::{FileError, LARGEST_INDEX, MappedFile, read_file};

const SINGLE_FILE: &str = "model.safetensors";
const INDEX_FILE: &str = "model.safetensors.index.json";

/// The most tensors of a model.
pub(super) const MOST_TENSORS: usize = 1 << 20;

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

/// Checks that there is a directory, or says that looking for it is not permitted.
pub(crate) fn check_directory(dir: &Path) -> Result<(), CheckpointError> {
    match dir.metadata() {
        Ok(found) if found.is_dir() => Ok(()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Err(FileError::io(dir)(error).into())
        }
        _ => Err(CheckpointError::Missing { path: dir.into(), what: MissingKind::Directory }),
    }
}

impl Checkpoint {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    ///
    /// # Errors
    ///
    /// [`CheckpointError`] for a missing directory or file, a broken header or index, an
    /// index that names a file elsewhere, or a tensor that is missing from its shard.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let dir = dir.as_ref();
        let missing = |path: &Path, what| CheckpointError::Missing { path: path.into(), what };
        check_directory(dir)?;
        let mut checkpoint = Self::empty(dir);
        let (single, index) = (dir.join(SINGLE_FILE), dir.join(INDEX_FILE));
        if single.is_file() {
            checkpoint.add_shard(&single)?;
        } else if index.is_file() {
            checkpoint.add_indexed_shards(&index)?;
        } else {
            return Err(missing(&single, MissingKind::Weights));
        }
        checkpoint.check_not_foreign()?;
        let checkpoint = checkpoint.with_scales()?.with_turned_layers();
        Ok(checkpoint.with_factored_convolutions().in_order())
    }

    /// Opens a single safetensors file of any kind.
    ///
    /// # Errors
    ///
    /// [`CheckpointError`] for a missing file or a broken header.
    pub fn open_file(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let path = path.as_ref();
        if !path.is_file() {
            let what = MissingKind::File;
            return Err(CheckpointError::Missing { path: path.into(), what });
        }
        let mut checkpoint = Self::empty(path);
        checkpoint.add_shard(path)?;
        Ok(checkpoint.in_order())
    }

    fn add_indexed_shards(&mut self, path: &Path) -> Result<(), CheckpointError> {
        let broken = |reason: String| CheckpointError::Index { path: path.into(), reason };
        let text = read_file(path, LARGEST_INDEX)?;
        let index: ShardIndex = serde_json::from_slice(&text)
            .map_err(|error| broken(format!("not a shard index: {}", in_words(&error))))?;
        let mut files: Vec<&String> = index.weight_map.values().collect();
        files.sort();
        files.dedup();
        for file in files {
            let mut parts = Path::new(file).components();
            let plain =
                matches!(parts.next(), Some(Component::Normal(_))) && parts.next().is_none();
            if !plain {
                return Err(broken(format!("names a file outside its directory: `{file}`")));
            }
            self.add_shard(&self.dir().join(file))?;
        }
        match index.weight_map.keys().find(|name| !self.tensors.contains_key(*name)) {
            Some(name) => Err(broken(format!("names tensor `{name}`, which no shard has"))),
            None => Ok(()),
        }
    }

    fn add_shard(&mut self, path: &Path) -> Result<(), CheckpointError> {
        let broken = |reason: String| CheckpointError::Header { path: path.into(), reason };
        let missing = || CheckpointError::Missing { path: path.into(), what: MissingKind::Shard };
        let map = MappedFile::open(path)?.ok_or_else(missing)?;
        let length = map.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        if length > LONGEST_HEADER as u64 {
            return Err(broken(format!("its header has more than {LONGEST_HEADER} bytes")));
        }
        let (header, metadata) =
            SafeTensors::read_metadata(&map).map_err(|error| broken(header_problem(&error)))?;
        let data_start = header + size_of::<u64>();
        let shard = self.shards.len();
        for (name, info) in metadata.tensors() {
            let meta = TensorMeta {
                dtype: info.dtype,
                shape: info.shape.clone(),
                range: info.data_offsets,
            };
            match self.tensors.entry(name) {
                Entry::Vacant(entry) => {
                    entry.insert((shard, meta));
                }
                Entry::Occupied(entry) => {
                    return Err(broken(format!(
                        "tensor `{}` is also in another shard",
                        entry.key()
                    )));
                }
            }
        }
        if self.tensors.len() > MOST_TENSORS {
            return Err(broken(format!("the model has more than {MOST_TENSORS} tensors")));
        }
        self.shards.push(Shard { map, data_start });
        Ok(())
    }
}

/// What is wrong with a header, in words where the parser names types of Rust.
fn header_problem(error: &SafeTensorError) -> String {
    match error {
        SafeTensorError::InvalidHeaderDeserialization(error) => {
            format!("invalid JSON in its header: {}", in_words(error))
        }
        SafeTensorError::InvalidHeader(_) => "its header is not UTF-8 text".into(),
        other => other.to_string(),
    }
}
