use burn::module::{Module, Param, ParamId, Reparameterization, Reparameterizer};
use burn::tensor::{DType, FloatDType, Int, Tensor};

use super::adapter::FactorAdapter;
use super::attach::FactorParams;

/// The state of a factored weight: its `up` factor. The `down` factor is the
/// parameter's structural base, so the effective weight is `base · up`.
///
/// # Shapes
///
/// - base (`down`): `[d_input, rank]`
/// - `up`: `[rank, d_output]`, or `[rank, d_output - rank]` with an order
/// - effective weight: `[d_input, d_output]`
///
/// With the singular value decomposition `W = U S Vᵀ` of a PyTorch-oriented
/// weight `[d_output, d_input]`, WeLore (arXiv 2407.11239) sets
/// `down = (√S Vᵀ)ᵀ` and `up = (U √S)ᵀ`.
///
/// Two factors use `r²` numbers more than a matrix of rank `r` needs. In pivoted storage (PIFA,
/// arXiv 2501.19090) `down` holds `r` of the matrix's outputs, and `up` rebuilds the others from
/// them: `W = [down, down · up]` with its columns in another order. That takes
/// `r (d_input + d_output - r)` parameters, never more than the dense matrix.
#[derive(Module, Debug)]
pub struct LowRank {
    /// The up factor, `[rank, d_output]`; with an order,
    /// `[rank, d_output - rank]` for the outputs that are not pivots.
    pub up: Param<Tensor<2>>,
    /// The position of each output in the list of pivots followed by the others, `[d_output]`.
    /// `None` for two plain factors.
    pub order: Option<Param<Tensor<1, Int>>>,
}

impl Reparameterization for LowRank {
    const NAME: &'static str = "low_rank";

    /// Materializes the dense weight, with its adapter if it has one.
    /// [`LowRankLinear`](crate::linear::LowRankLinear) never calls this in its forward pass; a
    /// plain `nn::Linear` does.
    ///
    /// # Panics
    ///
    /// Panics if `D` is not 2: only matrices are factored.
    fn apply<const D: usize>(&self, base: Tensor<D>) -> Tensor<D> {
        assert_eq!(D, 2, "a low-rank parameter must be a matrix");
        let made = base.clone().matmul(self.up.val().unsqueeze::<D>());
        let weight = self.ordered(base, made);
        match self.adapter() {
            Some(adapter) => {
                let delta = adapter.delta().unsqueeze::<D>();
                let delta = match weight.dtype() {
                    DType::QFloat(_) => delta,
                    dtype => delta.cast(FloatDType::from(dtype)),
                };
                weight + delta
            }
            None => weight,
        }
    }
}

impl LowRank {
    /// The LoRA adapter of the weight, if it has one.
    pub fn adapter(&self) -> Option<&FactorAdapter> {
        self.up.reparameterization()
    }

    /// All outputs, from those of `down` and those that `up` rebuilds from them, along the last
    /// axis.
    pub(super) fn ordered<const D: usize>(&self, pivots: Tensor<D>, made: Tensor<D>) -> Tensor<D> {
        match &self.order {
            Some(order) => Tensor::cat(vec![pivots, made], D - 1).select(D - 1, order.val()),
            None => made,
        }
    }
}

/// Gives every matrix parameter for which `choose(path, parameter)` returns factors a
/// [`LowRank`] reparameterization, and leaves every other parameter as `rest` returns it.
///
/// Paths are Burn's, such as `model.layers.0.self_attn.q_proj.weight`. Works on any
/// module: [`LowRankLinear`](crate::linear::LowRankLinear) multiplies by one factor after the
/// other; every other layer sees the materialized product.
///
/// # Shapes
///
/// - parameter: `[d_input, d_output]`
/// - factors: as in [`FactorParams`]
pub fn attach_factors<M, F>(module: M, choose: F, rest: Rest) -> M
where
    M: Module,
    F: FnMut(&str, &Param<Tensor<2>>) -> Option<FactorParams>,
{
    module.apply_reparameterization(Attach { choose, rest })
}

/// What [`attach_factors`] does with parameters that are not factored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// Leave them as they are.
    Keep,
    /// Freeze them, so that only factors train.
    Freeze,
    /// Let them train, even those that were frozen.
    Train,
}

struct Attach<F> {
    choose: F,
    rest: Rest,
}

impl<F> Reparameterizer for Attach<F>
where
    F: FnMut(&str, &Param<Tensor<2>>) -> Option<FactorParams>,
{
    type Reparam = LowRank;

    fn reparameterize<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<LowRank>) {
        let factors = as_matrix(&param).and_then(|matrix| (self.choose)(path, matrix));
        match factors {
            Some(FactorParams { down, up, order }) => {
                let down = from_matrix(down).expect("as_matrix accepted this parameter");
                let order = order.map(|order| Param::initialized(ParamId::new(), order));
                (down, Some(LowRank { up, order }))
            }
            None => match self.rest {
                Rest::Keep => (param, None),
                Rest::Freeze => (param.set_require_grad(false), None),
                Rest::Train => (param.set_require_grad(true), None),
            },
        }
    }
}

/// The parameter as a matrix parameter, if it is one. Burn's traversal is generic over the
/// rank, so the rank is only known by type identity.
fn as_matrix<const D: usize>(param: &Param<Tensor<D>>) -> Option<&Param<Tensor<2>>> {
    (param as &dyn core::any::Any).downcast_ref()
}

/// The inverse of [`as_matrix`].
pub(super) fn from_matrix<const D: usize>(param: Param<Tensor<2>>) -> Option<Param<Tensor<D>>> {
    let param: Box<dyn core::any::Any> = Box::new(param);
    param.downcast().ok().map(|param| *param)
}
