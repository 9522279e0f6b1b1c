//! Products of few rows with a dense matrix, as where a token is generated. Such a product takes as long as
//! it takes to read the matrix, so it is read once, from its first number to its last, on all threads.

use burn::tensor::{DType, Element, FloatDType, Tensor};
use bytemuck::Pod;
use half::{bf16, f16, slice::HalfFloatSliceExt};
use rayon::prelude::*;

use super::{LEAST_WORK, Numbers, tensor};

/// Most rows for which a matrix is read this way.
pub(crate) const FEW: usize = 4;

/// Rows of a matrix whose numbers are made f32 together.
const TOGETHER: usize = 8;

/// `input · matrix` in f32, whatever the type of the matrix, for few rows. `None` if there are more of them,
/// if there is little to read, or if the input is more precise.
///
/// # Shapes
///
/// - input: `[rows, inner]`
/// - matrix: `[inner, columns]`
/// - output: `[rows, columns]`, f32
pub(crate) fn few_rows(input: &Tensor<2>, matrix: &Tensor<2>) -> Option<Tensor<2>> {
    let ([rows, inner], [also_inner, columns]) = (input.dims(), matrix.dims());
    let is_read = matches!(input.dtype(), DType::F32 | DType::F16 | DType::BF16);
    let fits = is_read && inner == also_inner && (1..=FEW).contains(&rows);
    if !fits || inner * columns < LEAST_WORK {
        return None;
    }
    let out = match matrix.dtype() {
        DType::F32 => product::<f32>(input, matrix),
        DType::F16 => product::<f16>(input, matrix),
        DType::BF16 => product::<bf16>(input, matrix),
        _ => None,
    }?;
    Some(tensor(out, [rows, columns], &input.device()))
}

/// Numbers that a matrix has.
trait Entry: Element + Pod {
    /// Rows of a matrix as f32, in a buffer if they are not.
    fn widened<'a>(entries: &'a [Self], buffer: &'a mut Vec<f32>) -> &'a [f32];
}

impl Entry for f32 {
    fn widened<'a>(entries: &'a [f32], _: &'a mut Vec<f32>) -> &'a [f32] {
        entries
    }
}

impl Entry for f16 {
    fn widened<'a>(entries: &'a [f16], buffer: &'a mut Vec<f32>) -> &'a [f32] {
        buffer.resize(entries.len(), 0.0);
        entries.convert_to_f32_slice(buffer);
        buffer
    }
}

impl Entry for bf16 {
    fn widened<'a>(entries: &'a [bf16], buffer: &'a mut Vec<f32>) -> &'a [f32] {
        buffer.resize(entries.len(), 0.0);
        widen(bytemuck::cast_slice(entries), buffer);
        buffer
    }
}

for_processors! {
    fn widen(bits: &[u16], out: &mut [f32]) {
        for (out, bits) in out.iter_mut().zip(bits) {
            *out = f32::from_bits(u32::from(*bits) << 16);
        }
    }
}

fn product<E: Entry>(input: &Tensor<2>, matrix: &Tensor<2>) -> Option<Vec<f32>> {
    let matrix = Numbers::<2, E>::of(matrix)?;
    let input = Numbers::<2>::in_order(&input.clone().cast(FloatDType::F32))?;
    let input = input.slice();
    let [inner, columns] = matrix.dims;
    match matrix.strides {
        [stride, 1] if stride == columns => Some(down(input, matrix.slice(), [inner, columns])),
        [1, stride] if stride == inner => Some(across(input, matrix.slice(), [inner, columns])),
        _ => None,
    }
}

/// With the matrix row by row: each number of an input scales a row, and all of these are added up. Threads
/// have parts of the rows, and the sums of all parts are added up at the end. The parts are those of the
/// matrix, whatever the number of threads.
fn down<E: Entry>(input: &[f32], matrix: &[E], [inner, columns]: [usize; 2]) -> Vec<f32> {
    let count = input.len() / inner;
    let most = (inner * columns / LEAST_WORK).clamp(1, 16);
    let rows_at_once = inner.div_ceil(most).next_multiple_of(TOGETHER);
    let parts: Vec<Vec<f32>> = matrix
        .par_chunks(rows_at_once * columns)
        .enumerate()
        .map(|(part, entries)| {
            let mut sums = vec![0.0f32; count * columns];
            let mut buffer = Vec::new();
            for (index, entries) in entries.chunks(TOGETHER * columns).enumerate() {
                let first = part * rows_at_once + index * TOGETHER;
                let rows = entries.len() / columns;
                let entries = E::widened(entries, &mut buffer);
                let inputs = input.chunks_exact(inner).map(|row| &row[first..first + rows]);
                for (shares, sums) in inputs.zip(sums.chunks_exact_mut(columns)) {
                    add_rows(shares, entries, sums);
                }
            }
            sums
        })
        .collect();
    let mut parts = parts.into_iter();
    let mut out = parts.next().unwrap_or_default();
    for part in parts {
        out.iter_mut().zip(&part).for_each(|(out, number)| *out += number);
    }
    out
}

for_processors! {
    /// Adds rows to sums, times their shares.
    fn add_rows(shares: &[f32], rows: &[f32], sums: &mut [f32]) {
        let columns = sums.len();
        if let ([a, b, c, d, e, f, g, h], true) = (shares, rows.len() == TOGETHER * columns) {
            let row = |index: usize| &rows[index * columns..][..columns];
            let rows = [row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7)];
            for (column, sum) in sums.iter_mut().enumerate() {
                let one = (a * rows[0][column] + b * rows[1][column])
                    + (c * rows[2][column] + d * rows[3][column]);
                let other = (e * rows[4][column] + f * rows[5][column])
                    + (g * rows[6][column] + h * rows[7][column]);
                *sum += one + other;
            }
            return;
        }
        for (share, row) in shares.iter().zip(rows.chunks_exact(columns)) {
            sums.iter_mut().zip(row).for_each(|(sum, entry)| *sum += share * entry);
        }
    }
}

/// With the matrix column by column, each of them in order: its product with an input is one number.
fn across<E: Entry>(input: &[f32], matrix: &[E], [inner, columns]: [usize; 2]) -> Vec<f32> {
    let count = input.len() / inner;
    let columns_at_once = (LEAST_WORK / inner).max(1);
    let mut out = vec![0.0f32; count * columns];
    // The products of a column are side by side, so that threads have places of their own.
    out.par_chunks_mut(columns_at_once * count)
        .zip(matrix.par_chunks(columns_at_once * inner))
        .for_each_init(Vec::new, |buffer, (out, entries)| {
            for (entries, out) in entries.chunks_exact(inner).zip(out.chunks_exact_mut(count)) {
                let entries = E::widened(entries, buffer);
                for (out, input) in out.iter_mut().zip(input.chunks_exact(inner)) {
                    *out = dot(entries, input);
                }
            }
        });
    match count {
        1 => out,
        _ => crate::linalg::transpose(&out, columns, count),
    }
}

for_processors! {
    /// The sum of products, in 32 parts side by side.
    pub(super) fn dot(left: &[f32], right: &[f32]) -> f32 {
        let mut sums = [0.0f32; 32];
        let ((left, left_rest), (right, right_rest)) = (left.as_chunks::<32>(), right.as_chunks::<32>());
        for (left, right) in left.iter().zip(right) {
            for ((sum, left), right) in sums.iter_mut().zip(left).zip(right) {
                *sum += left * right;
            }
        }
        let rest: f32 = left_rest.iter().zip(right_rest).map(|(left, right)| left * right).sum();
        sums.iter().sum::<f32>() + rest
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};

    use super::*;

    #[test]
    fn products_are_exact_but_for_the_rounding_of_sums() {
        let device = Device::flex();
        // A part that is not full, a width that no register has.
        for (inner, columns) in [(331, 515), (64, 1024), (1027, 256)] {
            for rows in [1, 3, FEW] {
                let random = |shape: [usize; 2]| {
                    Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), &device)
                };
                let input = random([rows, inner]);
                for dtype in [FloatDType::F32, FloatDType::F16, FloatDType::BF16] {
                    let straight = random([inner, columns]).cast(dtype);
                    let turned = random([columns, inner]).cast(dtype).transpose();
                    for matrix in [straight, turned] {
                        let got = few_rows(&input, &matrix).unwrap();
                        let exact = input.clone().cast(FloatDType::F64);
                        let exact = exact.matmul(matrix.cast(FloatDType::F64));
                        let gap = got.cast(FloatDType::F64) - exact;
                        let worst = gap.abs().max().into_scalar::<f64>();
                        // Random signs, sums of `inner` products of size 1.
                        let most = 4.0 * f64::from(f32::EPSILON) * (inner as f64).sqrt() * 4.0;
                        assert!(worst < most, "{rows} x {inner} x {columns}, {dtype:?}: {worst}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_product_does_not_depend_on_the_number_of_threads() {
        let device = Device::flex();
        let random =
            |shape: [usize; 2]| Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), &device);
        let (input, matrix) = (random([2, 640]), random([640, 512]));
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| few_rows(&input, &matrix).unwrap().into_data())
        };
        assert_eq!(with(1), with(3));
    }

    #[test]
    fn many_rows_parts_of_a_matrix_and_other_types_are_left_to_burn() {
        let device = Device::flex();
        let zeros = |shape: [usize; 2]| Tensor::<2>::zeros(shape, &device);
        assert!(few_rows(&zeros([FEW + 1, 256]), &zeros([256, 256])).is_none());
        assert!(few_rows(&zeros([1, 8]), &zeros([8, 8])).is_none());
        assert!(few_rows(&zeros([1, 256]), &zeros([256, 512]).narrow(1, 3, 256)).is_none());
        let precise = zeros([256, 256]).cast(FloatDType::F64);
        assert!(few_rows(&zeros([1, 256]), &precise).is_none());
        let precise = zeros([1, 256]).cast(FloatDType::F64);
        assert!(few_rows(&precise, &zeros([256, 256])).is_none());
        let recording = Tensor::<2>::zeros([256, 256], &device.clone().autodiff());
        assert!(few_rows(&Tensor::zeros([1, 256], &device.autodiff()), &recording).is_none());
    }
}
