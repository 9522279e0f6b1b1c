use crate::modules::MatrixName;

/// What was compressed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CompressReport {
    /// One entry a matrix that is stored in another form than before, in the model's order.
    pub compressed: Vec<CompressedMatrix>,
}

/// One compressed matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct CompressedMatrix {
    /// Name of the matrix: the path of its weight without `.weight`.
    pub name: MatrixName,
    /// Its new rank.
    pub rank: usize,
    /// `‖W - W_k‖ / ‖W‖`, in the norm in which it was factored: the Frobenius norm unless that is
    /// one of a calibration. Before anything is rounded to a stored type.
    pub relative_error: f64,
}
