use super::contents::Contents;
use super::error::DifferenceError;
use super::pairs::Difference;
use crate::linalg::Cost;
use crate::modules::MatrixName;
use crate::progress::{Part, Progress};
use crate::spectrum::Norms;
use crate::workers::Budget;

/// How differences are measured.
#[derive(Debug, Clone)]
pub struct Measuring<'a> {
    /// The norm of every matrix.
    pub norms: Norms<'a>,
    /// The model whose calibration the norms are of.
    pub side: Side,
    /// How many matrices may be in flight at once, and in how much memory.
    pub budget: Budget,
}

/// One of two models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one that is added to.
    From,
    /// The one that comes out.
    To,
}

/// How much a matrix differs.
#[derive(Debug, Clone, PartialEq)]
pub struct MatrixDifference {
    /// The matrix.
    pub name: MatrixName,
    /// `[out, in]`.
    pub shape: [usize; 2],
    /// The singular values of its difference in the norm, largest first.
    pub singular_values: Vec<f64>,
    /// The Frobenius norm of its difference over that of what is added to; infinite if that is 0.
    pub change: f64,
    /// Bytes in which what is added to is stored.
    pub bytes: u64,
}

impl MatrixDifference {
    /// The squared error in the norm at every rank from 0 on, summed from the smallest singular value
    /// up, so that small ones are accurate.
    pub fn tails(&self) -> Vec<f64> {
        let mut tails = vec![0.0; self.singular_values.len() + 1];
        for (rank, value) in self.singular_values.iter().enumerate().rev() {
            tails[rank] = tails[rank + 1] + value.powi(2);
        }
        tails
    }

    /// `min(out, in)`.
    pub fn full_rank(&self) -> usize {
        self.shape[0].min(self.shape[1])
    }

    /// Number of parameters of the factors of one rank.
    pub fn parameters_of_rank(&self) -> u64 {
        self.shape.iter().map(|side| *side as u64).sum()
    }
}

/// How much a tensor differs that is no selected matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct OtherDifference {
    /// The tensor.
    pub tensor: String,
    /// The norm of its difference over that of what is added to, infinite if that is 0; `None` for
    /// integers.
    pub change: Option<f64>,
}

/// What two models differ by.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Differences {
    /// The selected matrices that differ, in the model's order.
    pub matrices: Vec<MatrixDifference>,
    /// Number of selected matrices that do not.
    pub same: usize,
    /// The other tensors that differ.
    pub others: Vec<OtherDifference>,
}

/// What is known of one tensor.
enum Found {
    Matrix(MatrixDifference),
    Other(OtherDifference),
    Same,
}

impl Difference<'_> {
    /// The differences of all tensors: of the selected matrices in a norm.
    ///
    /// # Errors
    ///
    /// [`DifferenceError::Same`] if no selected matrix differs, [`DifferenceError::Calibration`],
    /// [`DifferenceError::Oversized`] before anything is read, [`DifferenceError::Linalg`],
    /// [`DifferenceError::Checkpoint`] and [`DifferenceError::Interrupted`].
    pub fn measure(
        &self,
        measuring: &Measuring<'_>,
        progress: &mut dyn Progress,
    ) -> Result<Differences, DifferenceError> {
        self.check_calibration(measuring)?;
        let selected = self.matrices.iter().map(|(name, shape)| {
            let cost = measuring.norms.cost(name, *shape) + Cost::of_values(*shape);
            (name.as_str(), cost + cost_of_pair(*shape))
        });
        let others = self.others.iter().map(|tensor| {
            let shape = self.from.shape(tensor).unwrap_or_default();
            let entries = shape.iter().fold(1, |all: u64, side| all.saturating_mul(*side as u64));
            (tensor.as_str(), Cost::of_cast(entries, entries.saturating_mul(16)))
        });
        let work: Vec<(&str, Cost)> = selected.chain(others).collect();
        let mut found: Vec<Option<Found>> = work.iter().map(|_| None).collect();
        let count = self.matrices.len();
        let measure = |index: usize| match index.checked_sub(count) {
            None => self.measure_matrix(index, measuring),
            Some(other) => self.measure_other(&self.others[other]),
        };
        in_budget("differences", &work, &measuring.budget, progress, measure, |index, one| {
            found[index] = Some(one);
        })?;
        self.check_unchanged()?;
        let mut differences = Differences::default();
        for one in found.into_iter().flatten() {
            match one {
                Found::Matrix(matrix) => differences.matrices.push(matrix),
                Found::Other(other) => differences.others.push(other),
                Found::Same => {}
            }
        }
        differences.same = count - differences.matrices.len();
        if differences.matrices.is_empty() {
            let dir = |contents: &Contents<'_>| contents.checkpoint().dir().to_path_buf();
            return Err(DifferenceError::Same { from: dir(&self.from), to: dir(&self.to) });
        }
        Ok(differences)
    }

    /// Checks that a calibration has all selected matrices, with the weights that they have here if they
    /// are dense.
    fn check_calibration(&self, measuring: &Measuring<'_>) -> Result<(), DifferenceError> {
        let Some(calibration) = measuring.norms.calibration() else { return Ok(()) };
        let contents = match measuring.side {
            Side::From => &self.from,
            Side::To => &self.to,
        };
        for (name, shape) in &self.matrices {
            calibration.check_shape(name, *shape)?;
            if let Some(digest) = contents.digest(&name.weight())? {
                calibration.check(name, &digest)?;
            }
        }
        Ok(())
    }

    fn measure_matrix(
        &self,
        index: usize,
        measuring: &Measuring<'_>,
    ) -> Result<Found, DifferenceError> {
        let (name, shape) = &self.matrices[index];
        if self.is_same(&name.weight())? {
            return Ok(Found::Same);
        }
        let (from, difference) = self.of(name)?;
        let (size, change) = (from.norm(), difference.norm());
        drop(from);
        if change == 0.0 {
            return Ok(Found::Same);
        }
        let norm = measuring.norms.of(name)?;
        let values = norm.singular_values(&difference);
        Ok(Found::Matrix(MatrixDifference {
            name: name.clone(),
            shape: *shape,
            singular_values: values.map_err(DifferenceError::of_linalg(name))?,
            change: change / size,
            bytes: self.from.stored_bytes(&name.weight()),
        }))
    }

    fn measure_other(&self, tensor: &str) -> Result<Found, DifferenceError> {
        if self.is_same(tensor)? {
            return Ok(Found::Same);
        }
        let is_integer = |contents: &Contents<'_>| contents.is_integer(tensor);
        let change = match is_integer(&self.from) || is_integer(&self.to) {
            true => None,
            false => {
                let (from, to) = (self.from.values(tensor)?, self.to.values(tensor)?);
                let pairs =
                    to.iter().zip(&from).map(|(to, from)| f64::from(*to) - f64::from(*from));
                let by = length(pairs);
                if by == 0.0 {
                    return Ok(Found::Same);
                }
                Some(by / length(from.iter().copied().map(f64::from)))
            }
        };
        Ok(Found::Other(OtherDifference { tensor: tensor.into(), change }))
    }

    /// Whether a tensor is stored in the same bytes in both models, which is known without decoding it.
    fn is_same(&self, tensor: &str) -> Result<bool, DifferenceError> {
        let (from, to) = (self.from.digest(tensor)?, self.to.digest(tensor)?);
        Ok(from.is_some() && from == to)
    }
}

/// The Euclidean norm of numbers whose squares do not overflow.
fn length(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|x| x * x).sum::<f64>().sqrt()
}

/// The cost of reading two matrices of this shape, and of their difference.
pub(super) fn cost_of_pair(shape: [usize; 2]) -> Cost {
    Cost::of_product(shape, 0) + Cost::of_product(shape, 0)
}

/// Works on tensors, as many at a time as the budget allows. `done` gets the results in any order.
pub(super) fn in_budget<T: Send>(
    what: &str,
    work: &[(&str, Cost)],
    budget: &Budget,
    progress: &mut dyn Progress,
    compute: impl Fn(usize) -> Result<T, DifferenceError> + Sync,
    mut done: impl FnMut(usize, T),
) -> Result<(), DifferenceError> {
    let needs: Vec<u64> = work.iter().map(|(_, cost)| cost.bytes).collect();
    budget.check(work.iter().map(|(name, cost)| (*name, cost.bytes)))?;
    let operations = work.iter().fold(0, |sum: u64, (_, of)| sum.saturating_add(of.operations));
    progress.begin_work(what, work.len(), operations);
    progress.count_in("tensors");
    budget.workers().try_spread_within(budget.memory, &needs, compute, |index, result| {
        done(index, result);
        let (item, Cost { operations, .. }) = work[index];
        Ok(progress.part(Part { item, steps: 1, operations, known: false })?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_are_the_squared_errors_of_all_ranks() {
        let matrix = MatrixDifference {
            name: "a".into(),
            shape: [2, 3],
            singular_values: vec![3.0, 2.0],
            change: 1.0,
            bytes: 24,
        };
        assert_eq!(matrix.tails(), [13.0, 4.0, 0.0]);
        assert_eq!((matrix.full_rank(), matrix.parameters_of_rank()), (2, 5));
    }
}
