use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

/// The norm of all gradients together, as one vector.
pub fn global_norm<M: Module>(module: &M, gradients: &GradientsParams) -> f64 {
    let mut visitor = SquaredNorm { gradients, squares: Vec::new() };
    module.visit(&mut visitor);
    if visitor.squares.is_empty() {
        return 0.0;
    }
    // One number leaves the device, not one a parameter.
    Tensor::cat(visitor.squares, 0).sum().into_scalar::<f64>().sqrt()
}

/// Scales gradients whose global norm is `norm` down to `most`; smaller ones are left alone.
pub fn clip_to_norm<M: Module>(
    module: &M,
    gradients: GradientsParams,
    norm: f64,
    most: f64,
) -> GradientsParams {
    if norm <= most {
        return gradients;
    }
    let mut visitor = Scale { gradients, factor: most / norm };
    module.visit(&mut visitor);
    visitor.gradients
}

struct SquaredNorm<'a> {
    gradients: &'a GradientsParams,
    squares: Vec<Tensor<1>>,
}

impl ModuleVisitor for SquaredNorm<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            self.squares.push(gradient.square().sum());
        }
    }
}

struct Scale {
    gradients: GradientsParams,
    factor: f64,
}

impl ModuleVisitor for Scale {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.remove::<D>(param.id) {
            self.gradients.register(param.id, gradient.mul_scalar(self.factor));
        }
    }
}
