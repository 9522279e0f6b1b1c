//! The weight matrices of modules.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor};

use super::error::FormError;
use super::form::Form;
use super::packed::{BASE, LEFT, RIGHT};
use crate::linalg::Matrix;
use crate::modules::{MatrixName, Place, walk};

/// A weight matrix of a module.
#[derive(Debug, Clone)]
pub struct LiveMatrix {
    /// Its name: the path of its weight without `.weight`.
    pub name: MatrixName,
    /// Its form.
    pub form: Form,
    /// `[out, in]`, whatever the form: the weight of a linear layer as PyTorch stores it, and the
    /// transpose of that of another module, so `[width, tokens]` for an embedding.
    pub shape: [usize; 2],
    /// The base of its weight, a parameter that every form has: the dense weight
    /// `[d_input, d_output]`, the down factor, or, of blocks, a parameter without entries.
    pub base: Param<Tensor<2>>,
    /// Whether it is the weight of a linear layer.
    pub of_linear: bool,
    /// Shapes of its parameters, by their paths within the weight. The base has an empty path.
    pub(crate) params: BTreeMap<String, Vec<usize>>,
}

impl LiveMatrix {
    /// Number of parameters of the matrix, without indices and without an adapter.
    pub fn parameters(&self) -> u64 {
        self.form.parameters(self.shape)
    }

    /// The dense weight as a matrix `[out, in]` on the host.
    ///
    /// # Errors
    ///
    /// [`FormError::NotDense`], [`FormError::Layout`], [`FormError::Quantized`], and
    /// [`FormError::Linalg`] for a weight that is not finite.
    pub fn to_matrix(&self) -> Result<Matrix, FormError> {
        self.check_dense()?;
        to_matrix(self.base.base())
    }

    /// Checks that the weight can be factored. Initializes nothing.
    ///
    /// # Errors
    ///
    /// [`FormError::NotDense`], [`FormError::Layout`].
    pub fn check_dense(&self) -> Result<(), FormError> {
        if self.params.len() > 1 || self.form != Form::dense() {
            return Err(FormError::NotDense);
        }
        if is_transposed_layout(&self.base) {
            return Err(FormError::Layout);
        }
        Ok(())
    }
}

/// The weight matrices of a module, in Burn's order: all two-dimensional parameters called
/// `weight`. Initializes nothing.
pub fn matrices(module: &impl Module) -> Vec<LiveMatrix> {
    struct Weight {
        place: Place,
        base: Option<Param<Tensor<2>>>,
        params: BTreeMap<String, Vec<usize>>,
    }
    let mut found: Vec<Weight> = Vec::new();
    walk(module, |place, param| {
        if place.matrix().is_none() {
            return;
        }
        if place.part.is_empty() {
            let (place, base) = (place.clone(), param.matrix().cloned());
            found.push(Weight { place, base, params: BTreeMap::new() });
        }
        if let Some(weight) = found.last_mut()
            && weight.place.owner == place.owner
        {
            weight.params.insert(place.part.clone(), param.shape());
        }
    });
    let matrix = |Weight { place, base, params }| {
        let shape_of = |part: &str| params.get(part).cloned();
        let (name, of_linear) = (place.matrix()?, place.is_linear());
        let (form, shape) = Form::live(&shape_of, of_linear)?;
        Some(LiveMatrix { name, form, shape, base: base?, of_linear, params })
    };
    found.into_iter().filter_map(matrix).collect()
}

/// Number of parameters of a module. Unlike Burn's `num_params`, it has the numbers in blocks.
/// Initializes nothing.
pub fn parameters(module: &impl Module) -> u64 {
    module.num_params() as u64 + packed_parameters(module)
}

/// Number of parameters of a module that are in blocks. Initializes nothing.
pub(crate) fn packed_parameters(module: &impl Module) -> u64 {
    let matrices = matrices(module).into_iter();
    matrices.map(|matrix| matrix.form.packed_parameters(matrix.shape)).sum()
}

/// Bytes of the blocks of a module. Initializes nothing.
pub fn packed_bytes(module: &impl Module) -> u64 {
    let matrices = matrices(module).into_iter();
    let params = matrices.flat_map(|matrix| matrix.params);
    let blocks = params.filter(|(part, _)| [BASE, RIGHT, LEFT].contains(&part.as_str()));
    blocks.map(|(_, shape)| shape.iter().map(|n| *n as u64).product::<u64>()).sum()
}

/// A weight `[d_input, d_output]` as the PyTorch-oriented matrix `[d_output, d_input]`, f64, on
/// the host.
///
/// # Errors
///
/// [`FormError::Quantized`], and [`FormError::Linalg`] for a weight that is not finite.
pub(crate) fn to_matrix(weight: Tensor<2>) -> Result<Matrix, FormError> {
    if matches!(weight.dtype(), DType::QFloat(_)) {
        return Err(FormError::Quantized);
    }
    let [d_input, d_output] = weight.dims();
    let values = weight.without_autodiff().transpose().into_data().iter::<f64>().collect();
    Ok(Matrix::new(d_output, d_input, values)?)
}

/// Whether a weight is stored with `LinearLayout::Col`, whose records are the transpose of
/// what the layer multiplies by. Such weights can be neither loaded from `[out, in]` files
/// nor factored; callers refuse them.
pub fn is_transposed_layout(param: &Param<Tensor<2>>) -> bool {
    // Burn keeps the layout only as mappers, so this loads a probe of known shape. Loading into
    // a clone initializes nothing.
    let probe = Tensor::<2>::zeros([1, 2], &param.lazy_device());
    param.clone().transform_for_load(probe, param.id).base().dims() != [1, 2]
}
