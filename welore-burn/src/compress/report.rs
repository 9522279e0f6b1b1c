use crate::modules::MatrixName;

/// What was compressed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CompressReport {
    /// One entry per matrix whose form has changed, in the model's order.
    pub compressed: Vec<CompressedMatrix>,
}

/// One compressed matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct CompressedMatrix {
    /// Name of the matrix: the path of its weight without `.weight`.
    pub name: MatrixName,
    /// Its new rank.
    pub rank: usize,
    /// `‖W - W_k‖ / ‖W‖` in the norm in which it was factored: the Frobenius norm, or one of a
    /// calibration. Measured before refinement and before rounding to a stored type.
    pub relative_error: f64,
}
