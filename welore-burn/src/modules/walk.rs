//! The one walk over the parameters of a module, and the one way to change them.
//!
//! Burn's traversal is generic over the rank of a tensor, and visits a weight without its
//! reparameterization, whose parameters follow it. Here every parameter is seen through
//! [`AnyParam`], at a [`Place`] that names the weight it belongs to.

use std::any::Any;
use std::collections::{HashMap, HashSet};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};

use super::names::MatrixName;

/// Where a parameter is in its module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Burn's path of the parameter, such as `model.norm.gamma`.
    pub path: String,
    /// Path of the parameter that it belongs to: its own, or the path of the weight whose
    /// reparameterization it is part of.
    pub owner: String,
    /// Its path within the reparameterization of its owner, such as `low_rank.up`; empty for a
    /// parameter that is its own owner.
    pub part: String,
    /// Burn's name for the type that holds the owner, such as `Struct:Linear`.
    pub container: String,
}

impl Place {
    /// The matrix whose weight the owner is, if the owner is called `weight`.
    pub fn matrix(&self) -> Option<MatrixName> {
        MatrixName::of_weight(&self.owner)
    }

    /// Whether the owner is the weight of a linear layer or of a router of experts, which holds the
    /// transpose of PyTorch's weight.
    pub fn is_linear(&self) -> bool {
        matches!(&*self.container, "Struct:Linear" | "Struct:LowRankLinear" | "Struct:Router")
            || self.is_turned()
    }

    /// Whether the owner is the weight of a linear layer whose files hold it as Burn does.
    pub fn is_turned(&self) -> bool {
        self.container == TURNED_LINEAR
    }

    /// Whether the owner belongs to a norm.
    pub fn is_norm(&self) -> bool {
        self.container.ends_with("Norm")
    }
}

/// The container of a linear layer whose files hold the dense weight as Burn does, `[in, out]`: `Conv1D` in
/// PyTorch. A module that has such layers names them so to visitors.
pub(crate) const TURNED_LINEAR: &str = "Turned:LowRankLinear";

/// A parameter of any rank.
pub(crate) trait AnyParam {
    fn id(&self) -> ParamId;

    /// The shape; initializes nothing.
    fn shape(&self) -> Vec<usize>;

    /// Whether it holds floating point numbers.
    fn is_float(&self) -> bool;

    /// Whether it trains.
    fn trains(&self) -> bool;

    /// The parameter as a matrix, if it is one.
    fn matrix(&self) -> Option<&Param<Tensor<2>>>;

    /// The value as it is saved, on the host. Initializes a lazy parameter.
    fn values(&self) -> TensorData;

    /// The type of the value on its device. Initializes a lazy parameter.
    fn dtype(&self) -> DType;

    /// The value on its device, a `Tensor<D>`. Initializes a lazy parameter.
    fn tensor(&self) -> Box<dyn Any + Send>;

    /// The sum of the squares of its gradient, if it has one, on the device.
    fn squared_gradient(&self, gradients: &GradientsParams) -> Option<Tensor<1>>;

    /// Multiplies its gradient, if it has one.
    fn scale_gradient(&self, gradients: &mut GradientsParams, by: &Factor);
}

/// What gradients are multiplied by.
pub(crate) enum Factor {
    Number(f64),
    /// A tensor with one element, on the device.
    Tensor(Box<Tensor<1>>),
}

impl<const D: usize> AnyParam for Param<Tensor<D>> {
    fn id(&self) -> ParamId {
        self.id
    }

    fn shape(&self) -> Vec<usize> {
        self.lazy_shape().to_vec()
    }

    fn is_float(&self) -> bool {
        true
    }

    fn trains(&self) -> bool {
        self.is_require_grad()
    }

    fn matrix(&self) -> Option<&Param<Tensor<2>>> {
        (self as &dyn Any).downcast_ref()
    }

    fn values(&self) -> TensorData {
        self.transform_for_save().base().into_data()
    }

    fn dtype(&self) -> DType {
        self.base().dtype()
    }

    fn tensor(&self) -> Box<dyn Any + Send> {
        Box::new(self.base())
    }

    fn squared_gradient(&self, gradients: &GradientsParams) -> Option<Tensor<1>> {
        Some(gradients.get::<D>(self.id)?.square().sum())
    }

    fn scale_gradient(&self, gradients: &mut GradientsParams, by: &Factor) {
        let Some(gradient) = gradients.remove::<D>(self.id) else { return };
        let scaled = match by {
            Factor::Number(factor) => gradient.mul_scalar(*factor),
            Factor::Tensor(factor) => gradient * Tensor::clone(factor).unsqueeze(),
        };
        gradients.register(self.id, scaled);
    }
}

impl<const D: usize> AnyParam for Param<Tensor<D, Int>> {
    fn id(&self) -> ParamId {
        self.id
    }

    fn shape(&self) -> Vec<usize> {
        self.lazy_shape().to_vec()
    }

    fn is_float(&self) -> bool {
        false
    }

    fn trains(&self) -> bool {
        false
    }

    fn matrix(&self) -> Option<&Param<Tensor<2>>> {
        None
    }

    fn values(&self) -> TensorData {
        self.val().into_data()
    }

    fn dtype(&self) -> DType {
        self.val().dtype()
    }

    fn tensor(&self) -> Box<dyn Any + Send> {
        Box::new(self.val())
    }

    fn squared_gradient(&self, _gradients: &GradientsParams) -> Option<Tensor<1>> {
        None
    }

    fn scale_gradient(&self, _gradients: &mut GradientsParams, _by: &Factor) {}
}

/// Visits every floating point or integer parameter, in Burn's order. Initializes nothing by
/// itself.
pub(crate) fn walk(module: &impl Module, look: impl FnMut(&Place, &dyn AnyParam)) {
    module.visit(&mut Walk { at: At::default(), look });
}

/// What [`map_floats`] does with a parameter.
pub(crate) enum Change {
    /// Makes it trainable, or freezes it.
    Train(bool),
    /// Converts it to this type.
    Cast(FloatDType),
}

/// Changes floating point parameters, in Burn's order.
pub(crate) fn map_floats<M: Module>(
    module: M,
    change: impl FnMut(&Place, &dyn AnyParam) -> Change,
) -> M {
    module.map(&mut Walk { at: At::default(), look: change })
}

/// Gives floating point and integer parameters values, each in a type, as if loaded from a record.
/// Those for which `value` returns none stay as they are. In Burn's order.
pub(crate) fn load_values<M: Module>(
    module: M,
    value: impl FnMut(&Place, &dyn AnyParam) -> Option<(TensorData, DType)>,
) -> M {
    module.map(&mut Load { at: At::default(), value })
}

/// Where the walk is.
#[derive(Default)]
struct At {
    path: Vec<String>,
    containers: Vec<String>,
    /// Length of the path of the weight whose reparameterization this is.
    owner: Option<usize>,
}

/// Burn's name for the container of a reparameterization.
const REPARAMETERIZATION: &str = "Reparameterization";

impl At {
    fn enter(&mut self, name: &str, container: &str) {
        if container == REPARAMETERIZATION {
            // The parameters of a reparameterization may be reparameterized too; all of them belong
            // to the outermost weight.
            self.owner.get_or_insert(self.path.len());
        }
        self.path.push(name.into());
        self.containers.push(container.into());
    }

    fn exit(&mut self) {
        self.path.pop();
        self.containers.pop();
        self.owner = self.owner.filter(|owner| *owner < self.path.len());
    }

    fn place(&self) -> Place {
        let owner = self.owner.unwrap_or(self.path.len());
        Place {
            path: self.path.join("."),
            owner: self.path[..owner].join("."),
            part: self.path[owner..].join("."),
            container: match owner {
                0 => String::new(),
                _ => self.containers[owner - 1].clone(),
            },
        }
    }
}

struct Walk<F> {
    at: At,
    look: F,
}

impl<F: FnMut(&Place, &dyn AnyParam)> ModuleVisitor for Walk<F> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.at.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.at.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        (self.look)(&self.at.place(), param);
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        (self.look)(&self.at.place(), param);
    }
}

impl<F: FnMut(&Place, &dyn AnyParam) -> Change> ModuleMapper for Walk<F> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.at.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.at.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match (self.look)(&self.at.place(), &param) {
            Change::Train(trains) => param.set_require_grad(trains),
            Change::Cast(dtype) => param.map(|tensor| tensor.cast(dtype)),
        }
    }
}

struct Load<F> {
    at: At,
    value: F,
}

impl<F: FnMut(&Place, &dyn AnyParam) -> Option<(TensorData, DType)>> ModuleMapper for Load<F> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.at.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.at.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some((data, dtype)) = (self.value)(&self.at.place(), &param) else { return param };
        let tensor = Tensor::<D>::from_data(data, (&param.lazy_device(), dtype));
        let id = param.id;
        param.transform_for_load(tensor, id)
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        let Some((data, dtype)) = (self.value)(&self.at.place(), &param) else { return param };
        let tensor = Tensor::<D, Int>::from_data(data, (&param.lazy_device(), dtype));
        let id = param.id;
        param.transform_for_load(tensor, id)
    }
}

/// The values of the parameters of a module that train, or trained before.
pub(crate) struct Trained(HashMap<ParamId, Value>);

struct Value {
    /// A tensor with the rank of the parameter.
    tensor: Box<dyn Any + Send>,
    trains: bool,
}

impl Trained {
    /// Takes the values of the parameters that train, and of those in `before`, which may have
    /// changed before they were frozen. Values are shared, not copied.
    pub fn of(module: &impl Module, before: &HashSet<ParamId>) -> Self {
        let mut values = HashMap::new();
        walk(module, |_, param| {
            let (id, trains) = (param.id(), param.trains());
            if trains || before.contains(&id) {
                values.insert(id, Value { tensor: param.tensor(), trains });
            }
        });
        Self(values)
    }

    /// The parameters that train.
    pub fn ids(&self) -> HashSet<ParamId> {
        let training = self.0.iter().filter(|(_, value)| value.trains);
        training.map(|(id, _)| *id).collect()
    }

    /// Puts the values into another module with the same parameters, on a device, as its own
    /// leaves. Freezes all its other parameters.
    pub fn put_into<M: Module>(&self, module: M, device: &Device) -> M {
        struct Put<'a>(&'a Trained, &'a Device);
        impl ModuleMapper for Put<'_> {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                let found = self.0.0.get(&param.id).and_then(|value| {
                    Some((value.tensor.downcast_ref::<Tensor<D>>()?.clone(), value.trains))
                });
                match found {
                    Some((tensor, trains)) => {
                        let tensor = tensor.to_device(self.1).detach();
                        let tensor = if trains { tensor.require_grad() } else { tensor };
                        Param::initialized(param.id, tensor).set_require_grad(trains)
                    }
                    None => param.set_require_grad(false),
                }
            }
        }
        module.map(&mut Put(self, device))
    }
}

/// Initializes all lazy parameters, in the order of their paths: the same seed gives the same
/// module on the same kind of device.
pub fn initialize(module: &impl Module, seed: u64) {
    for device in module.devices() {
        device.seed(seed);
    }
    // Reading a lazy parameter initializes it.
    walk(module, |_, param| {
        let _drawn = param.dtype();
    });
}

#[cfg(test)]
mod tests {
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::TensorData;

    use super::*;

    #[derive(Module, Debug)]
    struct Pair {
        first: Linear,
        second: Linear,
    }

    fn pair(device: &Device) -> Pair {
        let layer = || LinearConfig::new(2, 2).with_bias(false).init(device);
        Pair { first: layer(), second: layer() }
    }

    fn with_weight(mut linear: Linear, value: f32, trains: bool) -> Linear {
        let weight = Tensor::full([2, 2], value, &linear.weight.device());
        let id = linear.weight.id;
        linear.weight = Param::initialized(id, weight).set_require_grad(trains);
        linear
    }

    fn values(pair: &Pair) -> [TensorData; 2] {
        [&pair.first, &pair.second].map(|layer| layer.weight.val().into_data())
    }

    #[test]
    fn a_replica_follows_what_trains_and_what_trained_before() {
        let device = Device::default().autodiff();
        let mut model = pair(&device);
        (model.first, model.second) =
            (with_weight(model.first, 1.0, true), with_weight(model.second, 1.0, false));
        let replica = model.clone();
        let trained = Trained::of(&model, &HashSet::new());
        assert_eq!(trained.ids(), HashSet::from([model.first.weight.id]));
        let replica = trained.put_into(replica, &device);
        // A step changes the first one; then the second one trains.
        (model.first, model.second) =
            (with_weight(model.first, 2.0, false), with_weight(model.second, 1.0, true));
        let trained = Trained::of(&model, &trained.ids());
        let replica = trained.put_into(replica, &device);
        assert_eq!(values(&replica), values(&model));
        let trains = [&replica.first, &replica.second].map(|l| l.weight.is_require_grad());
        assert_eq!(trains, [false, true]);
    }
}
