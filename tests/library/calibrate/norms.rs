//! Factors that are best in the norms that second moments define.

use std::sync::Arc;

use welore_burn::linalg::{
    BalancedFactors, CrossMoment, LinalgError, Matrix, Root, SecondMoment, Weighting,
};

/// Deterministic entries in (-1, 1).
fn entries(count: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        })
        .collect()
}

fn moment(rows: usize, size: usize, seed: u64) -> (SecondMoment, Vec<f32>) {
    let values: Vec<f32> = entries(rows * size, seed).iter().map(|x| *x as f32).collect();
    let mut moment = SecondMoment::new(size);
    moment.add(&values);
    (moment, values)
}

fn root(moment: &SecondMoment, shrink: f64) -> Option<Arc<Root>> {
    Some(Arc::new(moment.root(shrink).unwrap()))
}

/// The mean of `(gᵀ E x)²` over all pairs, for an error `E [out, in]`: the square of the weighted
/// norm.
fn weighted_error(
    error: &[f64],
    inputs: &[f32],
    gradients: &[f32],
    out: usize,
    size: usize,
) -> f64 {
    let (n, k) = (inputs.len() / size, gradients.len() / out);
    let mut sum = 0.0;
    for x in inputs.chunks(size) {
        let answer: Vec<f64> = (0..out)
            .map(|i| (0..size).map(|j| error[i * size + j] * f64::from(x[j])).sum())
            .collect();
        for g in gradients.chunks(out) {
            sum += g.iter().zip(&answer).map(|(g, a)| f64::from(*g) * a).sum::<f64>().powi(2);
        }
    }
    sum / (n * k) as f64
}

#[test]
fn weighted_factors_are_the_best_of_their_rank_in_the_norm_of_the_data() {
    let (out, size, rank) = (7, 9, 3);
    let (inputs, x) = moment(60, size, 1);
    let (gradients, g) = moment(50, out, 2);
    let w = Matrix::new(out, size, entries(out * size, 3)).unwrap();
    let norm = Weighting::new(root(&inputs, 0.0), root(&gradients, 0.0));
    let values = norm.singular_values(&w).unwrap();
    let error_of = |left: &[f64], right: &[f64]| {
        let mut error = w.data().to_vec();
        for i in 0..out {
            for j in 0..size {
                error[i * size + j] -=
                    (0..rank).map(|k| left[i * rank + k] * right[k * size + j]).sum::<f64>();
            }
        }
        weighted_error(&error, &x, &g, out, size)
    };
    let factors = norm.factors(&w, rank).unwrap();
    let found = error_of(factors.left.data(), factors.right.data());
    let tail: f64 = values[rank..].iter().map(|s| s * s).sum();
    // Moments are summed in f32 from rows in f32.
    assert!((found / tail - 1.0).abs() < 1e-4, "{found} for {tail}");
    let total: f64 = values.iter().map(|s| s * s).sum();
    assert!((factors.relative_error - (tail / total).sqrt()).abs() < 1e-9);
    // No other factors are better: neither the plain ones nor any nearby.
    let plain = Weighting::plain().factors(&w, rank).unwrap();
    assert!(error_of(plain.left.data(), plain.right.data()) > found * 1.01);
    for seed in 0..50 {
        let nudge = |values: &[f64], seed| -> Vec<f64> {
            let nudges = entries(values.len(), seed);
            values.iter().zip(nudges).map(|(x, d)| x + 1e-3 * d).collect()
        };
        let (left, right) =
            (nudge(factors.left.data(), seed + 10), nudge(factors.right.data(), seed + 90));
        assert!(error_of(&left, &right) >= found * (1.0 - 1e-6));
    }
}

#[test]
fn deficient_moments_still_give_finite_factors() {
    let (inputs, _) = moment(4, 12, 5);
    let w = Matrix::new(8, 12, entries(96, 6)).unwrap();
    for shrink in [0.0, 1e-3] {
        let norm = Weighting::new(root(&inputs, shrink), None);
        let factors = norm.factors(&w, 5).unwrap();
        assert!(
            factors.left.data().iter().chain(factors.right.data()).all(|x| x.is_finite()),
            "{shrink:?}"
        );
    }
    let none = SecondMoment::new(12);
    assert!(Weighting::new(root(&none, 1e-3), None).factors(&w, 3).is_ok());
}

#[test]
fn moments_that_are_no_numbers_have_no_root() {
    for wrong in [f32::NAN, f32::INFINITY] {
        for shrink in [0.0, 1e-3] {
            let mut moment = SecondMoment::new(3);
            moment.add(&[1.0, 2.0, 3.0]);
            moment.add(&[1.0, wrong, 1.0]);
            let error = moment.root(shrink).unwrap_err();
            assert!(matches!(error, LinalgError::NotFinite { .. }), "{wrong} {shrink}: {error}");
        }
    }
    let mut cross = CrossMoment::new(2);
    cross.add(&[1.0, 2.0], &[3.0, 4.0]);
    assert!(cross.is_finite());
    cross.add(&[1.0, f32::NAN], &[3.0, 4.0]);
    assert!(!cross.is_finite());
}

#[test]
fn a_matrix_that_sees_what_it_should_is_factored_as_without_a_sequence() {
    let (seen, x) = moment(80, 10, 7);
    let mut cross = CrossMoment::new(10);
    cross.add(&x, &x);
    let w = Matrix::new(6, 10, entries(60, 8)).unwrap();
    let plain = Weighting::new(root(&seen, 0.0), None).factors(&w, 3).unwrap();
    for follow in [0.0, 0.5, 1.0] {
        let norm = Weighting::sequential(&seen, &cross, follow, 0.0, None).unwrap();
        let factors = norm.factors(&w, 3).unwrap();
        let product = |f: &BalancedFactors| f.left.product(&f.right).unwrap().into_data();
        for (a, b) in product(&factors).iter().zip(product(&plain)) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
    }
}
