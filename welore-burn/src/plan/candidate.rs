use crate::named::named;

/// What parts of a compressed model may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Candidate {
    /// Matrices as they are.
    Dense,
    /// Two factors.
    Factors,
    /// Rows of the matrix, and the coefficients that rebuild the others.
    Pivot,
    /// Blocks of llama.cpp's types.
    Blocks,
    /// MLPs with fewer channels, whose matrices are smaller and dense.
    Channels,
}

named!(Candidate {
    Dense => "dense", "matrices as they are";
    Factors => "factors", "two factors of a matrix";
    Pivot => "pivot", "rows of a matrix and the coefficients that rebuild the others";
    Blocks => "blocks", "blocks of llama.cpp's types, which stay packed";
    Channels => "channels", "MLPs with fewer channels: smaller dense matrices";
});
