//! Factors one matrix: its singular values, the error of factors at several ranks, their size in
//! both storages, and layers that multiply by them.
//!
//! ```sh
//! cargo run --release -p welore-burn --example factor_matrix
//! ```

use burn::module::Param;
use burn::tensor::{Device, Distribution, Tensor, TensorData};
use welore_burn::forms::Form;
use welore_burn::linalg::{Matrix, balanced_factors, pivot_factors, singular_values};
use welore_burn::linear::LowRankLinear;

const OUT: usize = 96;
const IN: usize = 64;

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// A matrix as a weight of Burn, `[d_input, d_output]`.
fn weight(matrix: &Matrix, device: &Device) -> Tensor<2> {
    let shape = [matrix.rows(), matrix.cols()];
    let values: Vec<f32> = matrix.data().iter().map(|x| *x as f32).collect();
    Tensor::<2>::from_data(TensorData::new(values, shape), device).transpose()
}

/// `‖a - b‖ / ‖b‖`.
fn difference(a: Tensor<2>, b: Tensor<2>) -> f64 {
    let norm = |x: Tensor<2>| x.square().sum().sqrt().into_scalar::<f64>();
    norm(a - b.clone()) / norm(b)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::flex();
    device.seed(7);
    // How close points on a line are to each other: a few strong directions and a tail.
    let place = |index: usize, of: usize| index as f64 / of as f64;
    let entry = |i, j| (-20.0 * (place(i, OUT) - place(j, IN)).abs()).exp();
    let matrix = Matrix::new(OUT, IN, (0..OUT * IN).map(|k| entry(k / IN, k % IN)).collect())?;

    let values = singular_values(&matrix)?;
    // The error of the best matrix of a rank, `‖W - W_r‖ / ‖W‖` (Eckart and Young, 1936).
    let best = |rank: usize| norm(&values[rank..]) / norm(&values);
    let energy = |rank: usize| 1.0 - best(rank).powi(2);
    let effective = (1..=IN).find(|rank| energy(*rank) >= 0.99).unwrap_or(IN);
    println!("{OUT} x {IN}, {} parameters, singular values {:.2?} …", OUT * IN, &values[..6]);
    println!("effective rank {effective}: this many singular values hold 99% of the energy\n");

    let dense = Param::from_tensor(weight(&matrix, &device));
    let dense = LowRankLinear { weight: dense, bias: None };
    let x = Tensor::<2>::random([500, IN], Distribution::Normal(0.0, 1.0), &device);
    let expected = dense.forward(x.clone());
    println!("rank   error    best  outputs  factors  pivoted");
    for rank in [4, 8, 16, effective, 32] {
        let factors = balanced_factors(&matrix, rank)?;
        let product = factors.left.product(&factors.right)?;
        let off: Vec<f64> = matrix.data().iter().zip(product.data()).map(|(a, b)| a - b).collect();
        let error = norm(&off) / matrix.norm();
        assert!((error / best(rank) - 1.0).abs() < 1e-4, "no factors are better");
        assert!((factors.left.norm() / factors.right.norm() - 1.0).abs() < 1e-6, "balanced");
        let (down, up) = (weight(&factors.right, &device), weight(&factors.left, &device));
        let layer = LowRankLinear::from_factors(down, up, None);
        let output = layer.forward(x.clone());
        let change = difference(output.clone(), expected.clone());
        assert!((change / error - 1.0).abs() < 0.2, "inputs of all directions see the same error");
        // The same in one call.
        let again = dense.clone().factored(rank)?.forward(x.clone());
        assert!(difference(again, output.clone()) < 1e-4, "the same factors");

        // The same matrix as some of its rows, and what computes the other rows from them.
        let pivoted = pivot_factors(&factors)?;
        let (rows, others) = (weight(&pivoted.rows, &device), weight(&pivoted.others, &device));
        let by_rows = LowRankLinear::from_pivots(rows, others, &pivoted.pivots, None)?;
        assert!(difference(by_rows.forward(x.clone()), output) < 1e-5, "pivots lose nothing");

        let numbers =
            [Form::factors(rank), Form::pivot(rank)].map(|form| form.parameters([OUT, IN]));
        let count = |matrix: &Matrix| matrix.data().len() as u64;
        assert_eq!(numbers[0], count(&factors.left) + count(&factors.right));
        assert_eq!(numbers[1], count(&pivoted.rows) + count(&pivoted.others));
        println!(
            "{rank:>4}  {error:>6.4}  {:>6.4}   {change:>6.4}  {:>7}  {:>7}",
            best(rank),
            numbers[0],
            numbers[1]
        );
    }
    Ok(())
}
