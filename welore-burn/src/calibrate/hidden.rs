//! Hidden states that a pass backward needs again, the last first.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};

use crate::files::FileError;

/// Bytes that are kept in memory.
const MOST_IN_MEMORY: u64 = 1 << 30;

/// The inputs of blocks, window by window: in memory while there is room, then in an unnamed file.
#[derive(Debug)]
pub(super) struct HiddenStates {
    blocks: Vec<Block>,
    /// Bytes that may still be kept in memory.
    room: u64,
    /// Where the file is made.
    dir: PathBuf,
    file: Option<File>,
    /// Bytes in the file.
    end: u64,
}

#[derive(Debug)]
enum Block {
    Memory(Vec<Tensor<3>>),
    /// One window after the other.
    File(Vec<Stored>),
}

/// A hidden state in the file, in f32, which holds every number of a narrower type.
#[derive(Debug)]
struct Stored {
    shape: [usize; 3],
    dtype: FloatDType,
    device: Device,
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
        };
        Ok(Some((self.blocks.len(), windows)))
    }

    fn append(&mut self, x: &Tensor<3>) -> Result<Stored, FileError> {
        let stored = Stored {
            shape: x.dims(),
            dtype: FloatDType::from(x.dtype()),
            device: x.device(),
            at: self.end,
        };
        let numbers = x.clone().cast(FloatDType::F32).into_data();
        let numbers = numbers.try_into_vec::<f32>().expect("it was cast");
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

    fn read(&mut self, stored: Stored) -> Result<Tensor<3>, FileError> {
        let Stored { shape, dtype, device, at } = stored;
        let numbers = read_at(self.file.as_mut(), at, shape.iter().product());
        let data = TensorData::new(numbers.map_err(FileError::io(&self.dir))?, shape);
        Ok(Tensor::<3>::from_data(data, (&device, DType::F32)).cast(dtype))
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
