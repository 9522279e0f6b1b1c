use std::collections::{BTreeMap, HashMap};
use std::io::Cursor;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anamnesis::{
    AnamnesisError, GgufMetadataArray as Array, GgufMetadataValue as Value, GgufTensorInfo,
    GgufType, ParseLimits, parse_gguf_front_matter_from_reader_with_limits,
};

use super::error::ContainerError;
use crate::files::MappedFile;

/// The most bytes that metadata may take in memory; the largest vocabularies take a tenth of it.
const MOST_METADATA: u64 = 1 << 30;

/// A GGUF file, memory-mapped, or the files of one model. Their headers were checked: every tensor lies
/// within its file and none shares bytes with another.
#[derive(Debug)]
pub(crate) struct GgufFile {
    /// In order; the first one has the metadata.
    files: Vec<OneFile>,
    metadata: HashMap<String, Value>,
    tensors: BTreeMap<String, StoredTensor>,
}

#[derive(Debug)]
struct OneFile {
    path: PathBuf,
    map: MappedFile,
}

/// A tensor as a file has it.
#[derive(Debug)]
pub(crate) struct StoredTensor {
    pub name: String,
    /// The fastest-varying dimension first.
    pub shape: Vec<usize>,
    pub dtype: GgufType,
    /// The number of its file.
    file: usize,
    bytes: Range<usize>,
}

impl StoredTensor {
    /// The parser checked that it lies within the file, so it fits `usize`.
    fn new(info: GgufTensorInfo) -> Self {
        let start = info.data_offset as usize;
        let bytes = start..start + info.byte_len.unwrap_or(0) as usize;
        Self { name: info.name, shape: info.shape, dtype: info.dtype, file: 0, bytes }
    }
}

impl GgufFile {
    /// Opens one file, whatever it says of others.
    pub(super) fn open_alone(path: &Path) -> Result<Self, ContainerError> {
        let missing = || ContainerError::Missing { path: path.into() };
        if !path.is_file() {
            return Err(missing());
        }
        let broken = |reason| ContainerError::Header { path: path.into(), reason };
        let map = MappedFile::open(path)?.ok_or_else(missing)?;
        let limits = ParseLimits::default().with_max_total_bytes(MOST_METADATA);
        // Not the library's own memory map, which reads all pages of the file at once.
        let header =
            parse_gguf_front_matter_from_reader_with_limits(Cursor::new(&map[..]), &limits)
                .map_err(|error| match error {
                    AnamnesisError::Unsupported { detail: reason, .. } => {
                        ContainerError::Unsupported { path: path.into(), reason }
                    }
                    other => broken(other.to_string()),
                })?;
        let mut tensors = BTreeMap::new();
        for info in header.tensor_infos {
            let name = info.name.clone();
            if tensors.insert(name.clone(), StoredTensor::new(info)).is_some() {
                return Err(broken(format!("there are two tensors `{name}`")));
            }
        }
        let files = vec![OneFile { path: path.into(), map }];
        Ok(Self { files, metadata: header.metadata, tensors })
    }

    /// Adds the tensors of another file, whose metadata are forgotten.
    pub(super) fn absorb(&mut self, other: Self) -> Result<(), ContainerError> {
        let first = self.files.len();
        for (name, mut tensor) in other.tensors {
            tensor.file += first;
            if let Some(present) = self.tensors.get(&name) {
                let twice = self.files[present.file].path.display();
                let path = other.files[tensor.file - first].path.clone();
                let reason = format!("has a tensor `{name}`, which is also in {twice}");
                return Err(ContainerError::Part { path, reason });
            }
            self.tensors.insert(name, tensor);
        }
        self.files.extend(other.files);
        Ok(())
    }

    /// The file with the metadata.
    pub fn path(&self) -> &Path {
        &self.files[0].path
    }

    /// All files, in order.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// The file that a tensor is in.
    pub fn path_of(&self, tensor: &StoredTensor) -> &Path {
        &self.files[tensor.file].path
    }

    pub fn tensors(&self) -> &BTreeMap<String, StoredTensor> {
        &self.tensors
    }

    /// The stored bytes of a tensor.
    pub fn bytes(&self, tensor: &StoredTensor) -> &[u8] {
        &self.files[tensor.file].map[tensor.bytes.clone()]
    }

    /// Releases the pages of a tensor that were read; see [`MappedFile::release`].
    pub fn release(&self, tensor: &StoredTensor) {
        self.files[tensor.file].map.release(tensor.bytes.clone());
    }

    /// Checks that nobody has written to the files since they were opened.
    pub fn check_unchanged(&self) -> Result<(), ContainerError> {
        self.files.iter().try_for_each(|file| Ok(file.map.check_unchanged()?))
    }

    pub fn text(&self, key: &str) -> Result<Option<&str>, ContainerError> {
        self.get(key, "a string", Value::as_string)
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>, ContainerError> {
        self.get(key, "true or false", Value::as_bool)
    }

    /// A whole number that is not negative, of any width.
    pub fn integer(&self, key: &str) -> Result<Option<u64>, ContainerError> {
        self.get(key, "a whole number", |value| match value {
            Value::U8(x) => Some(u64::from(*x)),
            Value::U16(x) => Some(u64::from(*x)),
            Value::U32(x) => Some(u64::from(*x)),
            Value::U64(x) => Some(*x),
            Value::I8(x) => u64::try_from(*x).ok(),
            Value::I16(x) => u64::try_from(*x).ok(),
            Value::I32(x) => u64::try_from(*x).ok(),
            Value::I64(x) => u64::try_from(*x).ok(),
            _ => None,
        })
    }

    /// A finite number. An f32 is read as the shortest decimal that rounds to it, which is what the
    /// model's own configuration had: 1e-5, not 9.999999747378752e-6.
    pub fn number(&self, key: &str) -> Result<Option<f64>, ContainerError> {
        let read = |value: &Value| match value {
            Value::F32(x) => x.to_string().parse::<f64>().ok().filter(|x| x.is_finite()),
            Value::F64(x) => Some(*x).filter(|x| x.is_finite()),
            _ => None,
        };
        self.get(key, "a finite number", read)
    }

    pub fn texts(&self, key: &str) -> Result<Option<&[String]>, ContainerError> {
        self.array(key, "a list of strings", Array::as_string_slice)
    }

    pub fn integers(&self, key: &str) -> Result<Option<&[i32]>, ContainerError> {
        self.array(key, "a list of whole numbers", Array::as_i32_slice)
    }

    /// A list of whole numbers that are not negative, of 32 bits; `None` if there is no list.
    pub fn list(&self, key: &str) -> Option<Result<Vec<u32>, ContainerError>> {
        let read = |list: &Array| match list {
            Array::U32(list) => Some(list.clone()),
            Array::I32(list) => list.iter().map(|x| u32::try_from(*x).ok()).collect(),
            _ => None,
        };
        let list = self.metadata.get(key)?.as_array()?;
        let wrong = || self.wrong(key, "is not a list of whole numbers".into());
        Some(read(list).ok_or_else(wrong))
    }

    /// A list of true and false, also as numbers; `None` if there is no list.
    pub fn flags(&self, key: &str) -> Option<Result<Vec<bool>, ContainerError>> {
        match self.metadata.get(key)?.as_array()? {
            Array::Bool(list) => Some(Ok(list.clone())),
            _ => Some(self.list(key)?.map(|list| list.iter().map(|x| *x != 0).collect())),
        }
    }

    pub fn numbers(&self, key: &str) -> Result<Option<&[f32]>, ContainerError> {
        self.array(key, "a list of numbers", Array::as_f32_slice)
    }

    /// The value of a key that every file of this kind must have.
    pub fn needed<T>(&self, key: &str, value: Option<T>) -> Result<T, ContainerError> {
        value.ok_or_else(|| self.wrong(key, "is missing".into()))
    }

    /// An error about the value of a key.
    pub fn wrong<E: From<ContainerError>>(&self, key: &str, reason: String) -> E {
        ContainerError::Metadata { path: self.path().into(), key: key.into(), reason }.into()
    }

    /// An error about a tensor.
    pub fn wrong_tensor<E: From<ContainerError>>(&self, tensor: &str, reason: String) -> E {
        let path = self.tensors.get(tensor).map_or(self.path(), |found| self.path_of(found));
        ContainerError::Tensor { path: path.into(), tensor: tensor.into(), reason }.into()
    }

    fn get<'a, T>(
        &'a self,
        key: &str,
        what: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ContainerError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(value) => match read(value) {
                Some(value) => Ok(Some(value)),
                None => Err(self.wrong(key, format!("is not {what}"))),
            },
        }
    }

    fn array<'a, T: ?Sized>(
        &'a self,
        key: &str,
        what: &str,
        read: impl FnOnce(&'a Array) -> Option<&'a T>,
    ) -> Result<Option<&'a T>, ContainerError> {
        self.get(key, what, |value| value.as_array().and_then(read))
    }
}
