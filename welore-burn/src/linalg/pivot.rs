//! A matrix of low rank, represented by some of its own rows.

use faer::Mat;
use faer::prelude::*;

use super::matrix::{LinalgError, Matrix};
use super::svd::BalancedFactors;

/// A matrix of rank `r` as `r` of its rows, the pivots, and the coefficients that rebuild the other
/// rows.
///
/// `A[pivots] = rows` and `A[others] = others · rows`, with the others in rising order. That is
/// `r (m + n - r)` numbers instead of the `r (m + n)` of two factors, without loss (PIFA, arXiv
/// 2501.19090).
#[derive(Debug, Clone, PartialEq)]
pub struct PivotFactors {
    /// Indices of the `r` pivot rows.
    pub pivots: Vec<usize>,
    /// The pivot rows, `[r, n]`.
    pub rows: Matrix,
    /// The coefficients that rebuild the other rows, `[m - r, r]`.
    pub others: Matrix,
}

impl PivotFactors {
    /// Indices of the other rows, in rising order.
    pub fn other_rows(&self) -> Vec<usize> {
        other_rows(&self.pivots, self.pivots.len() + self.others.rows())
    }

    /// Every row as a combination of the pivots, `[m, r]`: the identity at the pivots.
    ///
    /// # Errors
    ///
    /// [`LinalgError::NotFinite`].
    pub fn combinations(&self) -> Result<Matrix, LinalgError> {
        let (rank, other_rows) = (self.pivots.len(), self.other_rows());
        let rows = rank + other_rows.len();
        let mut entries = vec![0.0; rows * rank];
        for (place, pivot) in self.pivots.iter().enumerate() {
            entries[pivot * rank + place] = 1.0;
        }
        for (row, made) in other_rows.into_iter().zip(self.others.data().chunks_exact(rank)) {
            entries[row * rank..][..rank].copy_from_slice(made);
        }
        Matrix::new(rows, rank, entries)
    }
}

/// Indices below `rows` that are no pivots, in rising order.
fn other_rows(pivots: &[usize], rows: usize) -> Vec<usize> {
    let mut is_pivot = vec![false; rows];
    pivots.iter().for_each(|pivot| is_pivot[*pivot] = true);
    (0..rows).filter(|row| !is_pivot[*row]).collect()
}

/// Largest entry that `others` may have by default.
const LARGEST: f64 = 4.0;

/// Most exchanges for each rank. Each multiplies the volume of the pivots by more than the bound, so
/// they end long before; rounding errors could only keep them going at a bound next to 1.
const MOST_EXCHANGES: usize = 64;

/// Turns two factors of a `[rows, cols]` matrix into pivoted ones, with coefficients up to 4:
/// [`pivot_factors_within`] that bound.
///
/// # Errors
///
/// Those of [`pivot_factors_within`].
pub fn pivot_factors(factors: &BalancedFactors) -> Result<PivotFactors, LinalgError> {
    pivot_factors_within(factors, LARGEST)
}

/// Turns two factors of a `[rows, cols]` matrix into pivoted ones.
///
/// Pivots come from an LU decomposition with partial pivoting, and are exchanged for better rows as
/// long as a coefficient is above `largest` (maxvol, Goreinov et al. 2010). What rounding the pivot
/// rows loses comes back in every row that is made of them, multiplied by its coefficients: a bound
/// near 1 halves their squares, for a few exchanges, each of which passes over `[rows, rank]`
/// coefficients once.
///
/// # Errors
///
/// [`LinalgError::Rank`] if every row would be a pivot; [`LinalgError::NotFinite`] if the factors
/// are so large that no pivots can be found.
///
/// # Panics
///
/// Panics if `largest` is not above 1: no exchange makes coefficients smaller than that.
pub fn pivot_factors_within(
    factors: &BalancedFactors,
    largest: f64,
) -> Result<PivotFactors, LinalgError> {
    assert!(largest > 1.0, "the bound of coefficients is above 1");
    let (rows, rank) = (factors.left.rows(), factors.rank());
    if rank >= rows {
        return Err(LinalgError::Rank { rank, full: rows - 1 });
    }
    let (left, right) = (factors.left.view(), factors.right.view());
    // An orthonormal basis, because the pivots should depend on the column space alone.
    let basis = left.qr().compute_thin_Q();
    let lu = basis.partial_piv_lu();
    let (forward, _) = lu.P().arrays();
    let mut pivots: Vec<usize> = forward[..rank].to_vec();
    // Every row as a combination of the pivots; identity at the pivots.
    let chosen = Mat::from_fn(rank, rank, |i, j| basis[(pivots[i], j)]);
    let mut made =
        chosen.transpose().partial_piv_lu().solve(basis.transpose()).transpose().to_owned();
    let mut worst = largest_entry(&made, largest);
    for _ in 0..MOST_EXCHANGES * rank {
        let Some((row, col)) = worst else { break };
        worst = exchange(&mut made, row, col, largest);
        pivots[col] = row;
    }
    if let Some((row, col)) = position(&made, |x| !x.is_finite()) {
        return Err(LinalgError::NotFinite { row, col, value: made[(row, col)] });
    }
    let chosen = Mat::from_fn(rank, rank, |i, j| left[(pivots[i], j)]);
    let product = chosen * right;
    let others = other_rows(&pivots, rows);
    let others = Mat::from_fn(rows - rank, rank, |i, j| made[(others[i], j)]);
    Ok(PivotFactors {
        rows: Matrix::from_view(product.as_ref())?,
        others: Matrix::from_view(others.as_ref())?,
        pivots,
    })
}

/// The largest of the entries that are too large.
struct Worst {
    size: f64,
    place: Option<(usize, usize)>,
}

impl Worst {
    /// Of entries above `largest`.
    fn above(largest: f64) -> Self {
        Self { size: largest, place: None }
    }

    fn see(&mut self, column: &[f64], j: usize) {
        let size = column.iter().fold(0.0f64, |most, x| most.max(x.abs()));
        if size > self.size && size.is_finite() {
            let row = column.iter().position(|x| x.abs() == size);
            *self = Self { size, place: row.map(|row| (row, j)) };
        }
    }
}

fn largest_entry(made: &Mat<f64>, largest: f64) -> Option<(usize, usize)> {
    let mut worst = Worst::above(largest);
    for j in 0..made.ncols() {
        worst.see(column(made, j), j);
    }
    worst.place
}

fn column(made: &Mat<f64>, j: usize) -> &[f64] {
    let column = made.col(j).try_as_col_major();
    column.expect("an owned matrix has its columns in one piece").as_slice()
}

fn position(made: &Mat<f64>, is: impl Fn(f64) -> bool) -> Option<(usize, usize)> {
    (0..made.ncols()).find_map(|j| made.col(j).iter().position(|x| is(*x)).map(|i| (i, j)))
}

/// Makes row `i` the pivot of column `j`: `B -= B[:, j] (B[i, :] - eⱼᵀ) / B[i, j]`. Returns the
/// position of the largest entry if it is then too large.
fn exchange(made: &mut Mat<f64>, row: usize, col: usize, largest: f64) -> Option<(usize, usize)> {
    let pivot = made[(row, col)];
    let steps: Vec<f64> = (0..made.ncols())
        .map(|j| (made[(row, j)] - f64::from(u8::from(j == col))) / pivot)
        .collect();
    let old = column(made, col).to_vec();
    let mut worst = Worst::above(largest);
    for (j, step) in steps.into_iter().enumerate() {
        let into = made.col_mut(j).try_as_col_major_mut();
        let into = into.expect("an owned matrix has its columns in one piece").as_slice_mut();
        into.iter_mut().zip(&old).for_each(|(x, old)| *x -= old * step);
        worst.see(into, j);
    }
    worst.place
}

#[cfg(test)]
mod tests {
    use super::super::svd::balanced_factors;
    use super::*;

    #[test]
    fn pivoted_factors_make_the_same_matrix() {
        let entry =
            |i: usize, j: usize| (((i * 31 + j * 17) % 97) as f64 / 97.0 - 0.5) + 1e-3 * i as f64;
        for (rows, cols, rank) in [(9, 14, 3), (40, 25, 24), (25, 40, 12), (7, 3, 1), (80, 70, 30)]
        {
            let data = (0..rows * cols).map(|k| entry(k / cols, k % cols)).collect();
            let matrix = Matrix::new(rows, cols, data).unwrap();
            let factors = balanced_factors(&matrix, rank).unwrap();
            let pivoted = pivot_factors(&factors).unwrap();
            assert_eq!(pivoted.pivots.len(), rank);
            assert_eq!((pivoted.others.rows(), pivoted.others.cols()), (rows - rank, rank));
            let expected = factors.left.view() * factors.right.view();
            let kept = pivoted.rows.view();
            let made = pivoted.others.view() * kept;
            let mut others = 0;
            for i in 0..rows {
                let row = match pivoted.pivots.iter().position(|pivot| *pivot == i) {
                    Some(place) => kept.row(place),
                    None => {
                        others += 1;
                        made.row(others - 1)
                    }
                };
                for j in 0..cols {
                    assert!((row[j] - expected[(i, j)]).abs() < 1e-12, "{rows}x{cols} at {i}, {j}");
                }
            }
            assert!(pivoted.others.data().iter().all(|x| x.abs() <= LARGEST + 1e-9));
        }
    }

    #[test]
    fn a_matrix_of_less_rank_than_asked_for_is_made_all_the_same() {
        let factors = BalancedFactors {
            left: Matrix::new(3, 2, vec![1.0, 1.0, 2.0, 2.0, 3.0, 3.0]).unwrap(),
            right: Matrix::new(2, 4, vec![1.0; 8]).unwrap(),
            relative_error: 0.0,
            size: 1.0,
        };
        let pivoted = pivot_factors(&factors).unwrap();
        let other = (0..3).find(|row| !pivoted.pivots.contains(row)).unwrap();
        for col in 0..4 {
            let (others, rows) = (pivoted.others.data(), pivoted.rows.data());
            let made: f64 = (0..2).map(|k| others[k] * rows[k * 4 + col]).sum();
            // Row i of the product is 2 (i + 1) everywhere.
            assert!((made - 2.0 * (other + 1) as f64).abs() < 1e-12, "{made}");
        }
        // A matrix whose rows are all pivots has no other rows to rebuild.
        let square = BalancedFactors {
            left: Matrix::new(2, 2, vec![1.0, 0.0, 0.0, 1.0]).unwrap(),
            ..factors
        };
        assert_eq!(pivot_factors(&square), Err(LinalgError::Rank { rank: 2, full: 1 }));
    }

    #[test]
    fn exchanges_end_and_bound_every_coefficient() {
        let entry = |i: usize, j: usize| ((i * i * 31 + j * 17 + i * j) as f64 * 0.37).sin();
        for (rows, cols, rank) in [(40, 25, 12), (96, 80, 50), (60, 60, 59)] {
            let data = (0..rows * cols).map(|k| entry(k / cols, k % cols)).collect();
            let matrix = Matrix::new(rows, cols, data).unwrap();
            let factors = balanced_factors(&matrix, rank).unwrap();
            let whole = factors.left.product(&factors.right).unwrap();
            for largest in [4.0, 1.2, 1.05] {
                let pivoted = pivot_factors_within(&factors, largest).unwrap();
                assert!(pivoted.others.data().iter().all(|x| x.abs() <= largest), "{largest}");
                let made = pivoted.combinations().unwrap().product(&pivoted.rows).unwrap();
                for (made, whole) in made.data().iter().zip(whole.data()) {
                    assert!((made - whole).abs() < 1e-10, "{rows}x{cols} within {largest}");
                }
            }
        }
    }
}
