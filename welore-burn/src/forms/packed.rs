//! A weight that stays in its blocks while a module computes with it.

use std::collections::BTreeMap;

#[cfg(feature = "flex")]
use burn::backend::Flex;
use burn::module::{Module, Param, ParamId, Reparameterization, Reparameterizer};
use burn::tensor::module::linear;
use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};

use super::error::FormError;
use super::low_rank::from_matrix;
use crate::ggml::TensorType;
use crate::named::Named;

/// The path of the blocks within their weight.
pub(super) const BLOCKS: &str = "packed.blocks";

/// The state of a packed weight: its blocks, in one of llama.cpp's types. They do not train, and are
/// no parameters that Burn counts.
///
/// [`LowRankLinear`](crate::linear::LowRankLinear), and the embedding and the head of a
/// [`Decoder`](crate::model::Decoder), multiply by the blocks as they are, if these are on Burn's CPU
/// backend and no gradients are asked for. All other layers, other devices, and inputs with autodiff
/// get the dense weight, which is unpacked on the host in every pass.
///
/// # Shapes
///
/// - base: `[N, 0]`, where `N` is ggml's number for the type. It has no entries: every parameter has
///   a base, and its shape keeps records of different types apart.
/// - `blocks`: `[rows, bytes of a row]`
/// - effective weight: `[rows, columns]`, as in an embedding, or its transpose, as in a linear layer
#[derive(Module, Debug)]
pub struct Packed {
    /// The blocks, U8, `[rows, bytes of a row]`.
    pub blocks: Param<Tensor<2, Int>>,
    #[module(skip)]
    tensor_type: TensorType,
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
    /// The type of the blocks.
    pub fn tensor_type(&self) -> TensorType {
        self.tensor_type
    }

    /// The shape of the matrix, `[rows, columns]`. Initializes nothing.
    pub fn shape(&self) -> [usize; 2] {
        let shape = self.blocks.lazy_shape();
        [shape[0], shape[1] / self.tensor_type.block_bytes() * self.tensor_type.block_len()]
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
        if input.is_autodiff() || !self.is_on_host() {
            return linear(input, self.unpacked(&device).transpose().cast(dtype), None);
        }
        let [rows, columns] = self.shape();
        let mut dims = input.dims();
        let input = input.cast(FloatDType::F32).into_data().try_into_vec::<f32>();
        let input = input.expect("it was cast");
        let output = self.with_bytes(|blocks| self.tensor_type.product(blocks, columns, &input));
        dims[D - 1] = rows;
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
        let stride = self.blocks.lazy_shape()[1];
        let rows = rows.without_autodiff().into_data();
        let mut chosen = Vec::with_capacity(batch * positions * stride);
        self.with_bytes(|blocks| {
            for row in rows.iter::<i64>() {
                let row = blocks.chunks_exact(stride).nth(row as usize);
                chosen.extend_from_slice(row.expect("the matrix has this row"));
            }
        });
        let entries = self.tensor_type.unpack_rows(&chosen, columns);
        let entries = TensorData::new(entries, [batch, positions, columns]);
        Tensor::from_data(entries, (device, DType::F32))
    }

    /// The matrix `[rows, columns]`, unpacked on the host, f32, on a device.
    fn unpacked(&self, device: &Device) -> Tensor<2> {
        let [rows, columns] = self.shape();
        let entries = self.with_bytes(|blocks| self.tensor_type.unpack_rows(blocks, columns));
        Tensor::from_data(TensorData::new(entries, [rows, columns]), (device, DType::F32))
    }

    /// Whether the blocks are in the memory of the host, so that they can be read where they are.
    #[cfg(feature = "flex")]
    fn is_on_host(&self) -> bool {
        self.blocks.val().without_autodiff().try_into_primitive::<Flex>().is_ok()
    }

    #[cfg(not(feature = "flex"))]
    fn is_on_host(&self) -> bool {
        false
    }

    /// Reads the blocks, where they are if they are on the host.
    fn with_bytes<T>(&self, read: impl FnOnce(&[u8]) -> T) -> T {
        let blocks = self.blocks.val().without_autodiff();
        #[cfg(feature = "flex")]
        if let Ok(shared) = blocks.clone().try_into_primitive::<Flex>() {
            let shared = shared.to_contiguous();
            return read(shared.as_slice::<u8>().expect("blocks are bytes, one after the other"));
        }
        read(blocks.into_data().as_bytes())
    }
}

/// The type that the shape of a base stands for.
pub(super) fn type_of_base(shape: &[usize]) -> Option<TensorType> {
    let &[code, 0] = shape else { return None };
    TensorType::all().iter().find(|of| of.code() as usize == code).copied()
}

/// The parameters that replace a dense weight which is packed.
#[derive(Debug)]
pub(crate) struct NewPacked {
    base: Param<Tensor<2>>,
    packed: Packed,
}

impl NewPacked {
    /// Those of a matrix `[rows, columns]` that fills its blocks. Allocates nothing until blocks are
    /// loaded.
    pub fn empty(
        tensor_type: TensorType,
        [rows, columns]: [usize; 2],
        turned: bool,
        device: &Device,
    ) -> Self {
        let base = [tensor_type.code() as usize, 0];
        let blocks = [rows, tensor_type.row_bytes(columns).unwrap_or(0)];
        let base = Param::uninitialized(
            ParamId::new(),
            move |device, _| Tensor::empty(base, (device, DType::F32)),
            device.clone(),
            false,
            base.into(),
        );
        let blocks = Param::uninitialized(
            ParamId::new(),
            move |device, _| {
                let zeros = vec![0u8; blocks[0] * blocks[1]];
                Tensor::from_data(TensorData::new(zeros, blocks), (device, DType::U8))
            },
            device.clone(),
            false,
            blocks.into(),
        );
        Self { base, packed: Packed { blocks, tensor_type, turned } }
    }

    /// The same with these blocks, under the id of the weight.
    ///
    /// # Errors
    ///
    /// [`FormError::Parts`] if there are not as many bytes as the shape needs.
    pub fn filled(self, bytes: Vec<u8>, id: ParamId) -> Result<Self, FormError> {
        let Self { mut base, mut packed } = self;
        let (shape, device) = (packed.blocks.lazy_shape(), packed.blocks.lazy_device());
        if shape.num_elements() != bytes.len() {
            return Err(FormError::Parts("packed"));
        }
        let blocks = TensorData::from_bytes_vec(bytes, shape, DType::U8);
        packed.blocks =
            Param::initialized(ParamId::new(), Tensor::from_data(blocks, (&device, DType::U8)));
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
