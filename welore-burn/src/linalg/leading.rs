//! The leading eigenpairs of a large symmetric matrix, where only a part of them is kept.
//!
//! A whole eigendecomposition waits for memory; here nearly all work is products of matrices.
//! The subspace of a random block is filtered by Chebyshev polynomials, which damp the unwanted
//! part of the spectrum (Zhou, Saad, Tiago and Chelikowsky, 2006), and the pairs are those of
//! the matrix in that subspace (Rayleigh-Ritz). The filter runs in f32, which only decides how
//! well the subspace fits; the pairs, and the bound on what they lack, are f64.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Side, get_global_parallelism};

use super::svd::LinalgError;

/// Columns of the block beyond the wanted ones, as a share of them. More converge faster,
/// and cost more each time.
const SPARE: f64 = 0.15;

/// From this side on, and up to this share of the spectrum, this is faster than all eigenvectors
/// (`benches/decomposition.rs`).
const SIDE: usize = 1024;
const SHARE: f64 = 0.3;

/// Degree of a filter. A higher one does more without an orthonormal basis in between, but what
/// f32 rounds off is amplified with it.
const DEGREE: usize = 7;

/// Filters before the attempt is given up.
const ROUNDS: usize = 4;

/// Wanted eigenvalues this much larger than the largest unwanted one have converged first; they
/// are taken out of the filtered matrix, so that its range stays small for f32.
const DEFLATE: f64 = 20.0;

/// What the kept energy may lack, as a share of the energy that is left out: the error of an
/// approximation is then within 1.000075 of the best.
const LACK: f64 = 1.5e-4;

/// Leading eigenpairs of a positive semidefinite matrix.
pub(super) struct Leading {
    /// In falling order, as many as were asked for.
    pub values: Vec<f64>,
    /// An orthonormal eigenvector a column.
    pub vectors: Mat<f64>,
}

/// Whether [`leading_eigen`] is worth trying.
pub(super) fn is_worth_it(side: usize, count: usize) -> bool {
    side >= SIDE && count as f64 <= SHARE * side as f64
}

/// The `count` leading eigenpairs of the positive semidefinite matrix whose lower half is given,
/// so that what they lack of the most energy that so many can have is next to nothing beside what
/// is left out. `None`
/// where that is not reached, as where next to nothing is left out.
pub(super) fn leading_eigen(
    lower: &Mat<f64>,
    count: usize,
) -> Result<Option<Leading>, LinalgError> {
    let side = lower.nrows();
    let total: f64 = (0..side).map(|i| lower[(i, i)]).sum();
    if total == 0.0 {
        return Ok(None);
    }
    let whole = Mat::from_fn(side, side, |i, j| lower[(i.max(j), i.min(j))]);
    let block = side.min(count + ((SPARE * count as f64) as usize).max(32));
    let mut single = Mat::from_fn(side, side, |i, j| (whole[(i, j)] / total * side as f64) as f32);
    let unit = total / side as f64;

    let mut subspace = &single * random(side, block);
    subspace = &single * orthonormal(&subspace);
    let mut deflated = 0;
    for rounds in 0..ROUNDS {
        let pairs = rayleigh_ritz(&whole, &subspace)?;
        let largest_unwanted = pairs.values[block - 1].max(0.0);
        let left_out = total - pairs.values[..count].iter().sum::<f64>();
        let lack: f64 = (0..count)
            .map(|i| {
                pairs.residuals[i] / (pairs.values[i] - largest_unwanted).max(f64::MIN_POSITIVE)
            })
            .sum();
        if lack <= LACK * left_out {
            let vectors = pairs.vectors.subcols(0, count).to_owned();
            return Ok(Some(Leading { values: pairs.values[..count].to_vec(), vectors }));
        }
        // Nothing to damp, or nothing left to find.
        if largest_unwanted <= f64::from(f32::EPSILON) * unit || left_out <= 0.0 {
            return Ok(None);
        }
        if deflated == 0 {
            deflated = pairs.values.iter().take_while(|v| **v > DEFLATE * largest_unwanted).count();
            deflate(&mut single, &pairs, deflated, unit);
        }
        // The first subspace is too rough to tell where the unwanted part begins; its values are
        // too small, those of the last wanted pairs too.
        let edge = if rounds == 0 { pairs.values[count - 1] } else { largest_unwanted };
        let vectors = Mat::from_fn(side, block, |i, j| pairs.vectors[(i, j)] as f32);
        let values: Vec<f64> = pairs.values.iter().map(|value| value / unit).collect();
        subspace = filtered(&single, vectors, &values, deflated, edge / unit);
    }
    Ok(None)
}

/// Eigenpairs of a matrix in a subspace.
struct Pairs {
    /// In falling order.
    values: Vec<f64>,
    vectors: Mat<f64>,
    /// Squared norms of what each pair lacks of being one, `‖A v - λ v‖²`.
    residuals: Vec<f64>,
}

fn rayleigh_ritz(matrix: &Mat<f64>, subspace: &Mat<f32>) -> Result<Pairs, LinalgError> {
    let wide = Mat::from_fn(subspace.nrows(), subspace.ncols(), |i, j| f64::from(subspace[(i, j)]));
    let basis = wide.qr().compute_thin_Q();
    let image = matrix * &basis;
    let inner = basis.transpose() * &image;
    let eigen = inner.self_adjoint_eigen(Side::Lower).map_err(|_| LinalgError::NoConvergence)?;
    let count = basis.ncols();
    // Eigenvalues come in rising order.
    let turned = Mat::from_fn(count, count, |i, j| eigen.U()[(i, count - 1 - j)]);
    let values: Vec<f64> = eigen.S().column_vector().iter().rev().copied().collect();
    let (vectors, image) = (&basis * &turned, &image * &turned);
    let residual = |j: usize| {
        let gaps = image.col(j).iter().zip(vectors.col(j).iter());
        gaps.map(|(a, v)| (a - values[j] * v).powi(2)).sum()
    };
    let residuals = (0..count).map(residual).collect();
    Ok(Pairs { values, vectors, residuals })
}

/// Takes the first pairs out of a matrix that is scaled by `unit`.
fn deflate(matrix: &mut Mat<f32>, pairs: &Pairs, count: usize, unit: f64) {
    let side = matrix.nrows();
    let vectors = Mat::from_fn(side, count, |i, j| pairs.vectors[(i, j)] as f32);
    let weighted =
        Mat::from_fn(side, count, |i, j| (pairs.vectors[(i, j)] * pairs.values[j] / unit) as f32);
    let par = get_global_parallelism();
    matmul(matrix.as_mut(), Accum::Add, weighted.as_ref(), vectors.transpose(), -1.0, par);
}

/// Chebyshev polynomials of the matrix, which are small on `0..=edge` and grow beyond, times
/// each vector from the `first` on, scaled so that a vector of its value keeps its length.
fn filtered(
    matrix: &Mat<f32>,
    mut vectors: Mat<f32>,
    values: &[f64],
    first: usize,
    edge: f64,
) -> Mat<f32> {
    let count = vectors.ncols() - first;
    let par = get_global_parallelism();
    let place = |value: f64| (2.0 * value / edge - 1.0).max(1.0);
    let places: Vec<f64> = values[first..].iter().map(|value| place(*value)).collect();
    let mut ratios: Vec<f64> = places.iter().map(|place| 1.0 / place).collect();
    let mut before = vectors.subcols(first, count).to_owned();
    // t(A) x = 2 / edge A x - x
    let mapped = |x: &Mat<f32>| {
        let mut image = x.clone();
        let scale = (2.0 / edge) as f32;
        matmul(image.as_mut(), Accum::Replace, matrix.as_ref(), x.as_ref(), scale, par);
        for j in 0..count {
            let column = image.col_mut(j).iter_mut().zip(x.col(j).iter());
            column.for_each(|(image, x)| *image -= x);
        }
        image
    };
    let mut now = mapped(&before);
    for (j, ratio) in ratios.iter().enumerate() {
        now.col_mut(j).iter_mut().for_each(|x| *x *= *ratio as f32);
    }
    for _ in 1..DEGREE {
        let mut next = mapped(&now);
        let later: Vec<f64> =
            places.iter().zip(&ratios).map(|(t, ratio)| 1.0 / (2.0 * t - ratio)).collect();
        for j in 0..count {
            let (twice, back) = ((2.0 * later[j]) as f32, (later[j] * ratios[j]) as f32);
            let column = next.col_mut(j).iter_mut().zip(before.col(j).iter());
            column.for_each(|(next, before)| *next = twice * *next - back * before);
        }
        (before, now, ratios) = (now, next, later);
    }
    vectors.as_mut().subcols_mut(first, count).copy_from(&now);
    vectors
}

/// An orthonormal basis of the columns.
fn orthonormal(matrix: &Mat<f32>) -> Mat<f32> {
    matrix.qr().compute_thin_Q()
}

/// Always the same entries, of mean 0.
fn random(rows: usize, cols: usize) -> Mat<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    Mat::from_fn(rows, cols, |_, _| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 40) as f32) / (1u32 << 23) as f32 - 1.0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
            ("huge", spectrum(|i| 1e60 / (1.0 + i))),
        ];
        for (case, values) in cases {
            for count in [8, 40, 72] {
                let found = leading_eigen(&with_spectrum(&values), count).unwrap();
                let Some(Leading { values: kept, vectors }) = found else {
                    // What decays fast leaves next to nothing out, and a cut through equal
                    // values cannot be told from a bad one: both go the other way.
                    assert!(["steep", "flat", "clustered"].contains(&case), "{case} at {count}");
                    continue;
                };
                let (got, best) = (kept.iter().sum::<f64>(), values[..count].iter().sum::<f64>());
                let tail = values[count..].iter().sum::<f64>();
                assert!(best - got <= 2e-4 * tail, "{case} at {count}: {got} of {best}");
                assert!(kept.windows(2).all(|pair| pair[0] >= pair[1]));
                let gram = vectors.transpose() * &vectors;
                let identity = Mat::from_fn(count, count, |i, j| f64::from(u8::from(i == j)));
                assert!((gram - identity).norm_max() < 1e-10, "{case} at {count}");
            }
        }
    }

    #[test]
    fn deficient_and_zero_matrices_go_the_other_way() {
        let mut values = vec![0.0; 100];
        assert!(leading_eigen(&with_spectrum(&values), 10).unwrap().is_none());
        values[..5].fill(1.0);
        assert!(leading_eigen(&with_spectrum(&values), 10).unwrap().is_none());
    }
}
