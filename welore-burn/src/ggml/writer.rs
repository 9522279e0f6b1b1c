use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Cursor, Write};
use std::path::Path;

use anamnesis::{GgufMetadataValue as Value, write_gguf_to_writer};

use super::error::ContainerError;
use super::written_type::WrittenType;
use crate::files::{FileError, StagedFile};

/// Tensors begin at multiples of this many bytes, llama.cpp's default.
pub(crate) const ALIGNMENT: usize = 32;

/// The name of the file while it is written.
const STAGED: &str = "model.gguf";

/// A tensor of a file that will be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufTensorSpec {
    /// Its name, as llama.cpp calls it.
    pub name: String,
    /// Its dimensions, rows first as in Hugging Face's files; the file has them the other way round.
    pub shape: Vec<usize>,
    /// Its type.
    pub dtype: WrittenType,
}

impl GgufTensorSpec {
    /// Number of bytes that the tensor takes, without the padding behind it.
    ///
    /// # Errors
    ///
    /// [`ContainerError::Unwritable`] if its rows do not fill the blocks of its type.
    pub fn bytes(&self) -> Result<usize, ContainerError> {
        let unwritable = |reason| ContainerError::Unwritable { tensor: self.name.clone(), reason };
        let (columns, outer) = self.shape.split_last().unwrap_or((&1, &[]));
        let Some(row) = self.dtype.row_bytes(*columns) else {
            let (name, block) = (self.dtype.name(), self.dtype.block_len());
            let reason =
                format!("has rows of {columns} entries; {name} needs a multiple of {block}");
            return Err(unwritable(reason));
        };
        let bytes = outer.iter().try_fold(row, |product, side| product.checked_mul(*side));
        bytes.ok_or_else(|| unwritable(format!("is too large: {:?}", self.shape)))
    }
}

/// Where everything is in a file that will be written, so its size is known before its tensors are.
#[derive(Debug, Clone)]
pub struct GgufLayout {
    header: Vec<u8>,
    /// The bytes of each tensor, and of the padding behind it.
    places: Vec<(String, usize, usize)>,
}

impl GgufLayout {
    /// Lays out a file of these keys and values, and these tensors in this order.
    ///
    /// # Errors
    ///
    /// [`ContainerError::Unwritable`] for a tensor that cannot have its type, and for two of one
    /// name.
    pub fn new(
        metadata: &HashMap<String, Value>,
        tensors: &[GgufTensorSpec],
    ) -> Result<Self, ContainerError> {
        let mut keys = Cursor::new(Vec::new());
        write_gguf_to_writer(&mut keys, &[], metadata)
            .map_err(|error| ContainerError::Values { reason: error.to_string() })?;
        let mut header = keys.into_inner();
        // The library wrote a file without tensors, whose number is behind magic and version.
        header[8..16].copy_from_slice(&(tensors.len() as u64).to_le_bytes());
        let (mut places, mut offset) = (Vec::<(String, usize, usize)>::new(), 0);
        for tensor in tensors {
            if places.iter().any(|(name, ..)| *name == tensor.name) {
                let reason = "is there twice".into();
                return Err(ContainerError::Unwritable { tensor: tensor.name.clone(), reason });
            }
            let bytes = tensor.bytes()?;
            header.extend_from_slice(&(tensor.name.len() as u64).to_le_bytes());
            header.extend_from_slice(tensor.name.as_bytes());
            header.extend_from_slice(&(tensor.shape.len() as u32).to_le_bytes());
            for side in tensor.shape.iter().rev() {
                header.extend_from_slice(&(*side as u64).to_le_bytes());
            }
            header.extend_from_slice(&tensor.dtype.code().to_le_bytes());
            header.extend_from_slice(&(offset as u64).to_le_bytes());
            let padding = bytes.next_multiple_of(ALIGNMENT) - bytes;
            offset += bytes + padding;
            places.push((tensor.name.clone(), bytes, padding));
        }
        header.resize(header.len().next_multiple_of(ALIGNMENT), 0);
        Ok(Self { header, places })
    }

    /// Number of bytes of a tensor, with the padding behind it; 0 if there is none of this name.
    pub fn bytes_of(&self, name: &str) -> u64 {
        let place = self.places.iter().find(|(tensor, ..)| tensor == name);
        place.map_or(0, |(_, bytes, padding)| (bytes + padding) as u64)
    }

    /// Number of bytes of the whole file.
    pub fn bytes(&self) -> u64 {
        let tensors: usize = self.places.iter().map(|(_, bytes, padding)| bytes + padding).sum();
        (self.header.len() + tensors) as u64
    }
}

/// A GGUF file that is written tensor by tensor, in the order of its layout. It appears at its place
/// when it is complete, or not at all.
#[derive(Debug)]
pub struct GgufWriter<'a> {
    layout: &'a GgufLayout,
    staged: StagedFile,
    file: BufWriter<File>,
    next: usize,
    /// Bytes of the next tensor that are in the file already.
    begun: usize,
}

impl<'a> GgufWriter<'a> {
    /// Begins a file.
    ///
    /// # Errors
    ///
    /// [`ContainerError::File`], for example for a place where no file can be.
    pub fn create(path: &Path, layout: &'a GgufLayout) -> Result<Self, ContainerError> {
        let staged = StagedFile::create(path)?;
        let at = staged.dir().join(STAGED);
        let io = |error| staged.name_target(FileError::io(&at)(error));
        let mut file = BufWriter::new(File::create(&at).map_err(io)?);
        file.write_all(&layout.header).map_err(io)?;
        Ok(Self { layout, staged, file, next: 0, begun: 0 })
    }

    /// Writes the next tensor: `data` as its type stores it, row-major.
    ///
    /// # Errors
    ///
    /// [`ContainerError::File`].
    ///
    /// # Panics
    ///
    /// If `name` is not the next one of the layout, or `data` does not have its size.
    pub fn write(&mut self, name: &str, data: &[u8]) -> Result<(), ContainerError> {
        let (_, bytes, _) = &self.layout.places[self.next];
        assert_eq!(data.len(), *bytes, "tensor `{name}` has the size of its type");
        self.append(name, data)
    }

    /// Writes the next part of a tensor, such as the matrix of one expert. When all of it is there, the
    /// next tensor follows.
    ///
    /// # Errors
    ///
    /// [`ContainerError::File`].
    ///
    /// # Panics
    ///
    /// If `name` is not the next one of the layout, or has fewer bytes left than `data`.
    pub fn append(&mut self, name: &str, data: &[u8]) -> Result<(), ContainerError> {
        let (expected, bytes, padding) = &self.layout.places[self.next];
        assert_eq!(name, expected, "tensors come in the order of the layout");
        self.begun += data.len();
        assert!(self.begun <= *bytes, "tensor `{name}` has the size of its type");
        let mut written = self.file.write_all(data);
        if self.begun == *bytes {
            written = written.and_then(|()| self.file.write_all(&[0; ALIGNMENT][..*padding]));
            (self.next, self.begun) = (self.next + 1, 0);
        }
        Ok(written.map_err(|error| self.named(error))?)
    }

    /// Puts the complete file at its place.
    ///
    /// # Errors
    ///
    /// [`ContainerError::File`].
    ///
    /// # Panics
    ///
    /// If tensors are missing.
    pub fn finish(mut self) -> Result<(), ContainerError> {
        assert_eq!(self.next, self.layout.places.len(), "every tensor is written");
        let synced = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        synced.map_err(|error| self.named(error))?;
        Ok(self.staged.commit(STAGED)?)
    }

    fn named(&self, error: std::io::Error) -> FileError {
        self.staged.name_target(FileError::io(self.staged.dir().join(STAGED))(error))
    }
}
