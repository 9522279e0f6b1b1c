//! What work on a matrix costs, for budgets and estimates of the remaining time.

/// Version of the decompositions in `linalg`. Raise it with every change that can change a
/// result: kept spectra and half-finished outputs of another version are not used.
pub(crate) const DECOMPOSITION: u32 = 4;

/// An estimate, good enough to plan with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    /// Bytes while it is in flight; stored bytes are memory-mapped and do not count.
    pub bytes: u64,
    /// Floating point operations, weighted by how long they take.
    pub operations: u64,
}

impl Cost {
    /// Saturates instead of overflowing, whatever a shape claims.
    fn new(entries: f64, operations: f64) -> Self {
        Self { bytes: (8.0 * entries) as u64, operations: operations as u64 }
    }

    /// The cost of the singular values of a matrix: its entries and a scaled copy, the Gram matrix
    /// of the smaller side, and the workspace of its eigenproblem.
    pub fn of_values(shape: [usize; 2]) -> Self {
        let [m, n] = shape.map(|n| n as f64);
        let side = m.min(n);
        // An operation of the eigenproblem takes as long as nine of the product: it waits for
        // memory (`benches/decomposition.rs`).
        let operations = m * n * side + 9.0 * side.powi(3);
        Self::new(2.0 * m * n + 4.0 * side * side, operations)
    }

    /// The same for factors at a rank: also the vectors of both sides, the factors, and their
    /// stored form.
    pub fn of_factors(shape: [usize; 2], rank: usize) -> Self {
        let [m, n] = shape.map(|n| n as f64);
        let (side, rank) = (m.min(n), rank as f64);
        let entries = 2.0 * m * n + 4.0 * side * side + 3.0 * (m + n) * rank;
        Self::new(entries, m * n * (side + 3.0 * rank) + 9.0 * side.powi(3))
    }

    /// The cost of rounding factors at a rank so that their numbers make up for each other, and of
    /// measuring what became of the matrix: copies of it, the factors, and what rows and columns make
    /// up for each other by.
    pub fn of_rounding(shape: [usize; 2], rank: usize) -> Self {
        let [m, n] = shape.map(|n| n as f64);
        let (side, rank) = (m.max(n), rank as f64);
        let entries = 6.0 * m * n + 4.0 * side * side + 3.0 * (m + n) * rank;
        Self::new(entries, (m + n + rank) * (2.0 * m * n + (m + n) * rank))
    }

    /// The cost of work that comes after this, when its memory is free again.
    pub fn then(self, next: Self) -> Self {
        let bytes = self.bytes.max(next.bytes);
        Self { bytes, operations: self.operations.saturating_add(next.operations) }
    }

    /// The cost of a root of second moments, and of a product with it.
    pub fn of_root(size: usize) -> Self {
        let size = size as f64;
        Self::new(3.0 * size * size, 2.0 * size.powi(3))
    }

    /// The cost of the product of two factors, and its stored form.
    pub fn of_product(shape: [usize; 2], rank: usize) -> Self {
        let [m, n] = shape.map(|n| n as f64);
        let rank = rank as f64;
        Self::new(3.0 * m * n + (m + n) * rank, m * n * rank)
    }

    /// The cost of reading and writing a tensor unchanged.
    pub fn of_copy(entries: u64) -> Self {
        Self { bytes: 0, operations: entries }
    }

    /// The cost of converting a tensor to another type, in which it has this many bytes.
    pub fn of_cast(entries: u64, bytes: u64) -> Self {
        Self { bytes, operations: entries }
    }
}

impl std::ops::Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            operations: self.operations.saturating_add(other.operations),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn larger_matrices_need_more_and_absurd_ones_do_not_overflow() {
        let [small, large] = [[64, 160], [160, 160]].map(Cost::of_values);
        assert!(small.bytes < large.bytes && small.operations < large.operations);
        assert!(Cost::of_factors([64, 160], 8).bytes > small.bytes);
        assert_eq!(Cost::of_values([usize::MAX; 2]).bytes, u64::MAX);
    }
}
