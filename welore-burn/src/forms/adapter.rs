//! LoRA adapters on weights in any form.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::{Lora, Module, Param, ParamGroup, Reparameterization, Reparameterizer};
use burn::tensor::{DType, Distribution, FloatDType, Tensor, TensorData};

use super::form::Form;
use super::live::{LiveMatrix, matrices};
use super::low_rank::LowRank;
use super::packed::Packed;
use crate::modules::MatrixName;

/// A LoRA adapter on a factored weight: the effective weight is `W + scale · a b`, where `W` is
/// what the factors make. A dense weight has Burn's own `LoraAdapter`.
///
/// Burn gives a weight one reparameterization, and a factored one has [`LowRank`]. So the adapter
/// is attached to the up factor, and [`LowRank`] adds it to the product.
///
/// # Shapes
///
/// - a: `[d_input, rank]`
/// - b: `[rank, d_output]`
#[derive(Module, Debug)]
pub struct FactorAdapter {
    /// Multiplies the input, `[d_input, rank]`.
    pub a: Param<Tensor<2>>,
    /// Makes the outputs, `[rank, d_output]`.
    pub b: Param<Tensor<2>>,
    /// Scale of the product.
    pub scale: f64,
}

impl Reparameterization for FactorAdapter {
    const NAME: &'static str = "lora";

    /// The up factor itself: the adapter belongs to the whole weight.
    fn apply<const D: usize>(&self, base: Tensor<D>) -> Tensor<D> {
        base
    }
}

impl FactorAdapter {
    /// An adapter for a weight that changes nothing yet, as Burn makes them: `b` is zero.
    fn new(weight: &LiveMatrix, rank: usize, alpha: f64) -> Self {
        let down = weight.base.base();
        let (device, [d_output, d_input]) = (down.device(), weight.shape);
        let dtype = match down.dtype() {
            DType::QFloat(_) => FloatDType::F32,
            dtype => FloatDType::from(dtype),
        };
        let normal = Distribution::Normal(0.0, 1.0 / rank as f64);
        let a = Tensor::<2>::random([d_input, rank], normal, &device).cast(dtype);
        let b = Tensor::<2>::zeros([rank, d_output], &device).cast(dtype);
        let scale = alpha / rank as f64;
        Self { a: Param::from_tensor(a), b: Param::from_tensor(b), scale }
    }

    /// What it adds to the weight, `[d_input, d_output]`.
    pub fn delta(&self) -> Tensor<2> {
        self.a.val().matmul(self.b.val()).mul_scalar(self.scale)
    }
}

impl LiveMatrix {
    /// Whether the weight has an adapter. Initializes nothing.
    pub fn has_adapter(&self) -> bool {
        // The parameters of its form have the same names in every layer.
        let slots = self.form.slots(true).unwrap_or_default();
        self.params.keys().any(|part| {
            // Some parameters of a packed weight are in no slot.
            let is_of_form = part.is_empty() || part.starts_with(Packed::NAME);
            !is_of_form && !slots.iter().any(|slot| slot.param == part)
        })
    }
}

/// Attaches adapters `W + alpha / rank · a b` to some matrices of a module, in whatever form they
/// are, and freezes every other parameter.
pub(crate) fn attach_adapters<M: Module>(
    module: M,
    chosen: &BTreeSet<MatrixName>,
    rank: usize,
    alpha: f64,
) -> M {
    let found = matrices(&module).into_iter().filter(|matrix| chosen.contains(&matrix.name));
    let (dense, factored): (Vec<LiveMatrix>, Vec<LiveMatrix>) =
        found.partition(|matrix| matrix.form == Form::dense());
    let weights: Vec<String> = dense.iter().map(|matrix| matrix.name.weight()).collect();
    // This freezes all parameters, those of factored weights included.
    let module =
        module.apply_lora(Lora::new(rank, alpha).set_param_group(ParamGroup::from_paths(weights)));
    let adapter = |matrix: &LiveMatrix| {
        let up = format!("{}.{}.up", matrix.name.weight(), LowRank::NAME);
        (up, FactorAdapter::new(matrix, rank, alpha))
    };
    module.apply_reparameterization(OnFactors(factored.iter().map(adapter).collect()))
}

/// Puts finished adapters, `W + scale · a b`, beside factors, where they do not train. Each is for a
/// matrix of the module that has factors and no adapter, and has `a [d_input, rank]` and
/// `b [rank, d_output]`, which take the type and the device of the factors.
pub(crate) fn add_to_factors<'a, M: Module>(
    module: M,
    adapters: impl Iterator<Item = (&'a LiveMatrix, TensorData, TensorData, f64)>,
) -> M {
    let adapter = |(matrix, a, b, scale): (&LiveMatrix, TensorData, TensorData, f64)| {
        let down = matrix.base.base();
        let device = down.device();
        let dtype = match down.dtype() {
            DType::QFloat(_) => DType::F32,
            dtype => dtype,
        };
        let param = |data: TensorData| {
            let data = data.convert_dtype(dtype);
            let value = Tensor::<2>::from_data(data, (&device, dtype));
            Param::from_tensor(value).set_require_grad(false)
        };
        let up = format!("{}.{}.up", matrix.name.weight(), LowRank::NAME);
        (up, FactorAdapter { a: param(a), b: param(b), scale })
    };
    let adapters: BTreeMap<String, FactorAdapter> = adapters.map(adapter).collect();
    match adapters.is_empty() {
        true => module,
        false => module.apply_reparameterization(OnFactors(adapters)),
    }
}

/// Attaches adapters to up factors, by path.
struct OnFactors(BTreeMap<String, FactorAdapter>);

impl Reparameterizer for OnFactors {
    type Reparam = FactorAdapter;

    fn reparameterize<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<FactorAdapter>) {
        (param, self.0.remove(path))
    }
}
