use std::collections::BTreeSet;

use burn::module::{Module, ModuleVisitor, Param, Reparameterization, Reparameterizer};
use burn::tensor::Tensor;

/// The state of a factored weight: its `up` factor. The `down` factor is the
/// parameter's structural base, so the effective weight is `base · up`.
///
/// # Shapes
///
/// - base (`down`): `[d_input, rank]`
/// - `up`: `[rank, d_output]`
/// - effective weight: `[d_input, d_output]`
///
/// With the singular value decomposition `W = U S Vᵀ` of a PyTorch-oriented
/// weight `[d_output, d_input]`, WeLore (arXiv 2407.11239) sets
/// `down = (√S Vᵀ)ᵀ` and `up = (U √S)ᵀ`.
#[derive(Module, Debug)]
pub struct LowRank {
    /// The up factor, `[rank, d_output]`.
    pub up: Param<Tensor<2>>,
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
        base.matmul(self.up.val().unsqueeze::<D>())
    }
}

/// The two parameters that replace a dense weight.
#[derive(Debug)]
pub struct FactorParams {
    /// The down factor, `[d_input, rank]`; becomes the base of the parameter.
    pub down: Param<Tensor<2>>,
    /// The up factor, `[rank, d_output]`.
    pub up: Param<Tensor<2>>,
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
/// - factors: `[d_input, rank]` and `[rank, d_output]`
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
            Some(FactorParams { down, up }) => {
                let down = from_matrix(down).expect("as_matrix accepted this parameter");
                (down, Some(LowRank { up }))
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

/// Whether a weight is stored with `LinearLayout::Col`, whose records are the transpose of
/// what the layer multiplies by. Such weights can be neither loaded from `[out, in]` files
/// nor factored, and callers refuse them.
pub fn is_transposed_layout(param: &Param<Tensor<2>>) -> bool {
    // Burn keeps the layout only as mappers, so a probe of known shape tells. Loading into a
    // clone initializes nothing.
    let probe = Tensor::<2>::zeros([1, 2], &param.lazy_device());
    param.clone().transform_for_load(probe, param.id).base().dims() != [1, 2]
}
