//! Access to the inputs and outputs of layers, without changing the layers.

use std::cell::RefCell;
use std::rc::Rc;

use burn::module::ParamId;
use burn::tensor::Tensor;

/// Receives the inputs and outputs of every [`LowRankLinear`](crate::linear::LowRankLinear) that
/// the thread uses while it is [`tapped`]. Layers are identified by the ids of their weights.
pub trait Tap {
    /// The input of a layer, `[rows, d_input]`.
    fn input(&mut self, weight: ParamId, input: Tensor<2>);

    /// The output of a layer, `[rows, d_output]`. The returned tensor replaces it; to get its
    /// gradient, add a leaf of zeros.
    fn output(&mut self, _weight: ParamId, output: Tensor<2>) -> Tensor<2> {
        output
    }

    /// Whether these layers see all rows here, though the model gives them only some, as it gives experts
    /// some of the tokens. What the model computes stays the same.
    fn wants_all(&mut self, _weights: &[ParamId]) -> bool {
        false
    }
}

thread_local! {
    static TAP: RefCell<Option<Rc<RefCell<dyn Tap>>>> = const { RefCell::new(None) };
}

/// Runs `work` with a tap on this thread, and returns the tap.
///
/// # Panics
///
/// Panics if the work also taps the thread.
pub fn tapped<T: Tap + 'static, R>(tap: T, work: impl FnOnce() -> R) -> (R, T) {
    /// Removes the tap even if the work panics.
    struct Guard;
    impl Drop for Guard {
        fn drop(&mut self) {
            TAP.take();
        }
    }
    let shared = Rc::new(RefCell::new(tap));
    let guard = Guard;
    let before = TAP.replace(Some(shared.clone()));
    assert!(before.is_none(), "a thread has one tap at a time");
    let result = work();
    drop(guard);
    let tap = Rc::try_unwrap(shared).ok().expect("the thread has given its tap back");
    (result, tap.into_inner())
}

fn current() -> Option<Rc<RefCell<dyn Tap>>> {
    TAP.with_borrow(Clone::clone)
}

pub(crate) fn see_input<const D: usize>(weight: ParamId, input: &Tensor<D>) {
    if let Some(tap) = current() {
        tap.borrow_mut().input(weight, as_rows(input.clone()));
    }
}

pub(crate) fn see_output<const D: usize>(weight: ParamId, output: Tensor<D>) -> Tensor<D> {
    match current() {
        Some(tap) => {
            let dims = output.dims();
            tap.borrow_mut().output(weight, as_rows(output)).reshape(dims)
        }
        None => output,
    }
}

/// Whether layers of these weights, which see only some rows, are to see all of them because someone
/// watches.
pub(crate) fn wants_all_rows(weights: &[ParamId]) -> bool {
    current().is_some_and(|tap| tap.borrow_mut().wants_all(weights))
}

fn as_rows<const D: usize>(x: Tensor<D>) -> Tensor<2> {
    let width = x.dims()[D - 1];
    let rows = x.dims().iter().product::<usize>() / width.max(1);
    x.reshape([rows, width])
}
