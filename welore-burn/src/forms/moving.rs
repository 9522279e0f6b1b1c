//! Changes of matrices of low rank that are stored as factors or pivots.

use super::error::FormError;
use super::order::checked_order;
use super::part::Part;
use crate::linalg::{LinalgError, Matrix};

/// A matrix of low rank as its parts.
enum Stored<'a> {
    /// `V [rank, in]` and `U [out, rank]`.
    Factors(&'a Matrix, &'a Matrix),
    /// `V [rank, in]`, `C [out - rank, rank]`, and the place of each output among pivots and others.
    Pivots(&'a Matrix, &'a Matrix, Vec<usize>),
}

impl<'a> Stored<'a> {
    /// `None` for other forms.
    fn of(parts: &'a [Part]) -> Result<Option<Self>, FormError> {
        Ok(match parts {
            [Part::Numbers(v), Part::Numbers(u)] => Some(Self::Factors(v, u)),
            [Part::Numbers(v), Part::Numbers(c), Part::Indices(pivots)] => {
                let order = checked_order(pivots, c.rows() + v.rows())?;
                let places = order.into_iter().map(|place| place as usize).collect();
                Some(Self::Pivots(v, c, places))
            }
            _ => None,
        })
    }
}

/// The matrix with these parts as a product `left · right`, `[out, rank]` and `[rank, in]`. `None` for
/// forms without two parts of numbers.
///
/// # Errors
///
/// [`FormError::Pivots`], [`FormError::Linalg`].
pub(crate) fn product_of(parts: &[Part]) -> Result<Option<[Matrix; 2]>, FormError> {
    Ok(match Stored::of(parts)? {
        None => None,
        Some(Stored::Factors(v, u)) => Some([u.clone(), v.clone()]),
        Some(Stored::Pivots(v, c, places)) => {
            let rank = v.rows();
            let identity = unit_rows(rank)?;
            Some([in_order(&identity, c, &places)?, v.clone()])
        }
    })
}

/// The gradients of both factors of [`product_of`], as if these were independent, from those of the
/// `parts` with numbers, in their order.
///
/// # Errors
///
/// As [`product_of`].
pub(crate) fn product_gradients(
    parts: &[Part],
    gradients: &[Matrix; 2],
) -> Result<Option<[Matrix; 2]>, FormError> {
    let [first, second] = gradients;
    Ok(match Stored::of(parts)? {
        None => None,
        Some(Stored::Factors(..)) => Some([second.clone(), first.clone()]),
        Some(Stored::Pivots(v, c, places)) => {
            // A row of V is an output, and part of all that C makes of it.
            let of_all = first.product(&v.transposed())?;
            let of_others = c.transposed().product(second)?;
            let of_pivots = plus(&of_all, -1.0, &of_others)?;
            Some([in_order(&of_pivots, second, &places)?, first.clone()])
        }
    })
}

/// The parts after both factors of [`product_of`] took a step of this length: exact for factors, and
/// to first order in the length for pivots, which have no numbers for what is beyond.
///
/// # Errors
///
/// As [`product_of`], and [`FormError::Parts`] for other forms.
pub(crate) fn moved(
    parts: &[Part],
    [left, right]: &[Matrix; 2],
    length: f64,
) -> Result<Vec<Part>, FormError> {
    match Stored::of(parts)?.ok_or(FormError::Parts("low-rank"))? {
        Stored::Factors(v, u) => {
            Ok(vec![Part::Numbers(plus(v, length, right)?), Part::Numbers(plus(u, length, left)?)])
        }
        Stored::Pivots(v, c, places) => {
            let rank = v.rows();
            let mut rows = vec![0; places.len()];
            places.iter().enumerate().for_each(|(output, place)| rows[*place] = output);
            let taken = |rows: &[usize]| {
                let row = |output: &usize| &left.data()[output * rank..][..rank];
                Matrix::new(rows.len(), rank, rows.iter().flat_map(row).copied().collect())
            };
            let (of_pivots, of_others) = (taken(&rows[..rank])?, taken(&rows[rank..])?);
            let v_step = plus(&of_pivots.product(v)?, 1.0, right)?;
            let c_step = plus(&of_others, -1.0, &c.product(&of_pivots)?)?;
            Ok(vec![
                Part::Numbers(plus(v, length, &v_step)?),
                Part::Numbers(plus(c, length, &c_step)?),
                parts[2].clone(),
            ])
        }
    }
}

fn unit_rows(rank: usize) -> Result<Matrix, LinalgError> {
    let entry = |at: usize| f64::from(u8::from(at / rank == at % rank));
    Matrix::new(rank, rank, (0..rank * rank).map(entry).collect())
}

/// The rows of pivots and of others in the order of the outputs.
fn in_order(pivots: &Matrix, others: &Matrix, places: &[usize]) -> Result<Matrix, LinalgError> {
    let (rank, cols) = (pivots.rows(), pivots.cols());
    let row = |place: &usize| match place.checked_sub(rank) {
        Some(other) => &others.data()[other * cols..][..cols],
        None => &pivots.data()[place * cols..][..cols],
    };
    Matrix::new(places.len(), cols, places.iter().flat_map(row).copied().collect())
}

/// `a + factor b`
fn plus(a: &Matrix, factor: f64, b: &Matrix) -> Result<Matrix, LinalgError> {
    let sums = a.data().iter().zip(b.data()).map(|(a, b)| a + factor * b).collect();
    Matrix::new(a.rows(), a.cols(), sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(rows: usize, cols: usize, seed: usize) -> Matrix {
        let entry = |at: usize| ((at * 37 + seed * 11) % 19) as f64 / 9.0 - 1.0;
        Matrix::new(rows, cols, (0..rows * cols).map(entry).collect()).unwrap()
    }

    fn product(parts: &[Part]) -> Matrix {
        let [left, right] = product_of(parts).unwrap().unwrap();
        left.product(&right).unwrap()
    }

    /// The forms of a matrix `[6, 4]` of rank 2.
    fn forms() -> [Vec<Part>; 2] {
        let numbers = |rows, cols, seed| Part::Numbers(matrix(rows, cols, seed));
        let pivots = vec![numbers(2, 4, 3), numbers(4, 2, 4), Part::Indices(vec![4, 1])];
        [vec![numbers(2, 4, 1), numbers(6, 2, 2)], pivots]
    }

    #[test]
    fn a_short_step_changes_the_product_by_both_factors() {
        for parts in forms() {
            let [left, right] = product_of(&parts).unwrap().unwrap();
            let step = [matrix(6, 2, 5), matrix(2, 4, 6)];
            let expected =
                plus(&step[0].product(&right).unwrap(), 1.0, &left.product(&step[1]).unwrap());
            let length = 1e-6;
            let after = product(&moved(&parts, &step, length).unwrap());
            for ((after, before), slope) in
                after.data().iter().zip(product(&parts).data()).zip(expected.unwrap().data())
            {
                assert!(((after - before) / length - slope).abs() < 1e-4, "{slope}");
            }
        }
    }

    #[test]
    fn gradients_of_the_product_are_those_of_the_whole_matrix() {
        // Of the sum of the entries times these.
        let whole = matrix(6, 4, 7);
        for parts in forms() {
            let [left, right] = product_of(&parts).unwrap().unwrap();
            let before = product(&parts);
            // The product is linear in each part.
            let of_part = |at: usize| {
                let Part::Numbers(numbers) = &parts[at] else { panic!("it has numbers") };
                let (rows, cols) = (numbers.rows(), numbers.cols());
                let slope = |entry: usize| -> f64 {
                    let mut data = numbers.data().to_vec();
                    data[entry] += 1.0;
                    let mut parts = parts.clone();
                    parts[at] = Part::Numbers(Matrix::new(rows, cols, data).unwrap());
                    let after = product(&parts);
                    let change = after.data().iter().zip(before.data()).map(|(a, b)| a - b);
                    change.zip(whole.data()).map(|(change, of)| change * of).sum()
                };
                Matrix::new(rows, cols, (0..rows * cols).map(slope).collect()).unwrap()
            };
            let found = product_gradients(&parts, &[of_part(0), of_part(1)]).unwrap().unwrap();
            let expected = [
                whole.product(&right.transposed()).unwrap(),
                left.transposed().product(&whole).unwrap(),
            ];
            for (found, expected) in found.iter().zip(&expected) {
                for (found, expected) in found.data().iter().zip(expected.data()) {
                    assert!((found - expected).abs() < 1e-9, "{found} for {expected}");
                }
            }
        }
    }
}
