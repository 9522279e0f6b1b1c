//! Operations of this room that record gradients, by Burn's extension point for them.

use std::fmt::Debug;

use burn::tensor::Tensor;

/// What an operation keeps for its backward pass.
pub(super) trait Recorded<const D: usize, const N: usize>:
    Clone + Debug + Send + 'static
{
    /// The gradients of at least those inputs that need one, from that of the output.
    fn gradients(self, gradient: Tensor<D>, needed: [bool; N]) -> [Option<Tensor<D>>; N];
}

/// The output of an operation on tensors of which at least one records gradients. `None` on another
/// backend, with Burn's own checkpoints, or if it cannot be computed.
///
/// `compute` gets the inputs without gradients.
#[cfg(feature = "flex")]
pub(super) fn record<const D: usize, const N: usize, R: Recorded<D, N>>(
    inputs: [&Tensor<D>; N],
    compute: impl FnOnce([&Tensor<D>; N]) -> Option<(Tensor<D>, R)>,
) -> Option<Tensor<D>> {
    operation::record(inputs, compute)
}

#[cfg(not(feature = "flex"))]
pub(super) fn record<const D: usize, const N: usize, R: Recorded<D, N>>(
    _: [&Tensor<D>; N],
    _: impl FnOnce([&Tensor<D>; N]) -> Option<(Tensor<D>, R)>,
) -> Option<Tensor<D>> {
    None
}

#[cfg(feature = "flex")]
mod operation {
    use std::marker::PhantomData;

    use burn::backend::autodiff::checkpoint::base::Checkpointer;
    use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
    use burn::backend::autodiff::grads::Gradients;
    use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
    use burn::backend::{Autodiff, Flex};
    use burn::tensor::Tensor;

    use super::Recorded;

    type Device = Autodiff<Flex, NoCheckpointing>;

    /// The backward pass of an operation, which is in its state.
    #[derive(Debug)]
    struct Pass<R, const D: usize>(PhantomData<fn() -> R>);

    impl<R: Recorded<D, N>, const D: usize, const N: usize> Backward<Flex, N> for Pass<R, D> {
        type State = R;

        fn backward(self, ops: Ops<R, N>, grads: &mut Gradients, _: &mut Checkpointer) {
            let Ops { parents, node, state } = ops;
            let gradient = Tensor::<D>::from_primitive::<Flex>(grads.consume::<Flex>(&node));
            let needed = parents.each_ref().map(Option::is_some);
            for (parent, gradient) in parents.into_iter().zip(state.gradients(gradient, needed)) {
                if let Some(parent) = parent {
                    // Better than training with gradients that are not there.
                    let gradient = gradient.expect("an input that needs a gradient gets one");
                    let gradient = gradient.try_into_primitive::<Flex>();
                    let gradient = gradient.expect("what is computed on the host is there");
                    grads.register::<Flex>(parent.id, gradient);
                }
            }
        }
    }

    pub fn record<const D: usize, const N: usize, R: Recorded<D, N>>(
        inputs: [&Tensor<D>; N],
        compute: impl FnOnce([&Tensor<D>; N]) -> Option<(Tensor<D>, R)>,
    ) -> Option<Tensor<D>> {
        let recording = inputs.map(|input| {
            // An input without gradients may be on the plain device.
            let input = match input.is_autodiff() {
                true => input.clone(),
                false => Tensor::from_inner(input.clone()),
            };
            input.try_into_primitive::<Device>().ok()
        });
        if recording.iter().any(Option::is_none) {
            return None;
        }
        let parts = recording.map(|input| input.expect("all were found").into_parts());
        let plain =
            parts.each_ref().map(|(input, _)| Tensor::from_primitive::<Flex>(input.clone()));
        let (output, state) = compute(plain.each_ref())?;
        let output = output.try_into_primitive::<Flex>().ok()?;
        let nodes = parts.map(|(_, node)| node);
        let pass = Pass::<R, D>(PhantomData);
        let operation = <Pass<R, D> as Backward<Flex, N>>::prepare::<NoCheckpointing>(pass, nodes);
        let output = match operation.compute_bound().stateful() {
            OpsKind::Tracked(operation) => operation.finish(state, output),
            OpsKind::UnTracked(operation) => operation.finish(output),
        };
        Some(Tensor::from_primitive::<Device>(output))
    }
}
