use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

use crate::modules::{Factor, walk};

/// The norm of all gradients together, as one vector; `None` if there are no gradients. It stays on
/// the device.
pub fn global_norm<M: Module>(module: &M, gradients: &GradientsParams) -> Option<Tensor<1>> {
    let mut squares = Vec::new();
    walk(module, |_, param| squares.extend(param.squared_gradient(gradients)));
    (!squares.is_empty()).then(|| Tensor::cat(squares, 0).sum().sqrt())
}

/// Scales gradients whose global norm is `norm` down to `most`; smaller ones are multiplied
/// by 1. The host does not wait for the norm.
pub fn clip_to_norm<M: Module>(
    module: &M,
    gradients: GradientsParams,
    norm: Tensor<1>,
    most: f64,
) -> GradientsParams {
    let factor = norm.recip().mul_scalar(most).clamp_max(1.0);
    multiply(module, gradients, &Factor::Tensor(Box::new(factor)))
}

/// Multiplies all gradients by a number.
pub(super) fn scale<M: Module>(
    module: &M,
    gradients: GradientsParams,
    factor: f64,
) -> GradientsParams {
    multiply(module, gradients, &Factor::Number(factor))
}

fn multiply<M: Module>(module: &M, mut gradients: GradientsParams, by: &Factor) -> GradientsParams {
    walk(module, |_, param| param.scale_gradient(&mut gradients, by));
    gradients
}
