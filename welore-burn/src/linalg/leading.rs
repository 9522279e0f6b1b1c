//! The leading eigenpairs of a large symmetric matrix, if only a part of them is kept.
//!
//! A full eigendecomposition is limited by memory access; here nearly all work is matrix
//! products. Chebyshev polynomials filter a subspace of random sums of columns, damping the
//! unwanted part of the spectrum (Zhou, Saad, Tiago and Chelikowsky, 2006), and the pairs are
//! those of the matrix in that subspace (Rayleigh-Ritz). Products with the matrix, whose largest
//! pairs are taken out, are in f32; this only affects how well the subspace fits. Its basis is
//! f64, so an approximation with it has no other error. Residuals estimate how much is missing.

use faer::linalg::matmul::matmul;
use faer::linalg::triangular_solve::solve_lower_triangular_in_place;
use faer::{Accum, Mat, MatRef, Side, get_global_parallelism};

use super::matrix::{LinalgError, lower_product};

/// Extra columns of the block, as a share of the wanted ones. More of them converge faster, but
/// each round costs more.
const SPARE: f64 = 0.15;

/// From this size on, and up to this share of the spectrum, this is faster than computing all
/// eigenvectors (`benches/decomposition.rs`).
const SIDE: usize = 1024;
const SHARE: f64 = 0.3;

/// The first filter damps everything below the length of the image of the last wanted vector, times
/// this factor, because lengths from a first guess are too small. A larger factor would damp wanted
/// vectors where eigenvalues fall slowly.
const MARGIN: f64 = 1.1;

/// A vector's filter has the lowest degree that damps the unwanted part by this factor relative to
/// the vector, but at most `DEGREE`.
const ENOUGH: f64 = 1500.0;

/// The rounding of f32.
const EPSILON: f64 = f32::EPSILON as f64;

/// Highest degree of a filter. A higher one would do more before the next orthonormal basis, but
/// would also amplify the rounding errors of f32.
const DEGREE: usize = 9;

/// Number of columns of the first block that each column of the matrix is added to.
const SIGNS: usize = 8;

/// Number of filters before the attempt is given up.
const ROUNDS: usize = 4;

/// Wanted eigenvalues larger than the largest unwanted one by this factor converge first. They are
/// taken out of the filtered matrix, so that its range stays small for f32.
const DEFLATE: f64 = 20.0;

/// How much the kept energy may fall short of the best, by its estimate, as a share of the energy
/// left out. The error of an approximation is then about 1.000075 times the best (1.00008 in
/// `benches/decomposition.rs`); 1.0001 is required.
const LACK: f64 = 1.5e-4;

/// Ratio of the smallest to the largest entry on the diagonal of a Cholesky factor: above `WELL`,
/// the columns were already orthogonal up to rounding; below `ILL`, the factor is unusable.
const WELL: f64 = 0.5;
const ILL: f64 = 1e-6;

/// The energy left out must be at least this share of the total: below it, f32 does not give the
/// values accurately enough.
const TAIL: f64 = 1e-5;

/// The outcome of an attempt.
pub(super) enum Attempt {
    /// Orthonormal eigenvectors, one per column, by falling eigenvalue.
    Found(Mat<f64>),
    /// The rounding errors of the f32 matrix may be too large.
    Noisy,
    /// Too little energy is left out, or the wanted part cannot be told from the rest.
    Unsuited,
}

/// Whether [`leading_eigen`] is worth trying.
pub(super) fn is_worth_it(side: usize, count: usize) -> bool {
    side >= SIDE && count as f64 <= SHARE * side as f64
}

/// The `count` leading eigenvectors of a Gram matrix. The energy that they miss, compared with the
/// best `count` vectors, is negligible next to the energy left out.
pub(super) fn leading_eigen(matrix: Single, count: usize) -> Result<Attempt, LinalgError> {
    let Single { whole, noise } = matrix;
    let side = whole.nrows();
    if (0..side).any(|i| !whole[(i, i)].is_finite()) {
        // All entries are 0, or too small for their mean to be divided by.
        return Ok(Attempt::Unsuited);
    }
    let block = side.min(count + ((SPARE * count as f64) as usize).max(32));
    let mut matrix = Deflated::new(whole);
    let (mut pairs, mut likely) = rough_pairs(&matrix.rest, block)?;
    let mut edge = likely[count - 1];
    let left_out = |pairs: &[f64]| side as f64 - pairs[..count].iter().sum::<f64>();
    if left_out(&pairs.values) <= TAIL * side as f64 {
        return Ok(Attempt::Unsuited);
    }
    // The energy that rounding moves between the wanted part and the rest, if their eigenvalues
    // are a tenth of the edge apart.
    let rotated = noise * (count * block) as f64 / (0.1 * edge);
    if rotated.is_nan() || rotated > 0.1 * LACK * left_out(&pairs.values) {
        return Ok(Attempt::Noisy);
    }
    let unwanted = pairs.values[block - 1].max(0.0);
    let large = pairs.values.iter().take_while(|v| **v > DEFLATE * unwanted).count();
    matrix.deflate(&pairs, large.min(count - 1));
    for _ in 0..ROUNDS {
        let subspace = matrix.filtered(&pairs, &likely, edge);
        let (found, residuals) = matrix.rayleigh_ritz(&subspace)?;
        edge = found.values[block - 1];
        let left_out = left_out(&found.values);
        // Nothing to damp, or nothing left to find.
        if edge <= 0.0 || left_out <= TAIL * side as f64 {
            return Ok(Attempt::Unsuited);
        }
        let gap = |i: usize| (found.values[i] - edge).max(f64::MIN_POSITIVE);
        let lack: f64 = (0..count).map(|i| residuals[i] / gap(i)).sum();
        if lack <= LACK * left_out {
            return Ok(Attempt::Found(found.vectors.subcols(0, count).to_owned()));
        }
        let vectors = cast(found.vectors.as_ref(), |x| x as f32);
        likely = found.values.clone();
        pairs = Pairs { values: found.values, vectors };
    }
    Ok(Attempt::Unsuited)
}

/// A Gram matrix in f32, divided by the mean of its diagonal.
pub(super) struct Single {
    whole: Mat<f32>,
    /// Approximate mean square of the rounding error of an entry.
    noise: f64,
}

impl Single {
    /// The product `A Aᵀ` of a matrix, computed in f32: half the work, but with rounding errors in
    /// proportion to the diagonal.
    pub(super) fn product(view: MatRef<'_, f64>) -> Self {
        let single = cast(view, |x| x as f32);
        let lower = lower_product(single.as_ref(), single.transpose());
        Self { whole: whole(&lower), noise: EPSILON * EPSILON }
    }

    /// A Gram matrix, given by its lower half.
    pub(super) fn rounded(lower: &Mat<f64>) -> Self {
        let whole = whole(lower);
        let squares: f64 =
            (0..whole.ncols()).map(|j| f64::from(whole.col(j).squared_norm_l2())).sum();
        let entries = (whole.nrows() * whole.ncols()) as f64;
        Self { whole, noise: 0.25 * EPSILON * EPSILON * squares / entries }
    }
}

/// Eigenpairs of a matrix in a subspace, in falling order.
struct Pairs<T> {
    values: Vec<f64>,
    vectors: Mat<T>,
}

/// Both halves of a symmetric matrix, given by its lower half, divided by the mean of its
/// diagonal.
fn whole<T: Copy + Into<f64>>(lower: &Mat<T>) -> Mat<f32> {
    // Columns of the upper half are rows of the lower one: small tiles stay in the cache.
    const TILE: usize = 64;
    let side = lower.nrows();
    let total: f64 = (0..side).map(|i| lower[(i, i)].into()).sum();
    let scale = side as f64 / total;
    let mut whole = Mat::zeros(side, side);
    let starts = || (0..side).step_by(TILE);
    for (top, left) in starts().flat_map(|left| starts().map(move |top| (top, left))) {
        for j in left..side.min(left + TILE) {
            for i in top.max(j)..side.min(top + TILE) {
                let value = (lower[(i, j)].into() * scale) as f32;
                whole[(i, j)] = value;
                whole[(j, i)] = value;
            }
        }
    }
    whole
}

/// Pairs in the subspace of random sums of columns. The vectors are the directions of their images,
/// which amounts to one more product. Rough, but it tells large pairs from small ones.
fn rough_pairs(matrix: &Mat<f32>, block: usize) -> Result<(Pairs<f32>, Vec<f64>), LinalgError> {
    let sketch = sketch(matrix, block);
    let basis = cast(orthonormal(cast(sketch.as_ref(), f64::from)).as_ref(), |x| x as f32);
    let image = matrix * &basis;
    let eigen = (basis.transpose() * &image)
        .self_adjoint_eigen(Side::Lower)
        .map_err(|_| LinalgError::NoConvergence)?;
    // Eigenvalues come in rising order.
    let values = eigen.S().column_vector().iter().rev().map(|value| f64::from(*value)).collect();
    let mut vectors = image * eigen.U().reverse_cols();
    let lengths: Vec<f64> = (0..block).map(|j| f64::from(vectors.col(j).norm_l2())).collect();
    let units: Vec<f64> = lengths.iter().map(|length| 1.0 / length.max(1e-30)).collect();
    scale_columns(&mut vectors, &units);
    // Values and lengths are both too small, the lengths less so.
    let likely = lengths.iter().map(|length| MARGIN * length).collect();
    Ok((Pairs { values, vectors }, likely))
}

/// A symmetric matrix in f32 with its large pairs taken out, so that rounding errors are small
/// compared with what is left: `rest + vectors · diag(values) · vectorsᵀ`.
struct Deflated {
    rest: Mat<f32>,
    vectors: Mat<f32>,
    values: Vec<f64>,
}

impl Deflated {
    fn new(matrix: Mat<f32>) -> Self {
        let vectors = Mat::zeros(matrix.nrows(), 0);
        Self { rest: matrix, vectors, values: Vec::new() }
    }

    /// Takes the first pairs out.
    fn deflate(&mut self, pairs: &Pairs<f32>, count: usize) {
        self.vectors = pairs.vectors.subcols(0, count).to_owned();
        self.values = pairs.values[..count].to_vec();
        let mut weighted = self.vectors.clone();
        scale_columns(&mut weighted, &self.values);
        let par = get_global_parallelism();
        let (rest, vectors) = (self.rest.as_mut(), self.vectors.transpose());
        matmul(rest, Accum::Add, weighted.as_ref(), vectors, -1.0, par);
    }

    /// Rayleigh-Ritz: the pairs of the matrix in a subspace, and the squared norms of their
    /// residuals, `‖A v - λ v‖²`.
    fn rayleigh_ritz(&self, subspace: &Mat<f32>) -> Result<(Pairs<f64>, Vec<f64>), LinalgError> {
        let par = get_global_parallelism();
        let basis = orthonormal(cast(subspace.as_ref(), f64::from));
        let single = cast(basis.as_ref(), |x| x as f32);
        let mut image = &self.rest * &single;
        let mut weighted = self.vectors.clone();
        scale_columns(&mut weighted, &self.values);
        let parts = self.vectors.transpose() * &single;
        matmul(image.as_mut(), Accum::Add, weighted.as_ref(), parts.as_ref(), 1.0, par);
        let inner = lower_product(basis.transpose(), cast(image.as_ref(), f64::from).as_ref());
        let eigen =
            inner.self_adjoint_eigen(Side::Lower).map_err(|_| LinalgError::NoConvergence)?;
        // Eigenvalues come in rising order.
        let turned = eigen.U().reverse_cols();
        let values: Vec<f64> = eigen.S().column_vector().iter().rev().copied().collect();
        let vectors = &basis * turned;
        let image = image * cast(turned, |x| x as f32);
        let residual = |j: usize| {
            let gaps = image.col(j).iter().zip(vectors.col(j).iter());
            gaps.map(|(image, v)| (f64::from(*image) - values[j] * v).powi(2)).sum()
        };
        let residuals = (0..basis.ncols()).map(residual).collect();
        Ok((Pairs { values, vectors }, residuals))
    }

    /// Chebyshev polynomials of the remaining matrix, applied to each vector that was not taken
    /// out. They are small on `0..=edge` and grow beyond, and are scaled so that an eigenvector of
    /// the vector's value keeps its length. Vectors with larger values need a lower degree.
    fn filtered(&self, pairs: &Pairs<f32>, likely: &[f64], edge: f64) -> Mat<f32> {
        let first = self.values.len();
        let mut vectors = pairs.vectors.clone();
        let place = |value: f64| (2.0 * value / edge - 1.0).max(1.0);
        let places: Vec<f64> = pairs.values[first..].iter().map(|value| place(*value)).collect();
        let degree = |value: f64| (1..DEGREE).find(|n| growth(place(value), *n) >= ENOUGH);
        let mut degrees: Vec<usize> =
            likely[first..].iter().map(|value| degree(*value).unwrap_or(DEGREE)).collect();
        // Values fall, so degrees rise, if not strictly for a first guess.
        degrees.sort_unstable();
        let mut ratios: Vec<f64> = places.iter().map(|place| 1.0 / place).collect();
        let mut before = vectors.subcols(first, places.len()).to_owned();
        let mut now = self.mapped(before.as_ref(), edge);
        scale_columns(&mut now, &ratios);
        let mut done = 0;
        for n in 1..=DEGREE {
            let start = done;
            done += degrees[done..].iter().take_while(|degree| **degree <= n).count();
            let (finished, rest) = now.as_ref().split_at_col(done - start);
            vectors.as_mut().subcols_mut(first + start, done - start).copy_from(finished);
            if n == DEGREE {
                break;
            }
            let mut next = self.mapped(rest, edge);
            for (j, column) in (done..places.len()).enumerate() {
                let ratio = ratios[column];
                let later = 1.0 / (2.0 * places[column] - ratio);
                let (twice, back) = ((2.0 * later) as f32, (later * ratio) as f32);
                let pairs = next.col_mut(j).iter_mut().zip(before.col(done - start + j).iter());
                pairs.for_each(|(next, before)| *next = twice * *next - back * before);
                ratios[column] = later;
            }
            (before, now) = (rest.to_owned(), next);
        }
        vectors
    }

    /// `2 / edge A x - x`, which maps unwanted eigenvalues to between -1 and 1.
    fn mapped(&self, vectors: MatRef<'_, f32>, edge: f64) -> Mat<f32> {
        let mut image = Mat::zeros(vectors.nrows(), vectors.ncols());
        let (scale, par) = ((2.0 / edge) as f32, get_global_parallelism());
        matmul(image.as_mut(), Accum::Replace, self.rest.as_ref(), vectors, scale, par);
        image -= vectors;
        image
    }
}

/// The Chebyshev polynomial of a degree, at 1 or above.
fn growth(place: f64, degree: usize) -> f64 {
    (degree as f64 * place.acosh()).cosh()
}

fn scale_columns(matrix: &mut Mat<f32>, factors: &[f64]) {
    for (j, factor) in factors.iter().enumerate() {
        matrix.col_mut(j).iter_mut().for_each(|x| *x *= *factor as f32);
    }
}

/// An orthonormal basis of the columns, from the Cholesky factor of their Gram matrix: a fraction
/// of the work of Householder's method. It squares the condition number, so a second pass makes
/// the columns orthogonal up to rounding where the first does not (Yamamoto et al., 2015). Where
/// that would not suffice, Householder's method is used.
fn orthonormal(mut columns: Mat<f64>) -> Mat<f64> {
    let par = get_global_parallelism();
    loop {
        let gram = lower_product(columns.transpose(), columns.as_ref());
        let Ok(cholesky) = gram.llt(Side::Lower) else { break };
        let diagonal = || (0..gram.nrows()).map(|i| cholesky.L()[(i, i)]);
        let (low, high) = (diagonal().fold(f64::MAX, f64::min), diagonal().fold(0.0, f64::max));
        if low < ILL * high {
            break;
        }
        solve_lower_triangular_in_place(cholesky.L(), columns.as_mut().transpose_mut(), par);
        if low >= WELL * high {
            return columns;
        }
    }
    columns.qr().compute_thin_Q()
}

fn cast<T: Copy, U>(matrix: MatRef<'_, T>, to: impl Fn(T) -> U) -> Mat<U> {
    Mat::from_fn(matrix.nrows(), matrix.ncols(), |i, j| to(matrix[(i, j)]))
}

/// The matrix times a block of sparse random signs, which mixes the columns as well as a dense
/// block does (Martinsson and Tropp, 2020, section 9.2), without a product.
fn sketch(matrix: &Mat<f32>, block: usize) -> Mat<f32> {
    let mut sketch = Mat::zeros(matrix.nrows(), block);
    let mut random = Random::default();
    for j in 0..matrix.ncols() {
        for _ in 0..SIGNS {
            let (column, sign) = (random.below(block), random.sign());
            let sums = sketch.col_mut(column).iter_mut().zip(matrix.col(j).iter());
            sums.for_each(|(sum, x): (&mut f32, &f32)| *sum += sign * x);
        }
    }
    sketch
}

/// Always the same numbers.
struct Random(u64);

impl Default for Random {
    fn default() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn sign(&mut self) -> f32 {
        if self.next() & 1 == 0 { 1.0 } else { -1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Entries of mean 0.
    fn random(rows: usize, cols: usize) -> Mat<f32> {
        let mut random = Random::default();
        Mat::from_fn(rows, cols, |_, _| random.next() as f32 / (1u32 << 30) as f32 - 1.0)
    }

    /// A matrix with these eigenvalues.
    fn with_spectrum(values: &[f64]) -> Mat<f64> {
        let side = values.len();
        let basis = {
            let noise = random(side, side);
            Mat::from_fn(side, side, |i, j| f64::from(noise[(i, j)])).qr().compute_thin_Q()
        };
        let scaled = Mat::from_fn(side, side, |i, j| basis[(i, j)] * values[j]);
        scaled * basis.transpose()
    }

    #[test]
    fn kept_energy_lacks_next_to_nothing_of_the_most_there_is() {
        let spectrum =
            |value: fn(f64) -> f64| -> Vec<f64> { (0..240).map(|i| value(f64::from(i))).collect() };
        let cases = [
            ("heavy", spectrum(|i| 1.0 / (1.0 + i))),
            ("spiked", spectrum(|i| if i < 9.0 { 1e4 / (1.0 + i) } else { 1.0 - i / 400.0 })),
            ("clustered", spectrum(|i| [5.0, 1.0, 0.2][i as usize / 80])),
            ("flat", spectrum(|i| 1.0 + 1e-3 * (240.0 - i))),
            ("steep", spectrum(|i| 0.9f64.powf(i))),
            ("led", spectrum(|i| if i < 1.0 { 1e4 } else { 1.0 / (1.0 + i) })),
            ("huge", spectrum(|i| 1e60 / (1.0 + i))),
        ];
        for (case, values) in cases {
            for count in [8, 40, 72] {
                let gram = with_spectrum(&values);
                let found = leading_eigen(Single::rounded(&gram), count).unwrap();
                let Attempt::Found(vectors) = found else {
                    // A fast decay leaves almost nothing out, a cut through equal values cannot
                    // be told from a bad one, and a value that holds nearly all the energy
                    // drowns the others in f32: all of these fall back.
                    assert!(
                        ["steep", "flat", "clustered", "led"].contains(&case),
                        "{case} at {count}"
                    );
                    continue;
                };
                let kept: Vec<f64> = (0..count)
                    .map(|j| vectors.col(j).transpose() * &gram * vectors.col(j))
                    .collect();
                let (got, best) = (kept.iter().sum::<f64>(), values[..count].iter().sum::<f64>());
                let tail = values[count..].iter().sum::<f64>();
                // Allows for the rounding of f32 relative to the largest value.
                let slack = f64::from(f32::EPSILON) * values[0];
                assert!(best - got <= 2e-4 * tail, "{case} at {count}: {got} of {best}");
                assert!(kept.windows(2).all(|pair| pair[0] + slack >= pair[1]), "{case}");
                let products = vectors.transpose() * &vectors;
                let identity = Mat::from_fn(count, count, |i, j| f64::from(u8::from(i == j)));
                assert!((products - identity).norm_max() < 1e-10, "{case} at {count}");
            }
        }
    }

    #[test]
    fn deficient_and_zero_matrices_go_the_other_way() {
        let found =
            |values: &[f64]| leading_eigen(Single::rounded(&with_spectrum(values)), 10).unwrap();
        let mut values = vec![0.0; 100];
        assert!(!matches!(found(&values), Attempt::Found(_)));
        values[..5].fill(1.0);
        assert!(!matches!(found(&values), Attempt::Found(_)));
    }
}
