use std::collections::BTreeSet;

use burn::module::{Module, ModuleVisitor, Param, ParamId, Reparameterization, Reparameterizer};
use burn::tensor::{Int, Tensor};

use crate::linalg::{LinalgError, Matrix};

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
/// Two factors describe a matrix of rank `r` with `r²` numbers more than it needs. In pivoted
/// storage (PIFA, arXiv 2501.19090) `down` is `r` of the matrix' own outputs, and `up` only
/// makes the others of them: `W = [down, down · up]` with its columns in another order. That
/// takes `r (d_input + d_output - r)` parameters, never more than the dense matrix.
#[derive(Module, Debug)]
pub struct LowRank {
    /// The up factor, `[rank, d_output]`; of the outputs that are no pivots,
    /// `[rank, d_output - rank]`, with an order.
    pub up: Param<Tensor<2>>,
    /// Where every output is among the pivots and, after them, the others, `[d_output]`.
    /// `None` for two plain factors.
    pub order: Option<Param<Tensor<1, Int>>>,
}

impl Reparameterization for LowRank {
    const NAME: &'static str = "low_rank";

    /// Materializes the dense weight. [`LowRankLinear`](super::LowRankLinear) never calls
    /// this in its forward pass; a plain `nn::Linear` does.
    ///
    /// # Panics
    ///
    /// Panics if `D` is not 2: only matrices are factored.
    fn apply<const D: usize>(&self, base: Tensor<D>) -> Tensor<D> {
        assert_eq!(D, 2, "a low-rank parameter must be a matrix");
        let made = base.clone().matmul(self.up.val().unsqueeze::<D>());
        self.ordered(base, made)
    }
}

impl LowRank {
    /// All outputs, from those of `down` and those that `up` makes of them, along the last axis.
    pub(super) fn ordered<const D: usize>(&self, pivots: Tensor<D>, made: Tensor<D>) -> Tensor<D> {
        match &self.order {
            Some(order) => Tensor::cat(vec![pivots, made], D - 1).select(D - 1, order.val()),
            None => made,
        }
    }

    /// The size of the output features.
    pub(super) fn d_output(&self) -> usize {
        match &self.order {
            Some(order) => order.lazy_shape()[0],
            None => self.up.lazy_shape()[1],
        }
    }
}

/// The two parameters that replace a dense weight.
#[derive(Debug)]
pub struct FactorParams {
    /// The down factor, `[d_input, rank]`; becomes the base of the parameter.
    pub down: Param<Tensor<2>>,
    /// The up factor, `[rank, d_output]`, or `[rank, d_output - rank]` with an order.
    pub up: Param<Tensor<2>>,
    /// The order of pivoted storage, `[d_output]`; see [`LowRank`].
    pub order: Option<Tensor<1, Int>>,
}

/// Gives every matrix parameter for which `choose(path, parameter)` returns factors a
/// [`LowRank`] reparameterization, and leaves every other parameter as `rest` returns it.
///
/// Paths are Burn's, such as `model.layers.0.self_attn.q_proj.weight`. Works on any
/// module: [`LowRankLinear`](super::LowRankLinear) multiplies by the factors one after the
/// other, every other layer sees the materialized product.
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
            None if self.rest == Rest::Freeze => (param.set_require_grad(false), None),
            None => (param, None),
        }
    }
}

/// Paths of the factored weights of a module, such as `encoder.weight`.
///
/// Burn visits a weight without its reparameterization and the reparameterization after it,
/// so whoever visits and needs to know asks here first.
pub fn factored_paths<M: Module>(module: &M) -> BTreeSet<String> {
    let mut visitor = FactoredPaths::default();
    module.visit(&mut visitor);
    visitor.found
}

#[derive(Default)]
struct FactoredPaths {
    path: Vec<String>,
    found: BTreeSet<String>,
}

impl ModuleVisitor for FactoredPaths {
    fn enter_module(&mut self, name: &str, container: &str) {
        if name == LowRank::NAME && container == "Reparameterization" {
            self.found.insert(self.path.join("."));
        }
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }
}

/// The parameter as a matrix parameter, if it is one. Burn's traversal is generic over the
/// rank, so the rank is only known by type identity.
pub(crate) fn as_matrix<const D: usize>(param: &Param<Tensor<D>>) -> Option<&Param<Tensor<2>>> {
    (param as &dyn core::any::Any).downcast_ref()
}

/// The way back from [`as_matrix`].
pub(crate) fn from_matrix<const D: usize>(param: Param<Tensor<2>>) -> Option<Param<Tensor<D>>> {
    let param: Box<dyn core::any::Any> = Box::new(param);
    param.downcast().ok().map(|param| *param)
}

/// A weight `[d_input, d_output]` as the PyTorch-oriented matrix `[d_output, d_input]`, f64,
/// on the host.
///
/// # Errors
///
/// [`LinalgError::NotFinite`] and [`LinalgError::Empty`].
pub(crate) fn to_matrix(weight: Tensor<2>) -> Result<Matrix, LinalgError> {
    let [d_input, d_output] = weight.dims();
    let values = weight.without_autodiff().transpose().into_data().iter::<f64>().collect();
    Matrix::new(d_output, d_input, values)
}

/// Whether a weight is stored with `LinearLayout::Col`, whose records are the transpose of
/// what the layer multiplies by. Such weights can be neither loaded from `[out, in]` files
/// nor factored, and callers refuse them.
pub fn is_transposed_layout(param: &Param<Tensor<2>>) -> bool {
    // Burn keeps the layout only as mappers, so a probe of known shape tells. Loading into a
    // clone initializes nothing.
    let probe = Tensor::<2>::zeros([1, 2], &param.lazy_device());
    param.clone().transform_for_load(probe, param.id).base().dims() != [1, 2]
}

/// Where every one of `d_output` outputs is among the pivots and, after them, the others in
/// their own order: the order of a [`LowRank`] whose pivots these are. `None` if they are not
/// different outputs.
pub fn order_of_pivots(pivots: &[i32], d_output: usize) -> Option<Vec<i32>> {
    let mut order = vec![-1; d_output];
    for (place, pivot) in pivots.iter().enumerate() {
        let free = order.get_mut(usize::try_from(*pivot).ok()?)?;
        if *free >= 0 {
            return None;
        }
        *free = place as i32;
    }
    let others = order.iter_mut().filter(|place| **place < 0);
    for (next, place) in (pivots.len() as i32..).zip(others) {
        *place = next;
    }
    Some(order)
}

/// The way back from [`order_of_pivots`].
pub fn pivots_of_order(order: &[i32], rank: usize) -> Vec<i32> {
    let mut pivots = vec![0; rank];
    for (output, place) in order.iter().enumerate() {
        if let Some(pivot) = usize::try_from(*place).ok().and_then(|place| pivots.get_mut(place)) {
            *pivot = output as i32;
        }
    }
    pivots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_pivots_say_the_same() {
        let order = order_of_pivots(&[4, 0, 2], 6).unwrap();
        // Outputs 0, 2 and 4 are pivots 1, 2 and 0; outputs 1, 3 and 5 come after.
        assert_eq!(order, [1, 3, 2, 4, 0, 5]);
        assert_eq!(pivots_of_order(&order, 3), [4, 0, 2]);
        for impossible in [&[6][..], &[-1], &[1, 1], &[0; 7]] {
            assert_eq!(order_of_pivots(impossible, 6), None);
        }
    }
}
