/// What it takes to multiply one vector by a weight in some form.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Number of multiplications.
    pub multiplications: u64,
    /// Number of matrix products that run one after the other. Each has a cost of its own, such as
    /// starting threads and packing what it multiplies.
    pub products: u64,
    /// Number of values that are written between the products, or only to be put in order, and read
    /// again. The output itself does not count.
    pub moved: u64,
}

impl Work {
    /// The work of one product after the other: `products` of them, with this many multiplications
    /// in all.
    pub(super) fn of(multiplications: u64, products: u64, moved: usize) -> Self {
        Self { multiplications, products, moved: moved as u64 }
    }
}
