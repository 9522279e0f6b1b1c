use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

/// The norm of all gradients together, as one vector; `None` where there are no gradients. It
/// stays on the device.
pub fn global_norm<M: Module>(module: &M, gradients: &GradientsParams) -> Option<Tensor<1>> {
    let mut visitor = SquaredNorm { gradients, squares: Vec::new() };
    module.visit(&mut visitor);
    let squares = visitor.squares;
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
    let mut visitor = Scale { gradients, by: By::Tensor(Box::new(factor)) };
    module.visit(&mut visitor);
    visitor.gradients
}

/// Multiplies all gradients by a number.
pub fn scale<M: Module>(module: &M, gradients: GradientsParams, factor: f64) -> GradientsParams {
    let mut visitor = Scale { gradients, by: By::Number(factor) };
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
    by: By,
}

enum By {
    Number(f64),
    /// Of one element.
    Tensor(Box<Tensor<1>>),
}

impl ModuleVisitor for Scale {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.remove::<D>(param.id) {
            let scaled = match &self.by {
                By::Number(factor) => gradient.mul_scalar(*factor),
                By::Tensor(factor) => gradient * Tensor::clone(factor).unsqueeze(),
            };
            self.gradients.register(param.id, scaled);
        }
    }
}
