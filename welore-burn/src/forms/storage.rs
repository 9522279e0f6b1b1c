use super::form::Form;
use crate::named::named;

/// How matrices of low rank are stored and computed with, at any rank.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Storage {
    /// Two factors, `r (m + n)` parameters, as in WeLore.
    #[default]
    Factors,
    /// `r` rows of the matrix and the coefficients that rebuild the others: `r (m + n - r)`
    /// parameters for the same matrix (PIFA, arXiv 2501.19090).
    Pivot,
}

named!(Storage {
    Factors => "factors", "two factors, r (m + n) parameters";
    Pivot => "pivot", "r rows of the matrix and the coefficients that rebuild the others, r (m + n - r) parameters";
});

impl Storage {
    /// The form of a matrix at a rank.
    pub fn at_rank(self, rank: usize) -> Form {
        match self {
            Self::Factors => Form::factors(rank),
            Self::Pivot => Form::pivot(rank),
        }
    }
}
