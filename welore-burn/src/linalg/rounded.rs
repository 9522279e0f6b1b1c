//! What a norm says about the rounding of a matrix and of its factors.

use std::sync::Arc;

use faer::linalg::triangular_solve::{
    solve_lower_triangular_in_place, solve_upper_triangular_in_place,
};
use faer::{Mat, get_global_parallelism};

use super::feedback::Feedback;
use super::matrix::{LinalgError, Matrix, lower_product};
use super::moments::root;
use super::weighted::Weighting;

/// Added to the second moments of the components of factors, as a share of their mean: components
/// that are zero would leave them singular.
const RIDGE: f64 = 1e-6;

impl Weighting {
    /// How the columns of a matrix make up for each other in this norm, and how its rows do. `None`
    /// on a side that the norm knows nothing about.
    pub(crate) fn feedback(&self) -> Result<[Option<Arc<Feedback>>; 2], LinalgError> {
        let rows = self.output.as_deref().map(|root| root.feedback()).transpose()?;
        Ok([self.feedback_of_columns()?, rows])
    }

    /// How the columns alone do.
    pub(crate) fn feedback_of_columns(&self) -> Result<Option<Arc<Feedback>>, LinalgError> {
        self.input.as_deref().map(|root| root.feedback()).transpose()
    }

    /// The matrix that has no error in this norm: the given one, or, where inputs have changed, the
    /// one that makes up for that.
    pub(crate) fn best(&self, matrix: &Matrix) -> Result<Matrix, LinalgError> {
        let (Some(target), Some(input)) = (&self.target, self.input.as_deref()) else {
            return Ok(matrix.clone());
        };
        // A L = W T, that is Lᵀ Aᵀ = (W T)ᵀ.
        let mut turned = (matrix.view() * &**target).transpose().to_owned();
        input.divide_transposed(&mut turned);
        Matrix::from_view(turned.transpose())
    }

    /// The norm for the errors of [`best`](Weighting::best) matrices, which have made up for inputs
    /// that have changed.
    pub(crate) fn of_best(&self) -> Self {
        Self::new(self.input.clone(), self.output.clone())
    }

    /// The left factor with which a right one comes closest to a matrix.
    pub(crate) fn fit_left(&self, matrix: &Matrix, right: &Matrix) -> Result<Matrix, LinalgError> {
        // W L and V L; the norm of the outputs does not change what is best.
        let ours = self.with_inputs(right);
        let theirs = self.with_inputs(matrix);
        // U (V L) (V L)ᵀ = (W L) (V L)ᵀ.
        let lower = root(&ridged(lower_product(ours.as_ref(), ours.transpose())))?;
        let mut turned = &ours * theirs.transpose();
        let par = get_global_parallelism();
        solve_lower_triangular_in_place(lower.as_ref(), turned.as_mut(), par);
        solve_upper_triangular_in_place(lower.transpose(), turned.as_mut(), par);
        Matrix::from_view(turned.transpose())
    }

    /// How the columns of a left factor make up for each other, given the right one.
    pub(crate) fn feedback_of_left(&self, right: &Matrix) -> Result<Feedback, LinalgError> {
        let ours = self.with_inputs(right);
        Feedback::of_mean(&ridged(lower_product(ours.as_ref(), ours.transpose())))
    }

    /// How the rows of a right factor make up for each other, given the left one.
    pub(crate) fn feedback_of_right(&self, left: &Matrix) -> Result<Feedback, LinalgError> {
        let ours = match self.output.as_deref() {
            Some(output) => output.transposed_before(left.view()),
            None => left.view().to_owned(),
        };
        Feedback::of_mean(&ridged(lower_product(ours.transpose(), ours.as_ref())))
    }

    /// How some rows of a matrix make up for each other, if the norm knows about outputs.
    pub(crate) fn feedback_of_rows(&self, rows: &[usize]) -> Result<Option<Feedback>, LinalgError> {
        self.output.as_deref().map(|root| root.feedback_of(rows)).transpose()
    }

    fn with_inputs(&self, matrix: &Matrix) -> Mat<f64> {
        match self.input.as_deref() {
            Some(input) => input.after(matrix.view()),
            None => matrix.view().to_owned(),
        }
    }
}

/// A second moment, of which the lower half is there, that is not singular.
fn ridged(mut moment: Mat<f64>) -> Mat<f64> {
    let size = moment.nrows();
    let mean = (0..size).map(|i| moment[(i, i)]).sum::<f64>() / size.max(1) as f64;
    let added = if mean > 0.0 { RIDGE * mean } else { 1.0 };
    for i in 0..size {
        moment[(i, i)] += added;
        for j in i + 1..size {
            moment[(i, j)] = moment[(j, i)];
        }
    }
    moment
}

#[cfg(test)]
mod tests {
    use super::super::cross::CrossMoment;
    use super::super::moments::{Root, SecondMoment};
    use super::*;

    const SHAPE: [usize; 2] = [7, 9];

    fn entries(count: usize, phase: f64) -> Vec<f64> {
        (0..count).map(|i| ((i * i) as f64 * 0.37 + phase).sin()).collect()
    }

    fn singles(count: usize, phase: f64) -> Vec<f32> {
        entries(count, phase).into_iter().map(|x| x as f32).collect()
    }

    fn moment(size: usize) -> SecondMoment {
        let mut moment = SecondMoment::new(size);
        moment.add(&singles(40 * size, size as f64));
        moment
    }

    fn root_of(size: usize) -> Arc<Root> {
        Arc::new(moment(size).root(1e-3).unwrap())
    }

    fn matrix(rows: usize, cols: usize, phase: f64) -> Matrix {
        Matrix::new(rows, cols, entries(rows * cols, phase)).unwrap()
    }

    fn minus(a: &Matrix, b: &Matrix) -> Matrix {
        let gaps = a.data().iter().zip(b.data()).map(|(a, b)| a - b).collect();
        Matrix::new(a.rows(), a.cols(), gaps).unwrap()
    }

    #[test]
    fn no_other_left_factor_is_closer() {
        let [rows, cols] = SHAPE;
        let norm = Weighting::new(Some(root_of(cols)), Some(root_of(rows)));
        let (whole, right) = (matrix(rows, cols, 1.0), matrix(3, cols, 2.0));
        let left = norm.fit_left(&whole, &right).unwrap();
        let error = |left: &Matrix| {
            norm.apply(&minus(&whole, &left.product(&right).unwrap())).unwrap().norm()
        };
        let best = error(&left);
        for at in 0..rows * 3 {
            for step in [-1e-2, 1e-2] {
                let mut other = left.data().to_vec();
                other[at] += step;
                assert!(error(&Matrix::new(rows, 3, other).unwrap()) > best);
            }
        }
    }

    #[test]
    fn the_best_matrix_is_the_target_and_errors_are_counted_from_there() {
        let [rows, cols] = SHAPE;
        let mut cross = CrossMoment::new(cols);
        let (x, y) = (singles(40 * cols, 5.0), singles(40 * cols, 6.0));
        cross.add(&x, &y);
        let seen = moment(cols);
        let norm = Weighting::sequential(&seen, &cross, 0.5, 1e-3, Some(root_of(rows))).unwrap();
        let whole = matrix(rows, cols, 1.0);
        let best = norm.best(&whole).unwrap();
        let gap = minus(&norm.apply(&whole).unwrap(), &norm.of_best().apply(&best).unwrap());
        assert!(gap.norm() < 1e-9 * whole.norm(), "{}", gap.norm());
        let plain = Weighting::plain();
        assert_eq!(plain.best(&whole).unwrap(), whole);
    }

    #[test]
    fn what_makes_up_for_nothing_rounds_like_inputs_that_are_not_correlated_at_any_size() {
        let [rows, cols] = SHAPE;
        let rounded = |columns: &Feedback, between: &Feedback| {
            let mut matrix: Vec<f32> = singles(rows * cols, 3.0).iter().map(|x| 9.0 * x).collect();
            columns.pass_both(
                between,
                &mut matrix,
                3,
                |_, _| (),
                |_, (), block| block.round(|_, x| x.round()),
            );
            matrix
        };
        let plain = |size: usize| {
            Feedback::new(&SecondMoment::from_squares(&vec![1.0; size], 1).unwrap(), 0.0).unwrap()
        };
        let known = Feedback::new(&moment(rows), 1e-3).unwrap();
        let found = rounded(&Feedback::even(cols), &known);
        assert_eq!(found, rounded(&plain(cols), &known));
        assert_eq!(
            rounded(&Feedback::even(cols), &Feedback::even(rows)),
            rounded(&plain(cols), &plain(rows))
        );
        // A vocabulary is too large for a square of it.
        assert!(Feedback::even(1 << 20).bytes() < 1 << 24);
    }

    #[test]
    fn feedback_has_the_determinant_of_the_moment() {
        let [rows, cols] = SHAPE;
        let norm = Weighting::new(Some(root_of(cols)), None);
        let [columns, none] = norm.feedback().unwrap();
        assert!(none.is_none());
        let product = |weights: &[f64]| weights.iter().map(|x| x.ln()).sum::<f64>();
        let found = product(columns.unwrap().weights());
        let wanted = product(Feedback::new(&moment(cols), 1e-3).unwrap().weights());
        assert!((found - wanted).abs() < 1e-9, "{found} {wanted}");
        // A component of zeros is rounded, too.
        let right = Matrix::new(2, cols, [entries(cols, 0.3), vec![0.0; cols]].concat()).unwrap();
        assert_eq!(norm.feedback_of_left(&right).unwrap().size(), 2);
        assert_eq!(norm.feedback_of_right(&matrix(rows, 2, 0.0)).unwrap().size(), 2);
    }
}
