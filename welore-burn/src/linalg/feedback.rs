//! Rounding the columns of a matrix in turn, so that later ones make up for earlier ones.

use faer::linalg::matmul::matmul;
use faer::linalg::triangular_solve::solve_lower_triangular_in_place;
use faer::{Accum, Mat, MatMut, MatRef, Par, get_global_parallelism};
use rayon::prelude::*;

use super::matrix::LinalgError;
use super::moments::{SecondMoment, root};

/// Rows whose shifts are computed together; see [`Feedback::pass_both`].
const ROWS_AT_ONCE: usize = 64;

/// How the error of one column of a matrix is best made up for by the columns behind it, for inputs
/// of a second moment `C` (GPTQ, arXiv 2210.17323; as `L D Lᵀ` in QuIP, arXiv 2307.13304).
///
/// With `C = V⁻¹ D V⁻ᵀ`, `V` upper triangular with ones on its diagonal and `D` diagonal, an error
/// `e` of column `j` is made up for by subtracting `e · V[j, k]` from each column `k > j` that is
/// not rounded yet. What remains in the end, `tr(ΔW C ΔWᵀ)`, is the sum of `D[j, j] e²` over all
/// entries: each `e` is what was rounded away at its turn.
#[derive(Debug, Clone)]
pub struct Feedback {
    /// `V`, in columns; `None` for the identity, which can be too large to write out.
    unit: Option<Mat<f32>>,
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
        Self::of_mean(&inputs.damped(shrink))
    }

    /// For inputs whose second moment has the lower half of this matrix.
    pub(super) fn of_mean(mean: &Mat<f64>) -> Result<Self, LinalgError> {
        let size = mean.nrows();
        // An upper root is the lower one of the reversed matrix; so C is never inverted.
        let turn = |i: usize| size - 1 - i;
        let entry = |i: usize, j: usize| mean[(turn(i).max(turn(j)), turn(i).min(turn(j)))];
        let lower = root(&Mat::from_fn(size, size, entry))?;
        let mut inverse = Mat::<f64>::identity(size, size);
        solve_lower_triangular_in_place(lower.as_ref(), inverse.as_mut(), get_global_parallelism());
        let unit = Mat::from_fn(size, size, |i, j| {
            let (i, j) = (turn(i), turn(j));
            (inverse[(i, j)] * lower[(i, i)]) as f32
        });
        let weights = (0..size).map(|i| lower[(turn(i), turn(i))].powi(2)).collect();
        Ok(Self { unit: Some(unit), weights })
    }

    /// For inputs that are not correlated and all of one size: nothing makes up for anything.
    pub fn even(size: usize) -> Self {
        Self { unit: None, weights: vec![1.0; size] }
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
        let entries = self.unit.as_ref().map_or(0, |unit| unit.nrows() * unit.ncols());
        (entries * size_of::<f32>() + self.size() * size_of::<f64>()) as u64
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
        assert!(columns.is_multiple_of(width), "rows are whole blocks");
        let rows = self.rows_of(matrix);
        let mut errors = vec![0.0; rows * width];
        for from in (0..columns).step_by(width) {
            let corner = self.corner(from, width);
            for (row, errors) in errors.chunks_exact_mut(width).enumerate() {
                let entries = &mut matrix[row * columns + from..][..width];
                choose(row, from, FedBlock { entries, errors, corner: &corner, between: None });
            }
            self.hand_on(matrix, &errors, from, width);
        }
    }

    /// The same for rows that make up for each other as well, so that `tr(G ΔW C ΔWᵀ)` is small for
    /// the second moment `G` of the gradients of the outputs, which `outputs` is of (YAQA, arXiv
    /// 2505.22988, within blocks). With `G = V⁻¹ D V⁻ᵀ`, what is rounded away of an entry at its turn,
    /// `u`, is made up for by subtracting `u · V[i, k]` from the same column of each later row `k`.
    /// The trace is the sum of `u²`, times both diagonals.
    ///
    /// `choose` gets the first column of a block and its entries, for all rows of a block of columns
    /// at once, before the first of these rows is rounded; it is called on the threads of the rayon
    /// pool that this is called in. `round` gets the row and what was chosen for it.
    ///
    /// # Panics
    ///
    /// Panics if rows are not as long as there are columns here, or if there are not as many rows as
    /// `outputs` has. The last columns may be fewer than `width`.
    pub fn pass_both<S: Send>(
        &self,
        outputs: &Self,
        matrix: &mut [f32],
        width: usize,
        choose: impl Fn(usize, &[f32]) -> S + Sync,
        mut round: impl FnMut(usize, S, FedBlock<'_>),
    ) {
        let columns = self.size();
        let rows = self.rows_of(matrix);
        assert_eq!(rows, outputs.size(), "every row is an output");
        let [mut errors, mut turns, mut shifts] = [const { Vec::new() }; 3].map(|mut numbers| {
            numbers.resize(rows * width, 0.0f32);
            numbers
        });
        for from in (0..columns).step_by(width) {
            let width = width.min(columns - from);
            let corner = self.corner(from, width);
            let blocks = matrix.par_chunks_exact(columns);
            let chosen: Vec<S> = blocks.map(|row| choose(from, &row[from..from + width])).collect();
            for (row, chosen) in chosen.into_iter().enumerate() {
                let first = row - row % ROWS_AT_ONCE;
                if row == first {
                    outputs.shift_rows(&turns, &mut shifts, first, width);
                }
                let shift = &mut shifts[row * width..][..width];
                for k in first..row {
                    let Some(unit) = &outputs.unit else { break };
                    let share = unit[(k, row)];
                    let turns = &turns[k * width..][..width];
                    shift.iter_mut().zip(turns).for_each(|(shift, turn)| *shift += turn * share);
                }
                let between = Some((&*shift, &mut turns[row * width..][..width]));
                let entries = &mut matrix[row * columns + from..][..width];
                let errors = &mut errors[row * width..][..width];
                round(row, chosen, FedBlock { entries, errors, corner: &corner, between });
            }
            self.hand_on(matrix, &errors[..rows * width], from, width);
        }
    }

    /// The number of rows of a matrix.
    fn rows_of(&self, matrix: &[f32]) -> usize {
        let columns = self.size();
        let is_whole = columns > 0 && matrix.len().is_multiple_of(columns);
        assert!(is_whole, "there are whole rows");
        matrix.len() / columns
    }

    /// The part of `V` for a block of columns, row-major; empty for the identity.
    fn corner(&self, from: usize, width: usize) -> Vec<f32> {
        let Some(unit) = &self.unit else { return Vec::new() };
        let corner = unit.as_ref().submatrix(from, from, width, width);
        (0..width * width).map(|at| corner[(at / width, at % width)]).collect()
    }

    /// Lets all columns behind a block make up for its errors, which are row-major.
    fn hand_on(&self, matrix: &mut [f32], errors: &[f32], from: usize, width: usize) {
        let (columns, next) = (self.size(), from + width);
        let (rows, rest) = (matrix.len() / columns, columns - next);
        if let Some(unit) = self.unit.as_ref().filter(|_| rest > 0) {
            matmul(
                MatMut::from_row_major_slice_mut(matrix, rows, columns)
                    .submatrix_mut(0, next, rows, rest),
                Accum::Add,
                MatRef::from_row_major_slice(errors, rows, width),
                unit.as_ref().submatrix(from, next, width, rest),
                -1.0f32,
                Par::Seq,
            );
        }
    }

    /// What all rows before row number `first` are made up for by the rows from there on, up to
    /// [`ROWS_AT_ONCE`]; row-major, as `turns`, what was rounded away at the turn of each entry.
    fn shift_rows(&self, turns: &[f32], shifts: &mut [f32], first: usize, width: usize) {
        let count = ROWS_AT_ONCE.min(self.size() - first);
        let shifts = &mut shifts[first * width..][..count * width];
        shifts.fill(0.0);
        if let Some(unit) = self.unit.as_ref().filter(|_| first > 0) {
            matmul(
                MatMut::from_row_major_slice_mut(shifts, count, width),
                Accum::Replace,
                unit.as_ref().submatrix(0, first, first, count).transpose(),
                MatRef::from_row_major_slice(&turns[..first * width], first, width),
                1.0f32,
                Par::Seq,
            );
        }
    }
}

/// A block of a row that is rounded; see [`Feedback::pass`].
#[derive(Debug)]
pub struct FedBlock<'a> {
    entries: &'a mut [f32],
    errors: &'a mut [f32],
    /// The part of `V` for these columns, row-major; empty if columns make up for nothing.
    corner: &'a [f32],
    /// What is subtracted from each entry for the rows before, and what is rounded away of it then.
    between: Option<(&'a [f32], &'a mut [f32])>,
}

impl FedBlock<'_> {
    /// The entries, as the columns before them left them; rows before this one are not made up for.
    pub fn entries(&self) -> &[f32] {
        self.entries
    }

    /// Rounds the entries in turn: `nearest` gets the place of each in the block and what it is by
    /// then, and returns what it becomes.
    pub fn round(mut self, mut nearest: impl FnMut(usize, f32) -> f32) {
        let width = self.entries.len();
        for at in 0..width {
            let (entry, later) = self.entries[at..].split_first_mut().expect("an entry is here");
            let rounded = match &mut self.between {
                None => nearest(at, *entry),
                Some((shifts, turns)) => {
                    let wanted = *entry - shifts[at];
                    let rounded = nearest(at, wanted);
                    turns[at] = wanted - rounded;
                    rounded
                }
            };
            let error = *entry - rounded;
            (*entry, self.errors[at]) = (rounded, error);
            let share = self.corner.get(at * width + at + 1..).unwrap_or_default();
            later.iter_mut().zip(share).for_each(|(entry, share)| *entry -= error * share);
        }
    }
}
