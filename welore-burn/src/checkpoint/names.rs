use std::cmp::Ordering;

/// The tensor names of one factored matrix: `V` and `U`, or in pivoted storage `V`, `C` and the
/// pivots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FactorNames {
    /// `X.V.weight`, `[rank, in]`: the transposed down factor; in pivoted storage the rows of the
    /// matrix that are pivots.
    pub v: String,
    /// `X.U.weight`, `[out, rank]`: the transposed up factor.
    pub u: String,
    /// `X.C.weight`, `[out - rank, rank]`: what makes the other rows of the pivots, in their
    /// order.
    pub c: String,
    /// `X.pivots`, `[rank]`, I32: the numbers of the pivot rows.
    pub pivots: String,
}

impl FactorNames {
    /// The names for the matrix `name` (no `.weight`).
    pub fn of(name: &str) -> Self {
        Self {
            v: format!("{name}.V.weight"),
            u: format!("{name}.U.weight"),
            c: format!("{name}.C.weight"),
            pivots: format!("{name}.pivots"),
        }
    }

    /// The matrix whose `V` factor this tensor is, if it is one.
    pub fn matrix_of_v(tensor: &str) -> Option<&str> {
        tensor.strip_suffix(".V.weight")
    }

    /// The matrix that this tensor is a part of beside its `V` factor, if it may be one.
    pub fn matrix_of_rest(tensor: &str) -> Option<&str> {
        [".U.weight", ".C.weight", ".pivots"].iter().find_map(|end| tensor.strip_suffix(end))
    }
}

/// Compares names with numbers as numbers, so that layer 2 comes before layer 10. A total
/// order, whatever the names: in each part numbers come before words.
pub fn natural_order(a: &str, b: &str) -> Ordering {
    let parts = |name: &str| name.split('.').map(part).collect::<Vec<_>>();
    parts(a).cmp(&parts(b)).then_with(|| a.cmp(b))
}

/// A number, or a word.
fn part(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| text.to_string())
}
