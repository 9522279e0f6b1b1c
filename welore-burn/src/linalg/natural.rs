//! Steps of a matrix of low rank down a gradient, as steep as the curvature of the loss allows.

use faer::linalg::triangular_solve::{
    solve_lower_triangular_in_place, solve_upper_triangular_in_place,
};
use faer::{Mat, MatRef, get_global_parallelism};

use super::matrix::{LinalgError, Matrix};
use super::moments::{SecondMoment, root};

/// The natural gradient step of a matrix `left · right`, `[out, rank]` and `[rank, in]`, which stays of
/// its rank: the changes `X` of `left` and `Y` of `right`.
///
/// The curvature is that of K-FAC: the Kronecker product of the second moments of inputs `A` and of
/// the gradients of outputs `B`, with `damping` added to their diagonals, as a share of their means.
/// With the gradient `G` of the whole matrix, of which only `G_left = G rightᵀ` and
/// `G_right = leftᵀ G` are needed, the step is `-B⁻¹ G A⁻¹`, projected in the norm of the curvature
/// on the changes `X right + left Y` that keep the rank:
///
/// ```text
/// Y = -(leftᵀ B left)⁻¹ G_right A⁻¹
/// X = -(B⁻¹ G_left - left (leftᵀ B left)⁻¹ leftᵀ G_left) (right A rightᵀ)⁻¹
/// ```
///
/// So the product changes in the same way however the factors share it.
///
/// # Errors
///
/// [`LinalgError::Inner`] if sizes differ, [`LinalgError::NotFinite`], [`LinalgError::NoConvergence`].
pub fn natural_step(
    [left, right]: [&Matrix; 2],
    [gradient_left, gradient_right]: [&Matrix; 2],
    inputs: &SecondMoment,
    outputs: &SecondMoment,
    damping: [f64; 2],
) -> Result<[Matrix; 2], LinalgError> {
    check_same(left.cols(), right.rows())?;
    check_same(inputs.size(), right.cols())?;
    check_same(outputs.size(), left.rows())?;
    for (of, gradient) in [(left, gradient_left), (right, gradient_right)] {
        check_same(of.rows(), gradient.rows())?;
        check_same(of.cols(), gradient.cols())?;
    }
    let (u, v) = (left.view(), right.view());
    let (a, b) = (inputs.damped(damping[0]), outputs.damped(damping[1]));
    let (after_b, before_a) = (b.as_ref() * u, v * a.as_ref());
    let of_left = root(&(u.transpose() * after_b.as_ref()))?;
    let of_right = root(&(before_a.as_ref() * v.transpose()))?;
    // A⁻¹ G_rightᵀ, and from it Yᵀ.
    let turned = solved(&root(&a)?, gradient_right.view().transpose().to_owned());
    let y = solved(&of_left, turned.transpose().to_owned());
    let beyond = u.transpose() * gradient_left.view();
    let within = u * solved(&of_left, beyond).as_ref();
    let outside = solved(&root(&b)?, gradient_left.view().to_owned()) - within;
    let x = solved(&of_right, outside.transpose().to_owned());
    Ok([negated(x.transpose())?, negated(y.as_ref())?])
}

fn check_same(left: usize, right: usize) -> Result<(), LinalgError> {
    match left == right {
        true => Ok(()),
        false => Err(LinalgError::Inner { left, right }),
    }
}

/// `(L Lᵀ)⁻¹ M`
fn solved(lower: &Mat<f64>, mut matrix: Mat<f64>) -> Mat<f64> {
    let par = get_global_parallelism();
    solve_lower_triangular_in_place(lower.as_ref(), matrix.as_mut(), par);
    solve_upper_triangular_in_place(lower.transpose(), matrix.as_mut(), par);
    matrix
}

fn negated(matrix: MatRef<'_, f64>) -> Result<Matrix, LinalgError> {
    let negative = Mat::from_fn(matrix.nrows(), matrix.ncols(), |i, j| -matrix[(i, j)]);
    Matrix::from_view(negative.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [f64; 2] = [0.0, 0.0];

    /// Numbers of mean 0, always the same.
    fn random(seed: u64, count: usize) -> Vec<f64> {
        let mut state = 0x9e37_79b9_7f4a_7c15u64 ^ seed;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    fn matrix(seed: u64, rows: usize, cols: usize) -> Matrix {
        Matrix::new(rows, cols, random(seed, rows * cols)).unwrap()
    }

    fn moment(seed: u64, size: usize) -> SecondMoment {
        let mut moment = SecondMoment::new(size);
        moment.add(&random(seed, 4 * size * size).iter().map(|x| *x as f32).collect::<Vec<_>>());
        moment
    }

    fn sum(a: &Matrix, b: &Matrix) -> Matrix {
        let data = a.data().iter().zip(b.data()).map(|(a, b)| a + b).collect();
        Matrix::new(a.rows(), a.cols(), data).unwrap()
    }

    /// How the product changes, to first order.
    fn change([x, y]: &[Matrix; 2], left: &Matrix, right: &Matrix) -> Matrix {
        sum(&x.product(right).unwrap(), &left.product(y).unwrap())
    }

    fn assert_near(a: &Matrix, b: &Matrix) {
        let gap = a.data().iter().zip(b.data()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(gap < 1e-8 * b.norm(), "{gap} of {}", b.norm());
    }

    fn step(left: &Matrix, right: &Matrix, gradient: &Matrix) -> [Matrix; 2] {
        let of_left = gradient.product(&right.transposed()).unwrap();
        let of_right = left.transposed().product(gradient).unwrap();
        let (inputs, outputs) = (moment(5, right.cols()), moment(6, left.rows()));
        natural_step([left, right], [&of_left, &of_right], &inputs, &outputs, NONE).unwrap()
    }

    #[test]
    fn an_error_that_keeps_the_rank_is_made_up_for_by_one_full_step() {
        // The gradient of ½ tr(B ΔW A ΔWᵀ) at an error E is B E A, and the step is -E.
        let (left, right) = (matrix(1, 7, 3), matrix(2, 3, 5));
        let error = change(&[matrix(3, 7, 3), matrix(4, 3, 5)], &left, &right);
        let whole = |moment: SecondMoment| Matrix::from_view(moment.damped(0.0).as_ref()).unwrap();
        let (a, b) = (whole(moment(5, 5)), whole(moment(6, 7)));
        let gradient = b.product(&error).unwrap().product(&a).unwrap();
        let found = change(&step(&left, &right, &gradient), &left, &right);
        let opposite = error.data().iter().map(|x| -x).collect();
        assert_near(&found, &Matrix::new(7, 5, opposite).unwrap());
    }

    #[test]
    fn the_product_changes_in_the_same_way_however_factors_share_it() {
        let (left, right, gradient) = (matrix(1, 7, 3), matrix(2, 3, 5), matrix(3, 7, 5));
        let expected = change(&step(&left, &right, &gradient), &left, &right);
        let by = |entries: [f64; 9]| Matrix::new(3, 3, entries.to_vec()).unwrap();
        let there = by([2.0, 0.0, 0.0, 4.0, 8.0, 0.0, 0.0, 0.0, 0.25]);
        let back = by([0.5, 0.0, 0.0, -0.25, 0.125, 0.0, 0.0, 0.0, 4.0]);
        let (left, right) = (left.product(&there).unwrap(), back.product(&right).unwrap());
        assert_near(&change(&step(&left, &right, &gradient), &left, &right), &expected);
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let (left, right) = (matrix(1, 7, 3), matrix(2, 3, 5));
        let (inputs, outputs) = (moment(5, 5), moment(6, 7));
        let try_with = |gradients: [&Matrix; 2], inputs: &SecondMoment| {
            natural_step([&left, &right], gradients, inputs, &outputs, NONE)
        };
        assert!(try_with([&left, &right], &inputs).is_ok());
        assert!(try_with([&right, &left], &inputs).is_err());
        assert!(try_with([&left, &right], &outputs).is_err());
    }
}
