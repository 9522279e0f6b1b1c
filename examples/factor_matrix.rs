//! One matrix, factored: its singular values, how good factors of it are at several ranks, what
//! they cost in either storage, and layers that multiply by them.
//!
//! ```sh
//! cargo run --release -p welore-burn --example factor_matrix
//! ```

use burn::module::Param;
use burn::tensor::{Device, Distribution, Tensor, TensorData};
use welore_burn::linalg::{Matrix, balanced_factors, pivot_factors, singular_values};
use welore_burn::linear::{FactorParams, LowRankLinear, Rest, attach_factors, order_of_pivots};
use welore_burn::plan::Storage;

const OUT: usize = 96;
const IN: usize = 64;

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// The transpose of a row-major matrix: Burn's weights are `[d_input, d_output]`.
fn transposed(values: &[f64], rows: usize, device: &Device) -> Tensor<2> {
    let shape = [rows, values.len() / rows];
    let values: Vec<f32> = values.iter().map(|x| *x as f32).collect();
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
    // How near points on a line are to each other: some strong directions and a tail.
    let place = |index: usize, of: usize| index as f64 / of as f64;
    let entry = |i, j| (-20.0 * (place(i, OUT) - place(j, IN)).abs()).exp();
    let matrix = Matrix::new(OUT, IN, (0..OUT * IN).map(|k| entry(k / IN, k % IN)).collect())?;

    let values = singular_values(&matrix)?;
    // The error of the best matrix of a rank, `‖W - W_r‖ / ‖W‖` (Eckart and Young, 1936).
    let best = |rank: usize| norm(&values[rank..]) / norm(&values);
    let energy = |rank: usize| 1.0 - best(rank).powi(2);
    let effective = (1..=IN).find(|rank| energy(*rank) >= 0.99).unwrap_or(IN);
    println!("{OUT} x {IN}, {} parameters, singular values {:.2?} …", OUT * IN, &values[..6]);
    println!("effective rank {effective}: so many hold 99% of the energy\n");

    let weight = Param::from_tensor(transposed(matrix.data(), OUT, &device));
    let dense = LowRankLinear { weight, bias: None };
    let x = Tensor::<2>::random([500, IN], Distribution::Normal(0.0, 1.0), &device);
    let expected = dense.forward(x.clone());
    println!("rank   error    best  outputs  factors  pivoted");
    for rank in [4, 8, 16, effective, 32] {
        let factors = balanced_factors(&matrix, rank)?;
        let left = Matrix::new(OUT, rank, factors.left.clone())?;
        let product = left.product(&Matrix::new(rank, IN, factors.right.clone())?)?;
        let off: Vec<f64> = matrix.data().iter().zip(product.data()).map(|(a, b)| a - b).collect();
        let error = norm(&off) / norm(matrix.data());
        assert!((error / best(rank) - 1.0).abs() < 1e-4, "no factors are better");
        assert!((norm(&factors.left) / norm(&factors.right) - 1.0).abs() < 1e-6, "balanced");
        let layer = LowRankLinear::from_factors(
            transposed(&factors.right, rank, &device),
            transposed(&factors.left, OUT, &device),
            None,
        );
        let output = layer.forward(x.clone());
        let change = difference(output.clone(), expected.clone());
        assert!((change / error - 1.0).abs() < 0.2, "inputs of all directions see the same error");

        // The same matrix by some of its rows, and what makes the others of them.
        let pivoted = pivot_factors(&factors, OUT, IN)?;
        let pivots: Vec<i32> = pivoted.pivots.iter().map(|pivot| *pivot as i32).collect();
        let order = order_of_pivots(&pivots, OUT).ok_or("pivots are different rows")?;
        let by_rows = |_: &str, weight: &Param<Tensor<2>>| {
            Some(FactorParams {
                down: Param::initialized(weight.id, transposed(&pivoted.rows, rank, &device)),
                up: Param::from_tensor(transposed(&pivoted.others, OUT - rank, &device)),
                order: Some(Tensor::from_data(TensorData::new(order.clone(), [OUT]), &device)),
            })
        };
        let by_rows = attach_factors(dense.clone(), by_rows, Rest::Keep);
        assert!(difference(by_rows.forward(x.clone()), output) < 1e-5, "pivots lose nothing");

        let numbers = [Storage::Factors, Storage::Pivot].map(|s| s.parameters([OUT, IN], rank));
        assert_eq!(numbers[0], (factors.left.len() + factors.right.len()) as u64);
        assert_eq!(numbers[1], (pivoted.rows.len() + pivoted.others.len()) as u64);
        println!(
            "{rank:>4}  {error:>6.4}  {:>6.4}   {change:>6.4}  {:>7}  {:>7}",
            best(rank),
            numbers[0],
            numbers[1]
        );
    }
    Ok(())
}
