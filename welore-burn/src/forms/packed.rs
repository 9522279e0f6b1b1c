//! A weight that stays in its blocks while a module computes with it.

use std::collections::BTreeMap;

use burn::module::{Module, Param, ParamId, Reparameterization, Reparameterizer};
use burn::tensor::module::linear;
use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};

use super::attach::NewParams;
use super::block_matrix::BlockMatrix;
use super::blocks::Blocks;
use super::error::FormError;
use super::low_rank::from_matrix;
use super::part::Part;
use crate::ggml::TensorType;
use crate::named::Named;

/// The paths of the blocks within their weight.
pub(super) const BASE: &str = "packed.base.blocks";
pub(super) const RIGHT: &str = "packed.right.blocks";
pub(super) const LEFT: &str = "packed.left.blocks";

/// The state of a packed weight: its blocks, in types of llama.cpp. They do not train, and are no
/// parameters that Burn counts. The matrix is `base`, `left · right`, or the sum of both.
///
/// [`LowRankLinear`](crate::linear::LowRankLinear), and the embedding and the head of a
/// [`Decoder`](crate::model::Decoder), multiply by the blocks as they are, if these are on Burn's CPU
/// backend and no gradients are asked for. All other layers, other devices, and inputs with autodiff
/// get the dense weight, which is unpacked on the host in every pass.
///
/// # Shapes
///
/// - base of the parameter: `[N, 0]`, where `N` is a number for the types. It has no entries: every
///   parameter has a base, and its shape keeps records of different types apart.
/// - `base`: `[rows, columns]`
/// - `right`: `[rank, columns]`
/// - `left`: `[rows, rank]`
/// - effective weight: `[rows, columns]`, as in an embedding, or its transpose, as in a linear layer
#[derive(Module, Debug)]
pub struct Packed {
    /// The matrix, or what the factors are added to.
    pub base: Option<BlockMatrix>,
    /// The right factor, if there are factors.
    pub right: Option<BlockMatrix>,
    /// The left factor, if there are factors.
    pub left: Option<BlockMatrix>,
    /// Whether the weight is the transpose of the matrix.
    #[module(skip)]
    turned: bool,
}

impl Reparameterization for Packed {
    const NAME: &'static str = "packed";

    /// Unpacks the dense weight, in the type and on the device of the base.
    ///
    /// # Panics
    ///
    /// Panics if `D` is not 2: only matrices are packed.
    fn apply<const D: usize>(&self, base: Tensor<D>) -> Tensor<D> {
        assert_eq!(D, 2, "a packed parameter must be a matrix");
        let matrix = self.unpacked(&base.device());
        let weight = if self.turned { matrix.transpose() } else { matrix };
        weight.cast(FloatDType::from(base.dtype())).unsqueeze::<D>()
    }
}

impl Packed {
    /// The shape of the matrix, `[rows, columns]`. Initializes nothing.
    pub fn shape(&self) -> [usize; 2] {
        match (&self.base, &self.left, &self.right) {
            (Some(base), _, _) => base.shape(),
            (None, Some(left), Some(right)) => [left.shape()[0], right.shape()[1]],
            _ => [0, 0],
        }
    }

    /// The shape of the effective weight. Initializes nothing.
    pub(super) fn weight_shape(&self) -> [usize; 2] {
        let [rows, columns] = self.shape();
        if self.turned { [columns, rows] } else { [rows, columns] }
    }

    /// The product of the rows of `input` with those of the matrix, in the type of the input.
    ///
    /// # Shapes
    ///
    /// - input: `[..., columns]`
    /// - output: `[..., rows]`
    pub(super) fn product<const D: usize>(&self, input: Tensor<D>) -> Tensor<D> {
        let (device, dtype) = (input.device(), FloatDType::from(input.dtype()));
        let mut parts = self.parts();
        if input.is_autodiff() || !parts.all(BlockMatrix::is_on_host) {
            return linear(input, self.unpacked(&device).transpose().cast(dtype), None);
        }
        let mut dims = input.dims();
        let input = input.cast(FloatDType::F32).into_data().try_into_vec::<f32>();
        let input = input.expect("it was cast");
        let of_base = self.base.as_ref().map(|base| base.product(&input));
        let of_factors = self.factors().map(|(left, right)| left.product(&right.product(&input)));
        let output = match (of_base, of_factors) {
            (Some(base), Some(factors)) => added(base, &factors),
            (base, factors) => base.or(factors).unwrap_or_default(),
        };
        dims[D - 1] = self.shape()[0];
        let output = TensorData::new(output, dims);
        Tensor::<D>::from_data(output, (&device, DType::F32)).cast(dtype)
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
    pub(super) fn rows(&self, rows: Tensor<2, Int>, device: &Device) -> Tensor<3> {
        let ([batch, positions], [_, columns]) = (rows.dims(), self.shape());
        let rows = rows.without_autodiff().into_data();
        // A negative number is no row either.
        let row = |row: i64| usize::try_from(row).unwrap_or(usize::MAX);
        let rows: Vec<usize> = rows.iter::<i64>().map(row).collect();
        let of_base = self.base.as_ref().map(|base| base.rows(&rows));
        let of_factors = self.factors().map(|(left, right)| {
            let shares = left.rows(&rows);
            combined(&shares, &right.entries(), columns)
        });
        let entries = match (of_base, of_factors) {
            (Some(base), Some(factors)) => added(base, &factors),
            (base, factors) => base.or(factors).unwrap_or_default(),
        };
        let entries = TensorData::new(entries, [batch, positions, columns]);
        Tensor::from_data(entries, (device, DType::F32))
    }

    /// The matrix `[rows, columns]`, unpacked on the host, f32, on a device.
    fn unpacked(&self, device: &Device) -> Tensor<2> {
        let dense = |part: &BlockMatrix| {
            let entries = TensorData::new(part.entries(), part.shape());
            Tensor::<2>::from_data(entries, (device, DType::F32))
        };
        let base = self.base.as_ref().map(dense);
        let factors = self.factors().map(|(left, right)| dense(left).matmul(dense(right)));
        match (base, factors) {
            (Some(base), Some(factors)) => base + factors,
            (base, factors) => base.or(factors).expect("a packed weight has blocks"),
        }
    }

    fn factors(&self) -> Option<(&BlockMatrix, &BlockMatrix)> {
        self.left.as_ref().zip(self.right.as_ref())
    }

    fn parts(&self) -> impl Iterator<Item = &BlockMatrix> {
        [&self.base, &self.right, &self.left].into_iter().flatten()
    }
}

fn added(mut to: Vec<f32>, what: &[f32]) -> Vec<f32> {
    to.iter_mut().zip(what).for_each(|(to, what)| *to += what);
    to
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

/// Numbers that stand for the types of a packed weight.
pub(super) mod code {
    use super::*;

    /// Above every number for a matrix in blocks.
    const FACTORS: usize = 1 << 8;

    /// The number for these types.
    pub fn of(base: Option<Blocks>, factors: Option<TensorType>) -> usize {
        let base = base.map_or(0, |of| 2 + 2 * of.tensor_type.code() as usize + of.turned as usize);
        let factors = factors.map_or(0, |of| 1 + of.code() as usize);
        base + FACTORS * factors
    }

    /// The types that the shape of a base stands for.
    pub fn types_of(shape: &[usize]) -> Option<(Option<Blocks>, Option<TensorType>)> {
        let &[code, 0] = shape else { return None };
        let all = || TensorType::all().iter().copied();
        let both = || all().flat_map(|of| [false, true].map(|turned| (of, turned)));
        let blocks = both().map(|(tensor_type, turned)| Some(Blocks { tensor_type, turned }));
        let base =
            [None].into_iter().chain(blocks).find(|base| of(*base, None) == code % FACTORS)?;
        let factors = all().map(Some);
        let factors = [None].into_iter().chain(factors);
        let found = factors.map(|factors| (base, factors)).find(|(b, f)| of(*b, *f) == code)?;
        (found != (None, None)).then_some(found)
    }
}

/// The parameters that replace a dense weight which is packed.
#[derive(Debug)]
pub(crate) struct NewPacked {
    base: Param<Tensor<2>>,
    packed: Packed,
}

impl NewPacked {
    /// Those of a weight of this shape. The weight of a linear layer is `[columns, rows]`. Allocates
    /// nothing until blocks are loaded.
    pub fn empty(
        blocks: Option<Blocks>,
        factors: Option<(usize, TensorType)>,
        weight: [usize; 2],
        of_linear: bool,
        device: &Device,
    ) -> NewParams {
        let [first, second] = weight;
        let shape @ [rows, columns] = if of_linear { [second, first] } else { weight };
        let code = [code::of(blocks, factors.map(|(_, of)| of)), 0];
        let base = Param::uninitialized(
            ParamId::new(),
            move |device, _| Tensor::empty(code, (device, DType::F32)),
            device.clone(),
            false,
            code.into(),
        );
        let factor = |shape: [usize; 2], turned: bool| {
            let (_, tensor_type) = factors?;
            Some(BlockMatrix::empty(Blocks { tensor_type, turned }, shape, device))
        };
        let rank = factors.map_or(0, |(rank, _)| rank);
        let packed = Packed {
            base: blocks.map(|blocks| BlockMatrix::empty(blocks, shape, device)),
            right: factor([rank, columns], false),
            left: factor([rows, rank], true),
            turned: of_linear,
        };
        NewParams::Packed(Self { base, packed })
    }

    /// The same with the blocks of these parts, in the order of the form, under the id of the weight.
    ///
    /// # Errors
    ///
    /// [`FormError::Parts`] if there are not as many bytes as the shapes need.
    pub fn filled(self, parts: &[Part], id: ParamId) -> Result<Self, FormError> {
        let Self { mut base, packed } = self;
        let mut parts = parts.iter();
        let mut fill = |matrix: Option<BlockMatrix>| {
            let fill = |matrix: BlockMatrix| match parts.next() {
                Some(Part::Blocks(bytes)) => matrix.filled(bytes.clone()),
                _ => Err(FormError::Parts("packed")),
            };
            matrix.map(fill).transpose()
        };
        let packed = Packed {
            base: fill(packed.base)?,
            right: fill(packed.right)?,
            left: fill(packed.left)?,
            turned: packed.turned,
        };
        base.id = id;
        Ok(Self { base, packed })
    }
}

/// Gives parameters their blocks, by path.
pub(super) struct AttachPacked(pub BTreeMap<String, NewPacked>);

impl Reparameterizer for AttachPacked {
    type Reparam = Packed;

    fn reparameterize<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<Packed>) {
        match self.0.remove(path) {
            Some(NewPacked { base, packed }) => {
                (from_matrix(base).expect("only matrices are packed"), Some(packed))
            }
            None => (param, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_of_types_has_a_number_of_its_own() {
        let mut seen = std::collections::BTreeSet::new();
        let types = || TensorType::all().iter().copied();
        let bases = types().flat_map(|of| [false, true].map(|turned| (of, turned)));
        let bases = bases.map(|(tensor_type, turned)| Some(Blocks { tensor_type, turned }));
        for base in [None].into_iter().chain(bases) {
            for factors in [None].into_iter().chain(types().map(Some)) {
                let code = code::of(base, factors);
                assert!(seen.insert(code));
                let known = Some((base, factors)).filter(|found| *found != (None, None));
                assert_eq!(code::types_of(&[code, 0]), known);
            }
        }
        assert_eq!(code::types_of(&[3]), None);
        assert_eq!(code::types_of(&[2, 1]), None);
    }
}
