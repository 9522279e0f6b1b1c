//! Eigenvalues of large symmetric matrices.
//!
//! The usual reduction to tridiagonal form reads the whole matrix once for every column. In two
//! stages, nearly all work is matrix products: first to a band, then from the band to tridiagonal
//! form by chasing bulges (Bischof, Lang and Sun, 2000). Values only; for vectors, both stages
//! would have to be undone.

use faer::linalg::matmul::matmul;
use faer::prelude::*;
use faer::{Accum, Mat, MatMut, get_global_parallelism};

use super::matrix::LinalgError;

/// Number of subdiagonals that the first stage leaves. A wide band makes its products large, a
/// narrow one makes the second stage short.
const WIDTH: usize = 32;

/// Eigenvalues of the symmetric matrix whose lower half is given, in descending order.
pub(super) fn symmetric_eigenvalues(mut matrix: Mat<f64>) -> Result<Vec<f64>, LinalgError> {
    let n = matrix.nrows();
    for j in 0..n {
        for i in j + 1..n {
            matrix[(j, i)] = matrix[(i, j)];
        }
    }
    reduce_to_band(matrix.as_mut(), WIDTH);
    let mut band = Band::of(&matrix, WIDTH);
    drop(matrix);
    band.reduce_to_tridiagonal();
    let mut values: Vec<f64> = (0..n).map(|i| band.at(i, i)).collect();
    let below = (1..n).map(|i| band.at(i, i - 1)).chain([0.0]).collect();
    tridiagonal_eigenvalues(&mut values, below)?;
    values.sort_by(|a, b| b.total_cmp(a));
    Ok(values)
}

/// Makes all entries further than `width` from the diagonal zero.
fn reduce_to_band(mut a: MatMut<'_, f64>, width: usize) {
    let n = a.nrows();
    let par = get_global_parallelism();
    let mut start = 0;
    while start + width + 1 < n {
        let below = start + width;
        let rows = n - below;
        let cols = width.min(rows);
        // V: the reflectors of the panel's QR decomposition.
        let mut v = a.rb().submatrix(below, start, rows, width).to_owned();
        let inverse_scales = reflect_columns(v.as_mut(), cols);
        // The panel becomes R.
        for j in 0..width {
            for i in 0..rows {
                let x = if i <= j || j >= cols { v[(i, j)] } else { 0.0 };
                a[(below + i, start + j)] = x;
                a[(start + j, below + i)] = x;
            }
        }
        let mut v = v.as_ref().subcols(0, cols).to_owned();
        for j in 0..cols {
            for i in 0..j {
                v[(i, j)] = 0.0;
            }
            v[(j, j)] = 1.0;
        }
        // Q = I - V T Vᵀ, with T⁻¹ = the strict upper triangle of VᵀV and 1/τ on the diagonal.
        let mut inner = Mat::<f64>::zeros(cols, cols);
        matmul(inner.as_mut(), Accum::Replace, v.transpose(), v.as_ref(), 1.0, par);
        let t = triangular_inverse(&inner, &inverse_scales);
        let mut trailing = a.rb_mut().submatrix_mut(below, below, rows, rows);
        let mut av = Mat::<f64>::zeros(rows, cols);
        matmul(av.as_mut(), Accum::Replace, trailing.as_ref(), v.as_ref(), 1.0, par);
        let mut w = Mat::<f64>::zeros(rows, cols);
        matmul(w.as_mut(), Accum::Replace, av.as_ref(), t.as_ref(), 1.0, par);
        let mut vw = Mat::<f64>::zeros(cols, cols);
        matmul(vw.as_mut(), Accum::Replace, v.transpose(), w.as_ref(), 1.0, par);
        let mut tvw = Mat::<f64>::zeros(cols, cols);
        matmul(tvw.as_mut(), Accum::Replace, t.transpose(), vw.as_ref(), 1.0, par);
        matmul(w.as_mut(), Accum::Add, v.as_ref(), tvw.as_ref(), -0.5, par);
        // C - X Vᵀ - V Xᵀ as one product.
        let mut left = Mat::<f64>::zeros(rows, 2 * cols);
        let mut right = Mat::<f64>::zeros(rows, 2 * cols);
        left.as_mut().subcols_mut(0, cols).copy_from(&w);
        left.as_mut().subcols_mut(cols, cols).copy_from(&v);
        right.as_mut().subcols_mut(0, cols).copy_from(&v);
        right.as_mut().subcols_mut(cols, cols).copy_from(&w);
        matmul(trailing.rb_mut(), Accum::Add, left.as_ref(), right.transpose(), -1.0, par);
        start += width;
    }
}

/// Householder QR of the first `cols` columns, applied to all; the reflectors are left below the
/// diagonal, R on and above it. Returns 1/τ of each.
fn reflect_columns(mut a: MatMut<'_, f64>, cols: usize) -> Vec<f64> {
    let width = a.ncols();
    let mut scales = Vec::with_capacity(cols);
    for j in 0..cols {
        let (mut done, mut rest) = a.rb_mut().split_at_col_mut(j + 1);
        let tail = &mut slice(done.rb_mut(), j)[j..];
        let scale = reflector(tail);
        scales.push(scale);
        if scale.is_infinite() {
            continue;
        }
        for k in 0..width - j - 1 {
            reflect(&tail[1..], scale, &mut slice(rest.rb_mut(), k)[j..]);
        }
    }
    scales
}

/// A column as a slice.
fn slice(matrix: MatMut<'_, f64>, column: usize) -> &mut [f64] {
    let column = matrix.col_mut(column).try_as_col_major_mut();
    column.expect("an owned matrix has its columns in one piece").as_slice_mut()
}

/// Makes `x` the reflector that maps it to a multiple of the first axis: `x[0]` becomes that
/// multiple, the rest the vector after its leading 1. Returns 1/τ; infinite for no reflection.
fn reflector(x: &mut [f64]) -> f64 {
    let tail = dot(&x[1..], &x[1..]);
    if tail == 0.0 {
        return f64::INFINITY;
    }
    let head = x[0];
    let norm = (head * head + tail).sqrt().copysign(head);
    let pivot = head + norm;
    x[0] = -norm;
    x[1..].iter_mut().for_each(|x| *x /= pivot);
    // τ = 2 / |v|², with v = (1, tail / pivot).
    (1.0 + tail / (pivot * pivot)) / 2.0
}

/// `y -= v τ (vᵀ y)` for `v = (1, tail)`.
fn reflect(tail: &[f64], scale: f64, y: &mut [f64]) {
    let factor = (y[0] + dot(tail, &y[1..])) / scale;
    y[0] -= factor;
    axpy(-factor, tail, &mut y[1..]);
}

#[inline]
fn dot(a: &[f64], b: &[f64]) -> f64 {
    // Independent sums, so that the compiler may use vectors.
    let mut sums = [0.0; 8];
    let (a_parts, b_parts) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = a_parts.remainder().iter().zip(b_parts.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_parts.zip(b_parts) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f64>() + rest
}

#[inline]
fn axpy(factor: f64, x: &[f64], y: &mut [f64]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += factor * x);
}

/// The inverse of the upper triangular matrix with the strict upper triangle of `inner` and
/// `diagonal`; an infinite entry there gives a row and a column of zeros.
fn triangular_inverse(inner: &Mat<f64>, diagonal: &[f64]) -> Mat<f64> {
    let n = diagonal.len();
    let mut inverse = Mat::<f64>::zeros(n, n);
    for j in 0..n {
        inverse[(j, j)] = 1.0 / diagonal[j];
        for i in (0..j).rev() {
            let sum: f64 = (i + 1..=j).map(|k| inner[(i, k)] * inverse[(k, j)]).sum();
            inverse[(i, j)] = -sum / diagonal[i];
        }
    }
    inverse
}

/// The lower half of a symmetric band matrix, with room for the bulges of the reduction.
struct Band {
    n: usize,
    width: usize,
    /// Column after column, each from its diagonal entry down.
    data: Vec<f64>,
}

impl Band {
    fn of(matrix: &Mat<f64>, width: usize) -> Self {
        let n = matrix.nrows();
        let stride = 2 * width;
        let mut data = vec![0.0; n * stride];
        for j in 0..n {
            for i in j..(j + width + 1).min(n) {
                data[j * stride + i - j] = matrix[(i, j)];
            }
        }
        Self { n, width, data }
    }

    fn at(&self, i: usize, j: usize) -> f64 {
        self.data[j * 2 * self.width + i - j]
    }

    /// Rows `from..from + len` of column `j`, at or below the diagonal.
    fn column(&mut self, j: usize, from: usize, len: usize) -> &mut [f64] {
        let start = j * 2 * self.width + from - j;
        &mut self.data[start..start + len]
    }

    /// Chases every column's entries below the first subdiagonal out of the matrix.
    fn reduce_to_tridiagonal(&mut self) {
        let (n, width) = (self.n, self.width);
        let mut v = vec![0.0; width];
        let mut next = vec![0.0; width];
        let mut p = vec![0.0; width];
        for k in 0..n.saturating_sub(2) {
            let mut from = k + 1;
            let mut len = width.min(n - from);
            let mut scale = self.take_reflector(k, from, &mut v[..len]);
            loop {
                if scale.is_finite() {
                    self.reflect_diagonal(from, &v[..len], scale, &mut p[..len]);
                }
                let below = from + len;
                if below >= n {
                    break;
                }
                let rows = width.min(n - below);
                if scale.is_finite() {
                    // B (I - τ v vᵀ)
                    let p = &mut p[..rows];
                    p.fill(0.0);
                    for (j, v) in v[..len].iter().enumerate() {
                        axpy(*v, self.column(from + j, below, rows), p);
                    }
                    for (j, v) in v[..len].iter().enumerate() {
                        axpy(-v / scale, p, self.column(from + j, below, rows));
                    }
                }
                // The bulge's first column goes, the rest waits for the next sweep.
                let next_scale = self.take_reflector(from, below, &mut next[..rows]);
                if next_scale.is_finite() {
                    for j in 1..len {
                        let column = self.column(from + j, below, rows);
                        reflect(&next[1..rows], next_scale, column);
                    }
                }
                std::mem::swap(&mut v, &mut next);
                (from, len, scale) = (below, rows, next_scale);
            }
        }
    }

    /// Reflects entries of column `j` onto the first of them. `v` gets the reflector with its
    /// leading 1.
    fn take_reflector(&mut self, j: usize, from: usize, v: &mut [f64]) -> f64 {
        let column = self.column(j, from, v.len());
        v.copy_from_slice(column);
        let scale = reflector(v);
        if scale.is_finite() {
            column[0] = v[0];
            column[1..].fill(0.0);
        }
        v[0] = 1.0;
        scale
    }

    /// The diagonal block from `from` on, reflected from both sides.
    fn reflect_diagonal(&mut self, from: usize, v: &[f64], scale: f64, p: &mut [f64]) {
        let len = v.len();
        // p = D v, of the lower half.
        p.fill(0.0);
        for j in 0..len {
            let column = self.column(from + j, from + j, len - j);
            p[j] += column[0] * v[j] + dot(&column[1..], &v[j + 1..]);
            axpy(v[j], &column[1..], &mut p[j + 1..]);
        }
        let tau = 1.0 / scale;
        let half = 0.5 * tau * dot(v, p);
        // w = τ (p - half v), D -= v wᵀ + w vᵀ
        for (p, v) in p.iter_mut().zip(v) {
            *p = tau * (*p - half * v);
        }
        for j in 0..len {
            let (vj, wj) = (v[j], p[j]);
            let column = self.column(from + j, from + j, len - j);
            for ((x, v), w) in column.iter_mut().zip(&v[j..]).zip(&p[j..]) {
                *x -= v * wj + w * vj;
            }
        }
    }
}

/// Turns the diagonal of a symmetric tridiagonal matrix into its eigenvalues, in no order, by QL
/// steps with implicit shifts (Wilkinson and Reinsch, 1971). `below` are the entries below the
/// diagonal and one more.
fn tridiagonal_eigenvalues(diagonal: &mut [f64], mut below: Vec<f64>) -> Result<(), LinalgError> {
    let n = diagonal.len();
    let largest = diagonal.iter().chain(&below).fold(0.0f64, |most, x| most.max(x.abs()));
    // The reduction leaves rounding errors of this size. Where the diagonal holds nothing else,
    // no entry is small compared with it.
    let nothing = f64::EPSILON * largest / 8.0;
    for l in 0..n {
        let mut rounds = 0;
        loop {
            let small = |m: usize| {
                let beside = diagonal[m].abs() + diagonal[m + 1].abs();
                below[m].abs() <= (f64::EPSILON * beside).max(nothing)
            };
            let m = (l..n - 1).find(|m| small(*m)).unwrap_or(n - 1);
            if m == l {
                break;
            }
            rounds += 1;
            if rounds > MOST_ROUNDS {
                return Err(LinalgError::NoConvergence);
            }
            let mut g = (diagonal[l + 1] - diagonal[l]) / (2.0 * below[l]);
            let mut r = g.hypot(1.0);
            g = diagonal[m] - diagonal[l] + below[l] / (g + r.copysign(g));
            let (mut s, mut c, mut p) = (1.0, 1.0, 0.0);
            let mut underflow = false;
            for i in (l..m).rev() {
                let f = s * below[i];
                let b = c * below[i];
                r = (f * f + g * g).sqrt();
                below[i + 1] = r;
                if r == 0.0 {
                    diagonal[i + 1] -= p;
                    below[m] = 0.0;
                    underflow = true;
                    break;
                }
                s = f / r;
                c = g / r;
                g = diagonal[i + 1] - p;
                r = (diagonal[i] - g) * s + 2.0 * c * b;
                p = s * r;
                diagonal[i + 1] = g + p;
                g = c * r - b;
            }
            if underflow {
                continue;
            }
            diagonal[l] -= p;
            below[l] = g;
            below[m] = 0.0;
        }
    }
    Ok(())
}

/// Most steps for one eigenvalue; two are usual.
const MOST_ROUNDS: usize = 60;

#[cfg(test)]
mod tests {
    use faer::Side;

    use super::*;

    fn random(seed: u64, rows: usize, cols: usize) -> Mat<f64> {
        let mut state = 0x9e3779b97f4a7c15u64 ^ seed;
        Mat::from_fn(rows, cols, |_, _| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        })
    }

    /// The largest difference from faer's eigenvalues, in units of rounding of the largest one.
    fn gap(matrix: Mat<f64>) -> f64 {
        let mut expected = matrix.self_adjoint_eigenvalues(Side::Lower).unwrap();
        expected.reverse();
        let got = symmetric_eigenvalues(matrix).unwrap();
        assert_eq!(got.len(), expected.len());
        let scale = expected.iter().fold(f64::MIN_POSITIVE, |most, x| most.max(x.abs()));
        let gap = got.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        gap / (scale * f64::EPSILON)
    }

    /// How far both algorithms may be off: a few units of rounding per column.
    fn bound(n: usize) -> f64 {
        10.0 + 2.0 * n as f64
    }

    #[test]
    fn values_are_those_of_the_plain_reduction_for_any_size() {
        for n in [1, 2, 3, 31, 32, 33, 34, 64, 65, 66, 97, 130, 300] {
            let x = random(n as u64, n, n);
            // Indefinite, and a Gram matrix.
            assert!(gap(&x + x.transpose()) < bound(n), "{n}");
            assert!(gap(&x * x.transpose()) < bound(n), "{n}");
        }
    }

    #[test]
    fn nasty_matrices_have_their_values_too() {
        let n = 150;
        let thin = random(1, n, 7);
        let with_values = |values: &[f64]| {
            let q = random(2, n, n).qr().compute_Q();
            let scaled = Mat::from_fn(n, n, |i, j| q[(i, j)] * values[j]);
            let product = scaled * q.transpose();
            Mat::from_fn(n, n, |i, j| product[(i.max(j), i.min(j))])
        };
        let clustered: Vec<f64> = (0..n).map(|i| if i < 50 { 1.0 } else { 1e-9 }).collect();
        let falling: Vec<f64> = (0..n).map(|i| 0.8f64.powi(i as i32)).collect();
        for (what, matrix) in [
            ("zero", Mat::zeros(n, n)),
            ("one", Mat::identity(n, n)),
            ("of rank 7", &thin * thin.transpose()),
            ("clustered", with_values(&clustered)),
            ("falling over 14 digits", with_values(&falling)),
            ("huge", with_values(&falling) * faer::Scale(1e100)),
            ("diagonal", Mat::from_fn(n, n, |i, j| if i == j { i as f64 } else { 0.0 })),
        ] {
            assert!(gap(matrix) < bound(n), "{what}");
        }
    }
}
