use burn::module::Module;
use burn::optim::{DynOptimizer, DynState, LearningRate, Optimizer, StateSink, StateSource};
use burn::tensor::Device;
use burn::tensor::kind::BridgeTensor;

use crate::model::device_of;

/// An optimizer whose saved state is restored on the device of a model.
///
/// Burn 0.22.1 restores it on its default device and moves it at the next step. Only the
/// environment can choose that device, and it may be one that does not work here.
pub(super) struct RestoredOn<O> {
    optimizer: O,
    device: Device,
}

impl<O: Optimizer> RestoredOn<O> {
    pub fn device_of(model: &impl Module, optimizer: O) -> Self {
        // Optimizers compute without autodiff.
        Self { optimizer, device: device_of(model).inner() }
    }
}

impl<O: Optimizer> DynOptimizer for RestoredOn<O> {
    fn step_dyn(
        &self,
        rank: usize,
        lr: LearningRate,
        tensor: BridgeTensor,
        grad: BridgeTensor,
        state: Option<DynState>,
    ) -> (BridgeTensor, Option<DynState>) {
        self.optimizer.step_dyn(rank, lr, tensor, grad, state)
    }

    fn to_device_dyn(&self, state: DynState, device: &Device) -> DynState {
        self.optimizer.to_device_dyn(state, device)
    }

    fn state_flatten(&self, prefix: &str, state: &DynState, out: &mut StateSink) {
        self.optimizer.state_flatten(prefix, state, out);
    }

    fn state_unflatten(
        &self,
        rank: usize,
        prefix: &str,
        src: &mut StateSource,
        _default: &Device,
    ) -> Option<DynState> {
        self.optimizer.state_unflatten(rank, prefix, src, &self.device)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use burn::module::ParamGroup;
    use burn::nn::LinearConfig;
    use burn::optim::{GradientsParams, ModuleOptimizer, RecordState};
    use burn::tensor::Tensor;

    use super::*;

    thread_local! {
        /// Whether the device that a state was restored on has autodiff, to tell devices apart.
        static AUTODIFF: Cell<Option<bool>> = const { Cell::new(None) };
    }

    #[derive(Clone)]
    struct Spy;

    impl RecordState for Spy {
        fn state_flatten(&self, _prefix: &str, _out: &mut StateSink) {}

        fn state_unflatten(_: &str, _: &mut StateSource, device: &Device) -> Option<Self> {
            AUTODIFF.set(Some(device.is_autodiff()));
            Some(Self)
        }
    }

    impl Optimizer for Spy {
        type State<const D: usize> = Self;

        fn step<const D: usize>(
            &self,
            _lr: LearningRate,
            tensor: Tensor<D>,
            _grad: Tensor<D>,
            _state: Option<Self>,
        ) -> (Tensor<D>, Option<Self>) {
            (tensor, Some(Self))
        }

        fn to_device<const D: usize>(state: Self, _device: &Device) -> Self {
            state
        }
    }

    #[test]
    fn state_is_restored_on_the_chosen_device() {
        let device = Device::default().autodiff();
        let spying = || {
            let restored = RestoredOn { optimizer: Spy, device: device.clone() };
            ModuleOptimizer::from(Spy).with_group(ParamGroup::all(), restored, None)
        };
        let layer = LinearConfig::new(2, 2).init(&device);
        let loss = layer.forward(Tensor::<2>::ones([1, 2], &device)).sum();
        let gradients = GradientsParams::from_grads(loss.backward(), &layer);
        let mut optimizer = spying();
        let _layer = optimizer.step(0.1_f64, layer, gradients);
        let _restored = spying().load_record(optimizer.to_record());
        // Burn's own choice is the default device, without autodiff.
        assert_eq!(AUTODIFF.get(), Some(true));
    }
}
