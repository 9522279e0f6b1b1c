use std::cmp::Ordering;

/// The tensor names of one factored matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FactorNames {
    /// `X.V.weight`, `[rank, in]`: the transposed down factor.
    pub v: String,
    /// `X.U.weight`, `[out, rank]`: the transposed up factor.
    pub u: String,
}

impl FactorNames {
    /// The names for the matrix `name` (no `.weight`).
    pub fn of(name: &str) -> Self {
        Self { v: format!("{name}.V.weight"), u: format!("{name}.U.weight") }
    }

    /// The matrix whose `V` factor this tensor is, if it is one.
    pub fn matrix_of_v(tensor: &str) -> Option<&str> {
        tensor.strip_suffix(".V.weight")
    }
}

/// Compares names with numbers as numbers, so that layer 2 comes before layer 10.
pub fn natural_order(a: &str, b: &str) -> Ordering {
    let mut parts = a.split('.').zip(b.split('.'));
    parts
        .find_map(|(a, b)| {
            let order = match (a.parse::<u64>(), b.parse::<u64>()) {
                (Ok(a), Ok(b)) => a.cmp(&b),
                _ => a.cmp(b),
            };
            order.is_ne().then_some(order)
        })
        .unwrap_or_else(|| a.cmp(b))
}
