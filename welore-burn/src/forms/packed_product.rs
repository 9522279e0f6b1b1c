//! Products with what of a weight is in blocks. The blocks stay as they are, also where gradients are
//! recorded: these flow through the product, and no dense weight waits for them.

use burn::tensor::module::linear;
use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};

use super::block_matrix::BlockMatrix;
use super::recorded_product::recorded;

/// What of a packed weight is in blocks: a matrix `[rows, columns]`, `left · right`, or the sum of
/// both.
#[derive(Debug, Clone)]
pub(super) struct Frozen {
    base: Option<BlockMatrix>,
    /// `[left, right]`
    factors: Option<[BlockMatrix; 2]>,
    shape: [usize; 2],
}

impl Frozen {
    /// `None` if nothing is in blocks.
    pub fn of(base: Option<&BlockMatrix>, factors: Option<[&BlockMatrix; 2]>) -> Option<Self> {
        let shape = match (base, factors) {
            (Some(base), _) => base.shape(),
            (None, Some([left, right])) => [left.shape()[0], right.shape()[1]],
            (None, None) => return None,
        };
        Some(Self {
            base: base.cloned(),
            factors: factors.map(|both| both.map(Clone::clone)),
            shape,
        })
    }

    /// The product of the rows of `input` with those of the matrix, in the type of the input.
    ///
    /// On an autodiff device its backward pass needs no more than the blocks, and gives a gradient of
    /// the input alone.
    ///
    /// # Shapes
    ///
    /// - input: `[..., columns]`
    /// - output: `[..., rows]`
    pub fn product<const D: usize>(&self, input: Tensor<D>) -> Tensor<D> {
        match input.is_autodiff() {
            false => self.forward(input),
            true => recorded(self, &input).unwrap_or_else(|| self.unpacked_product(input)),
        }
    }

    /// [`product`](Frozen::product) without gradients.
    pub(super) fn forward<const D: usize>(&self, input: Tensor<D>) -> Tensor<D> {
        if !self.is_on_host() {
            return self.unpacked_product(input);
        }
        let [rows, _] = self.shape;
        on_host(input, rows, |input| {
            let of_base = self.base.as_ref().map(|base| base.product(input));
            let of_factors =
                self.factors.as_ref().map(|[left, right]| left.product(&right.product(input)));
            sum(of_base, of_factors)
        })
    }

    /// The gradient of the input, from that of the product: the product of its rows with the columns
    /// of the matrix.
    ///
    /// # Shapes
    ///
    /// - gradient: `[..., rows]`
    /// - output: `[..., columns]`
    pub(super) fn backward<const D: usize>(&self, gradient: Tensor<D>) -> Tensor<D> {
        if !self.is_on_host() {
            let (device, dtype) = (gradient.device(), FloatDType::from(gradient.dtype()));
            return linear(gradient, self.unpacked(&device).cast(dtype), None);
        }
        let [_, columns] = self.shape;
        on_host(gradient, columns, |gradient| {
            let of_base = self.base.as_ref().map(|base| base.product_back(gradient));
            let of_factors = self
                .factors
                .as_ref()
                .map(|[left, right]| right.product_back(&left.product_back(gradient)));
            sum(of_base, of_factors)
        })
    }

    /// The product with the dense weight, which is unpacked for it.
    fn unpacked_product<const D: usize>(&self, input: Tensor<D>) -> Tensor<D> {
        let (device, dtype) = (input.device(), FloatDType::from(input.dtype()));
        linear(input, self.unpacked(&device).transpose().cast(dtype), None)
    }

    /// Some rows of the matrix, f32, on a device. Only they are unpacked.
    ///
    /// # Shapes
    ///
    /// - rows: `[batch, positions]`
    /// - output: `[batch, positions, columns]`
    ///
    /// # Panics
    ///
    /// Panics if there is no such row.
    pub fn rows(&self, rows: Tensor<2, Int>, device: &Device) -> Tensor<3> {
        let ([batch, positions], [_, columns]) = (rows.dims(), self.shape);
        let rows = rows.without_autodiff().into_data();
        // A negative number is no row either.
        let row = |row: i64| usize::try_from(row).unwrap_or(usize::MAX);
        let rows: Vec<usize> = rows.iter::<i64>().map(row).collect();
        let of_base = self.base.as_ref().map(|base| base.rows(&rows));
        let of_factors = self.factors.as_ref().map(|[left, right]| {
            let shares = left.rows(&rows);
            combined(&shares, &right.entries(), columns)
        });
        let entries = TensorData::new(sum(of_base, of_factors), [batch, positions, columns]);
        Tensor::from_data(entries, (device, DType::F32))
    }

    /// The matrix `[rows, columns]`, unpacked on the host, f32, on a device.
    pub fn unpacked(&self, device: &Device) -> Tensor<2> {
        let dense = |part: &BlockMatrix| {
            let entries = TensorData::new(part.entries(), part.shape());
            Tensor::<2>::from_data(entries, (device, DType::F32))
        };
        let base = self.base.as_ref().map(dense);
        let factors = self.factors.as_ref().map(|[left, right]| dense(left).matmul(dense(right)));
        match (base, factors) {
            (Some(base), Some(factors)) => base + factors,
            (base, factors) => base.or(factors).expect("something is in blocks"),
        }
    }

    fn is_on_host(&self) -> bool {
        self.base.iter().chain(self.factors.iter().flatten()).all(BlockMatrix::is_on_host)
    }
}

/// Multiplies rows of numbers on the host: the result has rows of `width`, and is where the input was,
/// in its type.
fn on_host<const D: usize>(
    input: Tensor<D>,
    width: usize,
    multiply: impl FnOnce(&[f32]) -> Vec<f32>,
) -> Tensor<D> {
    let (device, dtype) = (input.device(), FloatDType::from(input.dtype()));
    let mut dims = input.dims();
    dims[D - 1] = width;
    let input = input.cast(FloatDType::F32).into_data().try_into_vec::<f32>();
    let output = TensorData::new(multiply(&input.expect("it was cast")), dims);
    Tensor::<D>::from_data(output, (&device, DType::F32)).cast(dtype)
}

fn sum(one: Option<Vec<f32>>, other: Option<Vec<f32>>) -> Vec<f32> {
    match (one, other) {
        (Some(mut one), Some(other)) => {
            one.iter_mut().zip(other).for_each(|(one, other)| *one += other);
            one
        }
        (one, other) => one.or(other).unwrap_or_default(),
    }
}

/// `shares · rows`, for few rows of shares.
fn combined(shares: &[f32], rows: &[f32], columns: usize) -> Vec<f32> {
    let rank = rows.len() / columns.max(1);
    let mut entries = Vec::with_capacity(shares.len() / rank.max(1) * columns);
    for shares in shares.chunks_exact(rank.max(1)) {
        let mut sums = vec![0.0f32; columns];
        for (share, row) in shares.iter().zip(rows.chunks_exact(columns)) {
            sums.iter_mut().zip(row).for_each(|(sum, entry)| *sum += share * entry);
        }
        entries.extend(sums);
    }
    entries
}
