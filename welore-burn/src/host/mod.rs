//! Passes over numbers in the memory of the host, on tensors of Burn's CPU backend.
//!
//! Where Burn's operations go over the numbers several times, on one thread, and make a tensor each time,
//! these go once, with the instructions that the processor has, on the threads of the rayon pool that they
//! are called in if there is enough to do. Where tensors record gradients, most of them have a backward pass
//! of this kind. All of them return `None` for other tensors, whose caller then uses Burn's operations.
//! Results do not depend on the number of threads.

#[macro_use]
mod processor;

mod adamw;
mod attention;
mod attention_back;
mod exp;
mod gated;
mod logits;
mod norm;
mod ready;
mod recorded;
mod rotation;
mod rows;

use std::marker::PhantomData;
use std::sync::Arc;

use burn::tensor::{Bytes, DType, Device, Element, Tensor, TensorData};
use bytemuck::Pod;

pub(crate) use adamw::{AdamWStep, adamw};
pub(crate) use attention::{Causal, attention};
pub(crate) use gated::{Gate, gated};
pub(crate) use logits::{log_sum_exp, softmax_loss};
pub(crate) use norm::{Normed, norm};
pub(crate) use ready::with_ready_threads;
pub(crate) use rotation::rotated;
pub(crate) use rows::{FEW, few_rows};

/// Numbers below which a thread does not pay.
const LEAST_WORK: usize = 1 << 15;

/// The numbers of a tensor where Burn's CPU backend has them.
struct Numbers<const D: usize, E = f32> {
    bytes: Arc<Bytes>,
    /// Where the first number is, in numbers.
    start: usize,
    dims: [usize; D],
    /// From a number to the next along each axis, in numbers.
    strides: [usize; D],
    kind: PhantomData<E>,
}

impl<const D: usize, E: Element + Pod> Numbers<D, E> {
    /// `None` on another backend, with gradients, or in another type. Where an axis runs backwards, the
    /// numbers are copied.
    #[cfg(feature = "flex")]
    fn of(tensor: &Tensor<D>) -> Option<Self> {
        let primitive = tensor.clone().try_into_primitive::<burn::backend::Flex>().ok()?;
        if primitive.dtype() != E::dtype() {
            return None;
        }
        let primitive = match primitive.layout().has_positive_strides() {
            true => primitive,
            false => primitive.to_contiguous(),
        };
        let layout = primitive.layout();
        let mut strides = [0; D];
        for (stride, given) in strides.iter_mut().zip(layout.strides()) {
            *stride = usize::try_from(*given).ok()?;
        }
        Some(Self {
            bytes: primitive.data_arc(),
            start: layout.start_offset(),
            dims: tensor.dims(),
            strides,
            kind: PhantomData,
        })
    }

    #[cfg(not(feature = "flex"))]
    fn of(_: &Tensor<D>) -> Option<Self> {
        None
    }

    /// The same with the numbers one after the other, for which they may be copied.
    fn in_order(tensor: &Tensor<D>) -> Option<Self> {
        let numbers = Self::of(tensor)?;
        if numbers.is_in_order() {
            return Some(numbers);
        }
        let data = tensor.clone().into_data();
        Self::of(&Tensor::from_data(data, (&tensor.device(), E::dtype())))
    }

    fn is_in_order(&self) -> bool {
        let mut next = 1;
        for (dim, stride) in self.dims.iter().zip(&self.strides).rev() {
            if *dim != 1 && *stride != next {
                return false;
            }
            next *= dim;
        }
        true
    }

    /// The numbers from the first one on, and what is behind the last one.
    fn all(&self) -> &[E] {
        &bytemuck::cast_slice(&self.bytes)[self.start..]
    }

    /// As many numbers as the tensor has, from the first one on.
    fn slice(&self) -> &[E] {
        &self.all()[..self.dims.iter().product()]
    }
}

/// A tensor of these numbers.
fn tensor<const D: usize>(numbers: Vec<f32>, dims: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(numbers, dims), (device, DType::F32))
}

/// Whether tensors of a device have their numbers in the memory of the host, with or without gradients.
#[cfg(feature = "flex")]
pub(crate) fn is_host(device: &Device) -> bool {
    *device == Device::flex()
}

/// Whether tensors of a device have their numbers in the memory of the host, with or without gradients.
#[cfg(not(feature = "flex"))]
pub(crate) fn is_host(_: &Device) -> bool {
    false
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_wherever_they_are() {
        let device = Device::flex();
        let x = Tensor::<2>::from_data([[1.0f32, 2.0, 3.0], [4.0, 5.0, 6.0]], &device);
        for (place, x, expected) in [
            ("in order", x.clone(), vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
            ("turned", x.clone().transpose(), vec![1.0, 4.0, 2.0, 5.0, 3.0, 6.0]),
            ("a part", x.clone().narrow(1, 1, 2), vec![2.0, 3.0, 5.0, 6.0]),
            (
                "once for all",
                x.clone().narrow(0, 1, 1).expand([2, 3]),
                vec![4.0, 5.0, 6.0, 4.0, 5.0, 6.0],
            ),
            ("backwards", x.flip([1]), vec![3.0, 2.0, 1.0, 6.0, 5.0, 4.0]),
        ] {
            assert_eq!(Numbers::<2>::in_order(&x).unwrap().slice(), expected, "{place}");
        }
    }

    #[test]
    fn a_device_with_gradients_is_the_host_too() {
        assert!(is_host(&Device::flex()));
        assert!(is_host(&Device::flex().autodiff()));
    }
}
