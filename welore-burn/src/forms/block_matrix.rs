//! A matrix in blocks, as a part of a module.

#[cfg(feature = "flex")]
use burn::backend::Flex;
use burn::module::{Module, Param, ParamId};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::blocks::Blocks;
use super::error::FormError;
use crate::ggml::TensorType;
use crate::linalg::transpose;

/// A matrix `[rows, columns]` whose entries are in blocks of one of llama.cpp's types. They do not
/// train, and are no parameters that Burn counts.
#[derive(Module, Debug)]
pub struct BlockMatrix {
    /// The blocks, U8, `[rows, bytes of a row]`, or of the transpose of the matrix.
    pub blocks: Param<Tensor<2, Int>>,
    #[module(skip)]
    tensor_type: TensorType,
    /// Whether the blocks are those of the transpose.
    #[module(skip)]
    turned: bool,
}

impl BlockMatrix {
    /// Of a matrix of this shape that fills its blocks. Allocates nothing until blocks are loaded.
    pub(super) fn empty(form: Blocks, shape: [usize; 2], device: &Device) -> Self {
        let shape = form.tensor_shape(shape);
        let blocks = Param::uninitialized(
            ParamId::new(),
            move |device, _| {
                let zeros = vec![0u8; shape[0] * shape[1]];
                Tensor::from_data(TensorData::new(zeros, shape), (device, DType::U8))
            },
            device.clone(),
            false,
            shape.into(),
        );
        Self { blocks, tensor_type: form.tensor_type, turned: form.turned }
    }

    /// The same with these blocks.
    ///
    /// # Errors
    ///
    /// [`FormError::Parts`] if there are not as many bytes as the shape needs.
    pub(super) fn filled(self, bytes: Vec<u8>) -> Result<Self, FormError> {
        let (shape, device) = (self.blocks.lazy_shape(), self.blocks.lazy_device());
        if shape.num_elements() != bytes.len() {
            return Err(FormError::Parts("packed"));
        }
        let blocks = TensorData::from_bytes_vec(bytes, shape, DType::U8);
        let blocks = Tensor::from_data(blocks, (&device, DType::U8));
        Ok(Self { blocks: Param::initialized(ParamId::new(), blocks), ..self })
    }

    /// The form of its blocks.
    pub fn form(&self) -> Blocks {
        Blocks { tensor_type: self.tensor_type, turned: self.turned }
    }

    /// The shape of the matrix, `[rows, columns]`. Initializes nothing.
    pub fn shape(&self) -> [usize; 2] {
        let shape = self.blocks.lazy_shape();
        self.form().matrix_shape([shape[0], shape[1]]).unwrap_or_default()
    }

    /// The products of rows of numbers with the rows of the matrix, f32.
    ///
    /// # Shapes
    ///
    /// - input: `[n, columns]`, row-major
    /// - output: `[n, rows]`
    pub(super) fn product(&self, input: &[f32]) -> Vec<f32> {
        let ([rows, columns], of) = (self.shape(), self.tensor_type);
        self.with_bytes(|blocks| match self.turned {
            false => of.product(blocks, columns, input),
            true => of.product_turned(blocks, rows, input),
        })
    }

    /// The products of rows of numbers with the columns of the matrix, f32: what gradients of
    /// [`product`](BlockMatrix::product) are multiplied by.
    ///
    /// # Shapes
    ///
    /// - input: `[n, rows]`, row-major
    /// - output: `[n, columns]`
    pub(super) fn product_back(&self, input: &[f32]) -> Vec<f32> {
        let ([rows, columns], of) = (self.shape(), self.tensor_type);
        self.with_bytes(|blocks| match self.turned {
            false => of.product_turned(blocks, columns, input),
            true => of.product(blocks, rows, input),
        })
    }

    /// The entries of some rows of the matrix. Nothing else is unpacked, except that blocks by columns
    /// have no rows.
    ///
    /// # Panics
    ///
    /// Panics if there is no such row.
    pub(super) fn rows(&self, chosen: &[usize]) -> Vec<f32> {
        let ([rows, columns], of) = (self.shape(), self.tensor_type);
        assert!(chosen.iter().all(|row| *row < rows), "the matrix has these rows");
        let stride = self.blocks.lazy_shape()[1];
        self.with_bytes(|blocks| {
            if !self.turned {
                let row = |row: &usize| &blocks[row * stride..][..stride];
                return of
                    .unpack_rows(&chosen.iter().map(row).collect::<Vec<_>>().concat(), columns);
            }
            // The block of each column that has the row.
            let (len, bytes) = (of.block_len(), of.block_bytes());
            let mut entries = Vec::with_capacity(chosen.len() * columns);
            for row in chosen {
                let place = row / len * bytes;
                let parts = blocks.chunks_exact(stride).map(|column| &column[place..place + bytes]);
                let parts = of.unpack_rows(&parts.collect::<Vec<_>>().concat(), len);
                entries.extend(parts.iter().skip(row % len).step_by(len));
            }
            entries
        })
    }

    /// All entries, row-major.
    pub(super) fn entries(&self) -> Vec<f32> {
        let ([rows, columns], of) = (self.shape(), self.tensor_type);
        self.with_bytes(|blocks| match self.turned {
            false => of.unpack_rows(blocks, columns),
            true => transpose(&of.unpack_rows(blocks, rows), columns, rows),
        })
    }

    /// Whether the blocks are in the memory of the host, so that they can be read where they are.
    #[cfg(feature = "flex")]
    pub(super) fn is_on_host(&self) -> bool {
        self.blocks.val().without_autodiff().try_into_primitive::<Flex>().is_ok()
    }

    #[cfg(not(feature = "flex"))]
    pub(super) fn is_on_host(&self) -> bool {
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
