//! Hidden states in files, and those that a pass backward needs again, the last first.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};

use crate::files::FileError;

/// Bytes that are kept in memory.
pub(super) const MOST_IN_MEMORY: u64 = 1 << 30;

/// Of what kind the hidden states of all windows are.
#[derive(Debug, Clone)]
pub(super) struct Like {
    shape: [usize; 3],
    dtype: FloatDType,
    device: Device,
}

impl Like {
    pub fn of(states: &Tensor<3>) -> Self {
        let dtype = FloatDType::from(states.dtype());
        Self { shape: states.dims(), dtype, device: states.device() }
    }

    fn entries(&self) -> usize {
        self.shape.iter().product()
    }

    fn made_of(&self, numbers: Vec<f32>) -> Tensor<3> {
        let data = TensorData::new(numbers, self.shape);
        Tensor::<3>::from_data(data, (&self.device, DType::F32)).cast(self.dtype)
    }
}

/// Writes the hidden states of windows to a file, in f32, which holds every number of a narrower
/// type. Returns its digest.
pub(super) fn write_states(path: &Path, windows: &[Tensor<3>]) -> Result<String, FileError> {
    let io = || FileError::io(path);
    let mut file = File::create(path).map_err(io())?;
    let mut hasher = blake3::Hasher::new();
    for window in windows {
        let numbers = numbers_of(window);
        let bytes: &[u8] = bytemuck::cast_slice(&numbers);
        hasher.update(bytes);
        file.write_all(bytes).map_err(io())?;
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// Reads the hidden states of so many windows from a file.
pub(super) fn read_states(
    path: &Path,
    windows: usize,
    like: &Like,
) -> Result<Vec<Tensor<3>>, FileError> {
    let io = || FileError::io(path);
    let mut file = File::open(path).map_err(io())?;
    let window = |_| -> Result<Tensor<3>, FileError> {
        let mut numbers = vec![0.0f32; like.entries()];
        file.read_exact(bytemuck::cast_slice_mut(&mut numbers)).map_err(io())?;
        Ok(like.made_of(numbers))
    };
    (0..windows).map(window).collect()
}

fn numbers_of(states: &Tensor<3>) -> Vec<f32> {
    let numbers = states.clone().cast(FloatDType::F32).into_data();
    numbers.try_into_vec::<f32>().expect("it was cast")
}

/// The inputs of blocks, window by window: in memory while there is room, then in an unnamed file; or in
/// files that outlive the process.
#[derive(Debug)]
pub(super) struct HiddenStates {
    blocks: Vec<Block>,
    /// Bytes that may still be kept in memory.
    room: u64,
    /// Where files are made.
    dir: PathBuf,
    file: Option<File>,
    /// Bytes in the file.
    end: u64,
}

#[derive(Debug)]
enum Block {
    Memory(Vec<Tensor<3>>),
    /// In the unnamed file, one window after the other.
    File(Vec<Stored>),
    /// In a file of its own.
    Named(PathBuf, usize, Like),
}

/// A hidden state in the unnamed file.
#[derive(Debug)]
struct Stored {
    like: Like,
    /// At this byte.
    at: u64,
}

impl HiddenStates {
    /// None yet. The file is in the directory of another one, if it is needed.
    pub fn beside(path: &Path) -> Self {
        Self::within(path, MOST_IN_MEMORY)
    }

    fn within(path: &Path, room: u64) -> Self {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        let dir = dir.unwrap_or(Path::new(".")).into();
        Self { blocks: Vec::new(), room, dir, file: None, end: 0 }
    }

    /// Keeps the inputs of the next block in a file of its own. Returns the digest of the file.
    pub fn push_to(&mut self, path: PathBuf, windows: &[Tensor<3>]) -> Result<String, FileError> {
        let digest = write_states(&path, windows)?;
        if let Some(first) = windows.first() {
            self.push_known(path, windows.len(), Like::of(first));
        }
        Ok(digest)
    }

    /// Takes the inputs of the next block from such a file when they are needed.
    pub fn push_known(&mut self, path: PathBuf, windows: usize, like: Like) {
        self.blocks.push(Block::Named(path, windows, like));
    }

    /// Keeps the inputs of the last blocks no longer.
    pub fn forget(&mut self, blocks: usize) {
        self.blocks.truncate(self.blocks.len().saturating_sub(blocks));
    }

    /// Keeps the inputs of the next block.
    pub fn push(&mut self, windows: &[Tensor<3>]) -> Result<(), FileError> {
        let entries = |x: &Tensor<3>| x.dims().iter().map(|n| *n as u64).product::<u64>();
        let bytes = windows.iter().map(|x| 4 * entries(x)).sum();
        let block = match self.room.checked_sub(bytes) {
            Some(room) => {
                self.room = room;
                Block::Memory(windows.to_vec())
            }
            None => Block::File(windows.iter().map(|x| self.append(x)).collect::<Result<_, _>>()?),
        };
        self.blocks.push(block);
        Ok(())
    }

    /// The inputs of the last block that is kept, with its number, which are no longer kept then.
    pub fn pop(&mut self) -> Result<Option<(usize, Vec<Tensor<3>>)>, FileError> {
        let Some(block) = self.blocks.pop() else { return Ok(None) };
        let windows = match block {
            Block::Memory(windows) => windows,
            Block::File(stored) => {
                stored.into_iter().map(|stored| self.read(stored)).collect::<Result<_, _>>()?
            }
            Block::Named(path, windows, like) => read_states(&path, windows, &like)?,
        };
        Ok(Some((self.blocks.len(), windows)))
    }

    fn append(&mut self, x: &Tensor<3>) -> Result<Stored, FileError> {
        let stored = Stored { like: Like::of(x), at: self.end };
        let numbers = numbers_of(x);
        let bytes: &[u8] = bytemuck::cast_slice(&numbers);
        let io = || FileError::io(&self.dir);
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(tempfile::tempfile_in(&self.dir).map_err(io())?),
        };
        file.seek(SeekFrom::Start(self.end)).map_err(io())?;
        file.write_all(bytes).map_err(io())?;
        self.end += bytes.len() as u64;
        Ok(stored)
    }

    fn read(&mut self, Stored { like, at }: Stored) -> Result<Tensor<3>, FileError> {
        let numbers = read_at(self.file.as_mut(), at, like.entries());
        Ok(like.made_of(numbers.map_err(FileError::io(&self.dir))?))
    }
}

fn read_at(file: Option<&mut File>, at: u64, count: usize) -> io::Result<Vec<f32>> {
    let file = file.ok_or(io::ErrorKind::NotFound)?;
    let mut numbers = vec![0.0f32; count];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(bytemuck::cast_slice_mut(&mut numbers))?;
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_back_in_reverse_from_memory_and_from_the_file() {
        let device = Device::default();
        let dir = tempfile::tempdir().unwrap();
        let block = |number: usize| -> Vec<Tensor<3>> {
            let window = |window: usize| {
                let numbers = (0..6).map(|i| (100 * number + 10 * window + i) as f32).collect();
                Tensor::from_data(TensorData::new::<f32, _>(numbers, [1, 2, 3]), &device)
            };
            (0..2).map(window).collect()
        };
        // There is room for one block of two windows of six numbers.
        let mut states = HiddenStates::within(&dir.path().join("calibration"), 2 * 6 * 4);
        (0..3).for_each(|number| states.push(&block(number)).unwrap());
        for number in [2, 1, 0] {
            let (index, windows) = states.pop().unwrap().unwrap();
            assert_eq!(index, number);
            for (window, expected) in windows.into_iter().zip(block(number)) {
                assert_eq!(window.into_data(), expected.into_data());
            }
        }
        assert!(states.pop().unwrap().is_none());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the file has no name");
    }
}
