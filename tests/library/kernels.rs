//! Low-rank kernels of other papers are the whitened truncation, and what a bias adds to it.

use std::sync::Arc;

use burn::tensor::{Int, Tensor, TensorData};
use welore_burn::linalg::{Matrix, SecondMoment, Weighting, balanced_factors};
use welore_burn::model::LanguageModel;

use crate::{checkpoint, device, story_tokens, tiny_llama};

fn entries(count: usize, phase: f64) -> Vec<f64> {
    (0..count).map(|i| ((i * i) as f64 * 0.37 + phase).sin()).collect()
}

fn moment_of(rows: &[f32], size: usize) -> SecondMoment {
    let mut moment = SecondMoment::new(size);
    moment.add(rows);
    moment
}

/// `W` truncated at a rank, in the norm of the inputs that have this second moment.
fn truncated(matrix: &Matrix, inputs: &SecondMoment, rank: usize) -> Matrix {
    let norm = Weighting::new(Some(Arc::new(inputs.root(0.0).unwrap())), None);
    let factors = norm.factors(matrix, rank).unwrap();
    factors.left.product(&factors.right).unwrap()
}

/// LoRD (arXiv 2309.14021) and Bolaco (arXiv 2405.10616) project a matrix on the leading
/// eigenvectors `Q` of the second moment of its outputs, `E[y yᵀ] = W C Wᵀ`, and keep `Q` and `Qᵀ W`.
#[test]
fn projections_on_eigenvectors_of_outputs_are_the_whitened_truncation() {
    for ([out, inputs], rank) in [([7, 9], 4), ([9, 7], 3), ([6, 6], 5)] {
        let matrix = Matrix::new(out, inputs, entries(out * inputs, 1.0)).unwrap();
        let rows: Vec<f32> = entries(40 * inputs, 2.0).iter().map(|x| *x as f32).collect();
        let moment = moment_of(&rows, inputs);
        let root = moment.root(0.0).unwrap().to_matrix().unwrap();
        let half = matrix.product(&root).unwrap();
        let outputs = half.product(&half.transposed()).unwrap();
        // Of a symmetric matrix the singular vectors are eigenvectors; here they have a length.
        let scaled = balanced_factors(&outputs, rank).unwrap().left;
        let squares: Vec<f64> = (0..rank)
            .map(|k| (0..out).map(|i| scaled.data()[i * rank + k].powi(2)).sum())
            .collect();
        let unit = scaled.data().iter().enumerate().map(|(i, x)| x / squares[i % rank].sqrt());
        let vectors = Matrix::new(out, rank, unit.collect()).unwrap();
        let coefficients = vectors.transposed().product(&matrix).unwrap();
        let projected = vectors.product(&coefficients).unwrap();
        let whitened = truncated(&matrix, &moment, rank);
        for (a, b) in projected.data().iter().zip(whitened.data()) {
            assert!((a - b).abs() < 1e-8 * matrix.norm(), "{a} and {b}");
        }
    }
}

/// The mean squared error of `A x + b` for `W x` over rows of inputs.
fn error_of(matrix: &Matrix, other: &Matrix, bias: &[f64], rows: &[f32]) -> f64 {
    let (inputs, count) = (matrix.cols(), rows.len() / matrix.cols());
    let difference: Vec<f64> = matrix.data().iter().zip(other.data()).map(|(a, b)| a - b).collect();
    let of_row = |x: &[f32]| -> f64 {
        let outputs = difference.chunks_exact(inputs).zip(bias);
        let error = |(row, bias): (&[f64], &f64)| {
            let product: f64 = row.iter().zip(x).map(|(a, x)| a * f64::from(*x)).sum();
            (product - bias).powi(2)
        };
        outputs.map(error).sum()
    };
    rows.chunks_exact(inputs).map(of_row).sum::<f64>() / count as f64
}

/// Bolaco also restores the mean of the outputs, with a bias `(W - A) E[x]`; then `A` need only fit
/// what varies about the mean. The second moment is the covariance and one more rank, so a bias is
/// worth at most one rank.
#[test]
fn a_bias_helps_no_matrix_by_more_than_a_rank() {
    let model = tiny_llama(&device());
    let ids: Vec<i32> = story_tokens()[..256].iter().map(|token| *token as i32).collect();
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, 256]), &device());
    // The inputs of the head, which is the embedding.
    let rows = model.hidden(tokens).into_data().iter::<f32>().collect::<Vec<f32>>();
    let matrix = checkpoint("tiny-llama").read_matrix("model.embed_tokens.weight").unwrap();
    let (inputs, out) = (matrix.cols(), matrix.rows());
    let count = (rows.len() / inputs) as f64;
    let mut mean = vec![0.0; inputs];
    for row in rows.chunks_exact(inputs) {
        mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += f64::from(*x) / count);
    }
    let centered = rows.iter().enumerate().map(|(i, x)| x - mean[i % inputs] as f32);
    let (about_zero, about_mean) =
        (moment_of(&rows, inputs), moment_of(&centered.collect::<Vec<f32>>(), inputs));
    let total = error_of(
        &matrix,
        &Matrix::new(out, inputs, vec![0.0; out * inputs]).unwrap(),
        &vec![0.0; out],
        &rows,
    );
    let without = |rank: usize| {
        error_of(&matrix, &truncated(&matrix, &about_zero, rank), &vec![0.0; out], &rows)
    };
    let with = |rank: usize| {
        let other = truncated(&matrix, &about_mean, rank);
        let rows_of = matrix.data().chunks_exact(inputs).zip(other.data().chunks_exact(inputs));
        let bias = |(row, other): (&[f64], &[f64])| -> f64 {
            row.iter().zip(other).zip(&mean).map(|((a, b), x)| (a - b) * x).sum()
        };
        let bias: Vec<f64> = rows_of.map(bias).collect();
        error_of(&matrix, &other, &bias, &rows)
    };
    // Moments are summed in f32 within a call, and the Gram matrix costs a few digits.
    let slack = 1e-5 * total;
    let at_most = |error: f64, other: f64| error <= 1.001 * other + slack;
    for rank in [1, 2, 4, 8, 16, 32] {
        assert!(at_most(with(rank), without(rank)), "rank {rank}: a bias is never worse");
        assert!(at_most(without(rank + 1), with(rank)), "rank {rank}: than a rank less");
    }
    assert!(!at_most(without(1), with(1)), "the mean is not nothing");
}
