//! Rounding the columns of a matrix in turn, so that later ones make up for earlier ones.

use faer::linalg::matmul::matmul;
use faer::linalg::triangular_solve::solve_lower_triangular_in_place;
use faer::{Accum, Mat, MatMut, MatRef, Par, get_global_parallelism};

use super::matrix::LinalgError;
use super::moments::{SecondMoment, root};

/// How the error of one column of a matrix is best made up for by the columns behind it, for inputs
/// of a second moment `C` (GPTQ, arXiv 2210.17323; as `L D Lᵀ` in QuIP, arXiv 2307.13304).
///
/// With `C = V⁻¹ D V⁻ᵀ`, `V` upper triangular with ones on its diagonal and `D` diagonal, an error
/// `e` of column `j` is made up for by subtracting `e · V[j, k]` from each column `k > j` that is
/// not rounded yet. What remains in the end, `tr(ΔW C ΔWᵀ)`, is the sum of `D[j, j] e²` over all
/// entries: each `e` is what was rounded away at its turn.
#[derive(Debug, Clone)]
pub struct Feedback {
    /// `V`, in columns.
    unit: Mat<f32>,
    /// The diagonal of `D`.
    weights: Vec<f64>,
}

impl Feedback {
    /// For inputs of this second moment, with `shrink` times the mean of its diagonal added to the
    /// diagonal. GPTQ has 0.01.
    ///
    /// # Errors
    ///
    /// [`LinalgError::NotFinite`], [`LinalgError::NoConvergence`].
    pub fn new(inputs: &SecondMoment, shrink: f64) -> Result<Self, LinalgError> {
        let (size, mean) = (inputs.size(), inputs.shrunk(shrink));
        // An upper root is the lower one of the reversed matrix; so C is never inverted.
        let turn = |i: usize| size - 1 - i;
        let lower = root(&Mat::from_fn(size, size, |i, j| mean[(turn(i), turn(j))]))?;
        let mut inverse = Mat::<f64>::identity(size, size);
        solve_lower_triangular_in_place(lower.as_ref(), inverse.as_mut(), get_global_parallelism());
        let unit = Mat::from_fn(size, size, |i, j| {
            let (i, j) = (turn(i), turn(j));
            (inverse[(i, j)] * lower[(i, i)]) as f32
        });
        let weights = (0..size).map(|i| lower[(turn(i), turn(i))].powi(2)).collect();
        Ok(Self { unit, weights })
    }

    /// Number of columns.
    pub fn size(&self) -> usize {
        self.weights.len()
    }

    /// What the square of an error costs that is rounded away at the turn of each column.
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> u64 {
        (self.size() * (self.size() * size_of::<f32>() + size_of::<f64>())) as u64
    }

    /// Goes through the columns of a matrix, `width` at a time, and through the rows of each of
    /// these blocks: `choose` gets the row, the first column, and the block. It rounds all entries
    /// of the block with [`FedBlock::round`]. In the end the matrix, row-major, has what the entries
    /// were rounded to.
    ///
    /// # Panics
    ///
    /// Panics if rows are not as long as there are columns here, or not multiples of `width`.
    pub fn pass(
        &self,
        matrix: &mut [f32],
        width: usize,
        mut choose: impl FnMut(usize, usize, FedBlock<'_>),
    ) {
        let columns = self.size();
        assert!(
            columns > 0 && matrix.len().is_multiple_of(columns) && columns.is_multiple_of(width),
            "there are whole rows of whole blocks"
        );
        let rows = matrix.len() / columns;
        let mut errors = vec![0.0; rows * width];
        for from in (0..columns).step_by(width) {
            let (next, rest) = (from + width, columns - from - width);
            let corner = self.unit.as_ref().submatrix(from, from, width, width);
            let corner: Vec<f32> =
                (0..width * width).map(|at| corner[(at / width, at % width)]).collect();
            for (row, errors) in errors.chunks_exact_mut(width).enumerate() {
                let entries = &mut matrix[row * columns + from..][..width];
                choose(row, from, FedBlock { entries, errors, corner: &corner });
            }
            if rest > 0 {
                matmul(
                    MatMut::from_row_major_slice_mut(matrix, rows, columns)
                        .submatrix_mut(0, next, rows, rest),
                    Accum::Add,
                    MatRef::from_row_major_slice(&errors, rows, width),
                    self.unit.as_ref().submatrix(from, next, width, rest),
                    -1.0f32,
                    Par::Seq,
                );
            }
        }
    }
}

/// A block of a row that is rounded; see [`Feedback::pass`].
#[derive(Debug)]
pub struct FedBlock<'a> {
    entries: &'a mut [f32],
    errors: &'a mut [f32],
    /// The part of `V` for these columns, row-major.
    corner: &'a [f32],
}

impl FedBlock<'_> {
    /// The entries, as the columns before them left them.
    pub fn entries(&self) -> &[f32] {
        self.entries
    }

    /// Rounds the entries in turn: `nearest` gets the place of each in the block and what it is by
    /// then, and returns what it becomes.
    pub fn round(self, mut nearest: impl FnMut(usize, f32) -> f32) {
        let width = self.entries.len();
        for at in 0..width {
            let (entry, later) = self.entries[at..].split_first_mut().expect("an entry is here");
            let rounded = nearest(at, *entry);
            let error = *entry - rounded;
            (*entry, self.errors[at]) = (rounded, error);
            let share = &self.corner[at * width + at + 1..][..later.len()];
            later.iter_mut().zip(share).for_each(|(entry, share)| *entry -= error * share);
        }
    }
}
