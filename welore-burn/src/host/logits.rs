use burn::tensor::{Int, Tensor};
use rayon::prelude::*;

use super::exp::exp;
use super::{LEAST_WORK, Numbers, tensor};

/// Entries whose exponentials are summed in f32 before the sum goes on in f64.
const IN_SINGLE: usize = 512;

/// `log Σ exp x` of every row, `[rows, n]` to `[rows, 1]`, with sums in f64.
pub(crate) fn log_sum_exp(x: &Tensor<2>) -> Option<Tensor<2>> {
    let numbers = Numbers::<2>::in_order(x)?;
    let [rows, width] = x.dims();
    let mut out = vec![f32::NEG_INFINITY; rows];
    if let Some(at_once) = LEAST_WORK.checked_div(width) {
        let at_once = at_once.max(1);
        let parts = out.par_chunks_mut(at_once).zip(numbers.slice().par_chunks(at_once * width));
        parts.for_each(|(out, rows)| {
            for (out, row) in out.iter_mut().zip(rows.chunks_exact(width)) {
                *out = of_row(row);
            }
        });
    }
    Some(tensor(out, [rows, 1], &x.device()))
}

/// `softmax(x) · share` of every row, and `share` less for the target of the row, `[rows, n]`; and
/// `log Σ exp x` minus the target's `x`, `[rows]`.
///
/// # Shapes
///
/// - x: `[rows, n]`
/// - targets: `[rows, 1]`, below `n`
pub(crate) fn softmax_loss(
    x: &Tensor<2>,
    targets: &Tensor<2, Int>,
    share: f64,
) -> Option<(Tensor<1>, Tensor<2>)> {
    let numbers = Numbers::<2>::in_order(x)?;
    let ([rows, width], device) = (x.dims(), x.device());
    let targets: Vec<usize> =
        targets.to_data().iter::<i64>().map(|target| target as usize).collect();
    if width == 0 || targets.len() != rows || targets.iter().any(|target| *target >= width) {
        return None;
    }
    let (mut losses, mut gradient) = (vec![0.0; rows], vec![0.0; rows * width]);
    let of_rows = gradient.par_chunks_exact_mut(width).zip(numbers.slice().par_chunks_exact(width));
    let outcome = losses.par_iter_mut().zip(&targets).zip(of_rows);
    let at_once = (LEAST_WORK / width).max(1);
    outcome.with_min_len(at_once).for_each(|((loss, target), (gradient, row))| {
        let log_sum = of_row(row);
        *loss = log_sum - row[*target];
        shares(row, log_sum, share as f32, gradient);
        gradient[*target] -= share as f32;
    });
    Some((tensor(losses, [rows], &device), tensor(gradient, [rows, width], &device)))
}

for_processors! {
    fn of_row(row: &[f32]) -> f32 {
        let largest = largest(row);
        if !largest.is_finite() {
            return largest;
        }
        let mut total = 0.0f64;
        for group in row.chunks(IN_SINGLE) {
            let mut sums = [0.0f32; 16];
            let (runs, rest) = group.as_chunks::<16>();
            for run in runs {
                for (sum, x) in sums.iter_mut().zip(run) {
                    *sum += exp(*x - largest);
                }
            }
            let rest: f32 = rest.iter().map(|x| exp(*x - largest)).sum();
            total += f64::from(sums.iter().sum::<f32>() + rest);
        }
        (f64::from(largest) + total.ln()) as f32
    }
}

/// The largest number; NaN if there is one that is infinitely large or NaN.
#[inline(always)]
fn largest(row: &[f32]) -> f32 {
    let (mut most, mut wrong) = ([f32::NEG_INFINITY; 16], [false; 16]);
    let (runs, rest) = row.as_chunks::<16>();
    for run in runs {
        for ((most, wrong), x) in most.iter_mut().zip(&mut wrong).zip(run) {
            *most = if *x > *most { *x } else { *most };
            *wrong |= !is_below_infinity(*x);
        }
    }
    if wrong.contains(&true) || !rest.iter().copied().all(is_below_infinity) {
        return f32::NAN;
    }
    most.iter().chain(rest).fold(f32::NEG_INFINITY, |most, x| most.max(*x))
}

#[inline(always)]
fn is_below_infinity(x: f32) -> bool {
    x < f32::INFINITY
}

for_processors! {
    fn shares(row: &[f32], log_sum: f32, share: f32, out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(row) {
            *out = exp(*x - log_sum) * share;
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::activation::softmax;
    use burn::tensor::{Device, Distribution, Tolerance};

    use super::*;

    #[test]
    fn losses_and_gradients_follow_the_definition() {
        let device = Device::flex();
        for width in [5, 512, 4099] {
            let x = Tensor::<2>::random([9, width], Distribution::Normal(0.0, 3.0), &device);
            let targets: Vec<i32> = (0..9).map(|row| row * 7 % width).collect();
            let targets = Tensor::<1, Int>::from_data(targets.as_slice(), &device).reshape([9, 1]);
            let (loss, gradient) = softmax_loss(&x, &targets, 0.25).unwrap();
            let shares = softmax(x.clone(), 1);
            let tolerance = Tolerance::rel_abs(1e-5, 1e-6);
            let expected = -shares.clone().gather(1, targets.clone()).log().reshape([9]);
            loss.into_data().assert_approx_eq::<f32>(&expected.into_data(), tolerance);
            let hot = Tensor::<2>::zeros([9, width], &device);
            let ones = Tensor::ones([9, 1], &device);
            let hot = hot.scatter(1, targets, ones, burn::tensor::IndexingUpdateOp::Add);
            let expected = (shares - hot).mul_scalar(0.25).into_data();
            gradient.into_data().assert_approx_eq::<f32>(&expected, tolerance);
        }
    }

    #[test]
    fn what_is_not_finite_has_no_loss() {
        let device = Device::flex();
        for wrong in [f32::NAN, f32::INFINITY] {
            let mut row = vec![0.5f32; 40];
            row[3] = wrong;
            let x = Tensor::<1>::from_data(row.as_slice(), &device).reshape([1, 40]);
            assert!(log_sum_exp(&x).unwrap().into_scalar::<f32>().is_nan(), "{wrong}");
        }
    }
}
