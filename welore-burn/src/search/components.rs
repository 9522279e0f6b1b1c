//! The components of decomposed matrices, the largest first.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::error::SearchError;
use crate::files::FileError;
use crate::forms::Part;
use crate::linalg::{BalancedFactors, LinalgError, Matrix};
use crate::modules::MatrixName;

/// Components of matrices, in memory while there is room and then in an unnamed file.
#[derive(Debug)]
pub(super) struct Components {
    kept: BTreeMap<MatrixName, Kept>,
    /// Bytes that may still be kept in memory.
    room: u64,
    /// Where the file is made.
    dir: PathBuf,
    file: Option<File>,
}

/// The components of a matrix, one after the other: a column of the left factor, then a row of the
/// right one. So the best factors of a lower rank come first.
#[derive(Debug)]
struct Kept {
    /// `[out, in]`.
    shape: [usize; 2],
    rank: usize,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Memory(Vec<f32>),
    /// At this byte of the file.
    File(u64),
}

impl Components {
    /// None yet. At most `memory` bytes are kept in memory; the rest is in a file in `dir`.
    pub fn new(dir: &Path, memory: u64) -> Self {
        Self { kept: BTreeMap::new(), room: memory, dir: dir.into(), file: None }
    }

    /// The number of components of a matrix; 0 if there are none.
    pub fn rank(&self, name: &MatrixName) -> usize {
        self.kept.get(name).map_or(0, |kept| kept.rank)
    }

    /// Keeps the components of a matrix, in place of those that were kept before.
    pub fn keep(&mut self, name: &MatrixName, factors: &BalancedFactors) -> Result<(), FileError> {
        if let Some(Kept { place: Place::Memory(numbers), .. }) = self.kept.remove(name) {
            self.room += bytes_of(numbers.len());
        }
        let numbers = interleaved(factors);
        let bytes = bytes_of(numbers.len());
        let place = match self.room.checked_sub(bytes) {
            Some(room) => {
                self.room = room;
                Place::Memory(numbers)
            }
            None => Place::File(self.append(&numbers)?),
        };
        let shape = [factors.left.rows(), factors.right.cols()];
        self.kept.insert(name.clone(), Kept { shape, rank: factors.rank(), place });
        Ok(())
    }

    /// The best factors of a matrix at a rank, as the parts of two factors.
    pub fn parts(&mut self, name: &MatrixName, rank: usize) -> Result<Vec<Part>, SearchError> {
        let failed = |source| SearchError::Linalg { name: name.clone(), source };
        let missing = || SearchError::Missing { name: name.clone() };
        let kept = self.kept.get(name).filter(|kept| kept.rank >= rank).ok_or_else(missing)?;
        let [out, inputs] = kept.shape;
        let count = rank * (out + inputs);
        let parts = match &kept.place {
            Place::Memory(numbers) => parts(&numbers[..count], kept.shape),
            Place::File(at) => {
                let read = read_at(self.file.as_mut(), *at, count);
                parts(&read.map_err(FileError::io(&self.dir))?, kept.shape)
            }
        };
        parts.map_err(failed)
    }

    /// Writes numbers to the end of the file, and returns their place.
    fn append(&mut self, numbers: &[f32]) -> Result<u64, FileError> {
        let io = || FileError::io(&self.dir);
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(tempfile::tempfile_in(&self.dir).map_err(io())?),
        };
        let at = file.seek(SeekFrom::End(0)).map_err(io())?;
        file.write_all(bytemuck::cast_slice(numbers)).map_err(io())?;
        Ok(at)
    }
}

fn bytes_of(numbers: usize) -> u64 {
    (numbers * size_of::<f32>()) as u64
}

fn read_at(file: Option<&mut File>, at: u64, count: usize) -> io::Result<Vec<f32>> {
    let file = file.ok_or(io::ErrorKind::NotFound)?;
    let mut numbers = vec![0.0f32; count];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(bytemuck::cast_slice_mut(&mut numbers))?;
    Ok(numbers)
}

fn interleaved(factors: &BalancedFactors) -> Vec<f32> {
    let (rank, left) = (factors.rank(), factors.left.data());
    let cols = factors.right.cols();
    let rows = factors.right.data().chunks_exact(cols);
    let mut numbers = Vec::with_capacity(rank * (factors.left.rows() + cols));
    for (number, row) in rows.enumerate() {
        numbers.extend(left[number..].iter().step_by(rank).map(|x| *x as f32));
        numbers.extend(row.iter().map(|x| *x as f32));
    }
    numbers
}

/// The parts of two factors: the right one `[rank, in]`, then the left one `[out, rank]`.
fn parts(numbers: &[f32], [out, inputs]: [usize; 2]) -> Result<Vec<Part>, LinalgError> {
    let components = || numbers.chunks_exact(out + inputs);
    let rank = components().len();
    let right = components().flat_map(|both| &both[out..]).map(|x| f64::from(*x)).collect();
    let mut left = vec![0.0; out * rank];
    for (number, both) in components().enumerate() {
        for (row, x) in both[..out].iter().enumerate() {
            left[row * rank + number] = f64::from(*x);
        }
    }
    let (right, left) = (Matrix::new(rank, inputs, right)?, Matrix::new(out, rank, left)?);
    Ok(vec![Part::Numbers(right), Part::Numbers(left)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_components_come_back_from_memory_and_from_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let left = Matrix::new(2, 2, vec![1.0, 2.0, 3.0, 4.0]).unwrap();
        let right = Matrix::new(2, 3, vec![5.0, 6.0, 7.0, 8.0, 9.0, 10.0]).unwrap();
        let factors = BalancedFactors { left, right, relative_error: 0.0, size: 1.0 };
        let (a, b) = (MatrixName::from("a"), MatrixName::from("b"));
        // There is room for one of them.
        let mut components = Components::new(dir.path(), 2 * 5 * 4);
        components.keep(&a, &factors).unwrap();
        components.keep(&b, &factors).unwrap();
        components.keep(&a, &factors).unwrap();
        for name in [&a, &b] {
            assert_eq!(components.rank(name), 2);
            let whole =
                vec![Part::Numbers(factors.right.clone()), Part::Numbers(factors.left.clone())];
            assert_eq!(components.parts(name, 2).unwrap(), whole);
            let first = vec![
                Part::Numbers(Matrix::new(1, 3, vec![5.0, 6.0, 7.0]).unwrap()),
                Part::Numbers(Matrix::new(2, 1, vec![1.0, 3.0]).unwrap()),
            ];
            assert_eq!(components.parts(name, 1).unwrap(), first);
            assert!(components.parts(name, 3).is_err());
        }
        assert!(components.file.is_some());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the file has no name");
    }
}
