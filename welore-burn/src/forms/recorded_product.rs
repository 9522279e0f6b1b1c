//! The product with blocks as an operation of Burn's autodiff, which keeps the blocks for the backward
//! pass, where Burn's own product would keep the dense weight.

use burn::tensor::Tensor;

use super::packed_product::Frozen;

#[cfg(any(
    feature = "flex",
    feature = "wgpu",
    feature = "vulkan",
    feature = "metal",
    feature = "cuda",
    feature = "cpu"
))]
mod operation {
    use burn::backend::autodiff::checkpoint::base::Checkpointer;
    use burn::backend::autodiff::checkpoint::strategy::{
        BalancedCheckpointing, CheckpointStrategy, NoCheckpointing,
    };
    use burn::backend::autodiff::grads::Gradients;
    use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
    use burn::backend::{Autodiff, Backend, DispatchKindConversion, DispatchTensor};
    use burn::tensor::Tensor;

    use super::Frozen;

    /// The product of an input of `D` axes with blocks, which do not train.
    #[derive(Debug)]
    struct BlockProduct<const D: usize>;

    impl<B, const D: usize> Backward<B, 1> for BlockProduct<D>
    where
        B: Backend,
        DispatchTensor: DispatchKindConversion<B>,
    {
        type State = Frozen;

        fn backward(
            self,
            ops: Ops<Frozen, 1>,
            grads: &mut Gradients,
            _checkpointer: &mut Checkpointer,
        ) {
            let Ops { parents, node, state } = ops;
            unary::<B, _>(parents, node, grads, |gradient| {
                let gradient = state.backward(Tensor::<D>::from_primitive::<B>(gradient));
                gradient.try_into_primitive::<B>().expect("it stays on its backend")
            });
        }
    }

    /// The product, if the input is on this backend, whatever Burn keeps of activations there.
    pub fn on<B, const D: usize>(frozen: &Frozen, input: &Tensor<D>) -> Option<Tensor<D>>
    where
        B: Backend,
        DispatchTensor: DispatchKindConversion<B>
            + DispatchKindConversion<Autodiff<B, NoCheckpointing>>
            + DispatchKindConversion<Autodiff<B, BalancedCheckpointing>>,
    {
        keeping::<B, NoCheckpointing, D>(frozen, input)
            .or_else(|| keeping::<B, BalancedCheckpointing, D>(frozen, input))
    }

    fn keeping<B, C, const D: usize>(frozen: &Frozen, input: &Tensor<D>) -> Option<Tensor<D>>
    where
        B: Backend,
        C: CheckpointStrategy,
        DispatchTensor: DispatchKindConversion<B> + DispatchKindConversion<Autodiff<B, C>>,
    {
        let input = input.clone().try_into_primitive::<Autodiff<B, C>>().ok()?;
        let (input, node) = input.into_parts();
        let output = frozen.forward(Tensor::<D>::from_primitive::<B>(input));
        let output = output.try_into_primitive::<B>().ok()?;
        let operation = <BlockProduct<D> as Backward<B, 1>>::prepare::<C>(BlockProduct, [node]);
        let output = match operation.compute_bound().stateful() {
            OpsKind::Tracked(operation) => operation.finish(frozen.clone(), output),
            OpsKind::UnTracked(operation) => operation.finish(output),
        };
        Some(Tensor::from_primitive::<Autodiff<B, C>>(output))
    }
}

/// The product of an input on an autodiff device with blocks. `None` on a backend that is not known
/// here.
pub(super) fn recorded<const D: usize>(frozen: &Frozen, input: &Tensor<D>) -> Option<Tensor<D>> {
    #[cfg(feature = "flex")]
    if let Some(output) = operation::on::<burn::backend::Flex, D>(frozen, input) {
        return Some(output);
    }
    #[cfg(any(
        feature = "wgpu",
        feature = "vulkan",
        feature = "metal",
        feature = "cuda",
        feature = "cpu"
    ))]
    if let Some(output) = operation::on::<burn::backend::Cube, D>(frozen, input) {
        return Some(output);
    }
    let _ = (frozen, input);
    None
}
