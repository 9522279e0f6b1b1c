//! A weight that stays in its blocks while a module computes with it.

use std::collections::BTreeMap;

use burn::module::{Module, Param, ParamId, Reparameterization, Reparameterizer};
use burn::tensor::module::{embedding, linear};
use burn::tensor::{DType, Device, FloatDType, Int, Tensor};

use super::attach::NewParams;
use super::block_matrix::BlockMatrix;
use super::blocks::Blocks;
use super::error::FormError;
use super::low_rank::from_matrix;
use super::packed_product::Frozen;
use super::part::Part;
use super::slots::Codec;
use crate::ggml::TensorType;
use crate::named::Named;

/// The paths of the blocks within their weight.
pub(super) const BASE: &str = "packed.base.blocks";
pub(super) const RIGHT: &str = "packed.right.blocks";
pub(super) const LEFT: &str = "packed.left.blocks";

/// The paths of the factors that train.
pub(super) const DOWN: &str = "packed.down";
pub(super) const UP: &str = "packed.up";

/// Whether the path of a parameter within its weight is that of a factor which was unpacked, or which
/// has no entries until it is.
pub(crate) fn is_unpacked_factor(part: &str) -> bool {
    [DOWN, UP].contains(&part)
}

/// The state of a packed weight: its blocks, in types of llama.cpp, and factors that train. Blocks do
/// not train, and are no parameters that Burn counts. The matrix is `base`, `left · right` or
/// `(down · up)ᵀ`, or the sum of a base and one of the products.
///
/// [`LowRankLinear`](crate::linear::LowRankLinear), and the embedding and the head of a
/// [`Decoder`](crate::model::Decoder), multiply by the blocks as they are, if these are on Burn's CPU
/// backend. Elsewhere the dense weight is unpacked on the host for each product, and freed. Gradients
/// flow through either, and keep no dense weight. All other layers get the dense weight, which is
/// unpacked in every pass.
///
/// Factors in blocks become ones that train when training begins.
///
/// # Shapes
///
/// - base of the parameter: `[N, 0]`, where `N` is a number for the types. It has no entries: every
///   parameter has a base, and its shape keeps records of different types apart.
/// - `base`: `[rows, columns]`
/// - `right`: `[rank, columns]`, or `[0, columns]` once `down` and `up` train
/// - `left`: `[rows, rank]`, or `[rows, 0]`
/// - `down`: `[columns, rank]`, or `[columns, 0]` until it trains
/// - `up`: `[rank, rows]`, or `[0, rows]`
/// - effective weight: `[rows, columns]`, as in an embedding, or its transpose, as in a linear layer
#[derive(Module, Debug)]
pub struct Packed {
    /// The matrix, or what the factors are added to.
    pub base: Option<BlockMatrix>,
    /// The right factor, if there are factors in blocks.
    pub right: Option<BlockMatrix>,
    /// The left factor, if there are factors in blocks.
    pub left: Option<BlockMatrix>,
    /// The transpose of the right factor, if there are factors.
    pub down: Option<Param<Tensor<2>>>,
    /// The transpose of the left factor, if there are factors.
    pub up: Option<Param<Tensor<2>>>,
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
        let frozen = self.frozen().map(|frozen| frozen.unpacked(&base.device()));
        let factors = self.factors().map(|(down, up)| {
            down.cast(FloatDType::F32).matmul(up.cast(FloatDType::F32)).transpose()
        });
        let matrix = sum(frozen, factors);
        let weight = if self.turned { matrix.transpose() } else { matrix };
        weight.cast(FloatDType::from(base.dtype())).unsqueeze::<D>()
    }
}

impl Packed {
    /// The shape of the matrix, `[rows, columns]`. Initializes nothing.
    pub fn shape(&self) -> [usize; 2] {
        match (&self.base, &self.down, &self.up) {
            (Some(base), _, _) => base.shape(),
            (None, Some(down), Some(up)) => [up.lazy_shape()[1], down.lazy_shape()[0]],
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
        let Some((down, up)) = self.factors() else {
            return self.frozen().expect("a packed weight has entries").product(input);
        };
        let dtype = FloatDType::from(input.dtype());
        let frozen = self.frozen().map(|frozen| frozen.product(input.clone()));
        let inner = linear(input, down.cast(dtype), None);
        sum(frozen, Some(linear(inner, up.cast(dtype), None)))
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
        let frozen = self.frozen().map(|frozen| frozen.rows(rows.clone(), device));
        let factors = self.factors().map(|(down, up)| {
            let shares = embedding(up.cast(FloatDType::F32).transpose(), rows);
            linear(shares, down.cast(FloatDType::F32).transpose(), None)
        });
        sum(frozen, factors)
    }

    /// What is in blocks, if anything is.
    fn frozen(&self) -> Option<Frozen> {
        let factors = self.left.as_ref().zip(self.right.as_ref());
        let factors = factors.filter(|(_, right)| right.shape()[0] > 0);
        Frozen::of(self.base.as_ref(), factors.map(|(left, right)| [left, right]))
    }

    /// `(down, up)`, if they have entries.
    fn factors(&self) -> Option<(Tensor<2>, Tensor<2>)> {
        let (down, up) = self.down.as_ref().zip(self.up.as_ref())?;
        (up.lazy_shape()[0] > 0).then(|| (down.val(), up.val()))
    }
}

fn sum<const D: usize>(one: Option<Tensor<D>>, other: Option<Tensor<D>>) -> Tensor<D> {
    match (one, other) {
        (Some(one), Some(other)) => one + other,
        (one, other) => one.or(other).expect("a packed weight has entries"),
    }
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

/// The factors of a packed weight.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewFactors {
    pub rank: usize,
    /// Their type in blocks; `None` if they are numbers, which train.
    pub tensor_type: Option<TensorType>,
}

impl NewPacked {
    /// Those of a weight of this shape. The weight of a linear layer is `[columns, rows]`. Allocates
    /// nothing until blocks are loaded.
    pub fn empty(
        blocks: Option<Blocks>,
        factors: Option<NewFactors>,
        weight: [usize; 2],
        of_linear: bool,
        device: &Device,
    ) -> NewParams {
        let [first, second] = weight;
        let shape @ [rows, columns] = if of_linear { [second, first] } else { weight };
        let in_blocks = factors.and_then(|of| Some((of.rank, of.tensor_type?)));
        let code = [code::of(blocks, in_blocks.map(|(_, of)| of)), 0];
        let factor = |shape: fn(usize, [usize; 2]) -> [usize; 2], turned: bool| {
            let (rank, tensor_type) = in_blocks?;
            let shape = shape(rank, [rows, columns]);
            Some(BlockMatrix::empty(Blocks { tensor_type, turned }, shape, device))
        };
        // Factors in blocks have no numbers until they train.
        let rank = factors.map(|of| if of.tensor_type.is_none() { of.rank } else { 0 });
        let packed = Packed {
            base: blocks.map(|blocks| BlockMatrix::empty(blocks, shape, device)),
            right: factor(|rank, [_, columns]| [rank, columns], false),
            left: factor(|rank, [rows, _]| [rows, rank], true),
            down: rank.map(|rank| unfilled([columns, rank], rank > 0, device)),
            up: rank.map(|rank| unfilled([rank, rows], rank > 0, device)),
            turned: of_linear,
        };
        NewParams::Packed(Self { base: unfilled(code, false, device), packed })
    }

    /// The same with the content of these parts, in the order of the form, under the id of the weight.
    /// Numbers are of type `dtype`.
    ///
    /// # Errors
    ///
    /// [`FormError::Parts`] if there are not as many bytes as the shapes need.
    pub fn filled(self, parts: &[Part], id: ParamId, dtype: DType) -> Result<Self, FormError> {
        let Self { mut base, packed } = self;
        let mut parts = parts.iter();
        let mut fill = |matrix: Option<BlockMatrix>| {
            let fill = |matrix: BlockMatrix| match parts.next() {
                Some(Part::Blocks(bytes)) => matrix.filled(bytes.clone()),
                _ => Err(FormError::Parts("packed")),
            };
            matrix.map(fill).transpose()
        };
        let (of_base, right, left) = (fill(packed.base)?, fill(packed.right)?, fill(packed.left)?);
        let mut fill = |param: Option<Param<Tensor<2>>>| match param {
            Some(param) if param.lazy_shape().num_elements() > 0 => {
                let part = parts.next().ok_or(FormError::Parts("packed"))?;
                let data = Codec::Transposed.value(part).ok_or(FormError::Parts("packed"))?;
                if data.shape().to_vec() != param.lazy_shape().to_vec() {
                    return Err(FormError::Parts("packed"));
                }
                let place = (&param.lazy_device(), dtype);
                Ok(Some(Param::from_tensor(Tensor::from_data(data.convert_dtype(dtype), place))))
            }
            other => Ok(other),
        };
        let (down, up) = (fill(packed.down)?, fill(packed.up)?);
        base.id = id;
        let turned = packed.turned;
        Ok(Self { base, packed: Packed { base: of_base, right, left, down, up, turned } })
    }
}

/// A parameter that allocates nothing until it is read or loaded.
fn unfilled(shape: [usize; 2], trains: bool, device: &Device) -> Param<Tensor<2>> {
    Param::uninitialized(
        ParamId::new(),
        move |device, _| match shape.contains(&0) {
            true => Tensor::empty(shape, (device, DType::F32)),
            false => Tensor::zeros(shape, device),
        },
        device.clone(),
        trains,
        shape.into(),
    )
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
