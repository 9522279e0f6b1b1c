//! The forward pass of a weight: what a layer multiplies by, whatever the form of its weight.

use burn::module::Param;
use burn::tensor::module::linear;
use burn::tensor::{DType, FloatDType, Tensor};

use super::low_rank::LowRank;

/// `input · weight + bias`, in the type of the input: parameters of another type are cast for the
/// pass. The input is multiplied by one factor after the other, and by an adapter separately from
/// the weight; their products are never built. A quantized weight stays quantized.
///
/// # Shapes
///
/// - input: `[..., d_input]`
/// - output: `[..., d_output]`
pub(crate) fn apply<const D: usize>(
    weight: &Param<Tensor<2>>,
    bias: Option<&Param<Tensor<1>>>,
    input: Tensor<D>,
) -> Tensor<D> {
    let dtype = FloatDType::from(input.dtype());
    let bias = bias.map(|bias| as_float(bias.val()).cast(dtype));
    if let Some(low_rank) = weight.reparameterization::<LowRank>() {
        let adapter = low_rank.adapter();
        let adapted = adapter.map(|of| adapter_output(input.clone(), &of.a, &of.b, of.scale));
        let output = factored(weight.base(), low_rank, bias, input);
        return match adapted {
            Some(adapted) => output + adapted,
            None => output,
        };
    }
    if let Some(adapter) = weight.adapter() {
        let adapted = adapter_output(input.clone(), &adapter.a, &adapter.b, adapter.scale);
        return product(input, weight.base(), bias) + adapted;
    }
    product(input, weight.val(), bias)
}

fn factored<const D: usize>(
    down: Tensor<2>,
    low_rank: &LowRank,
    bias: Option<Tensor<1>>,
    input: Tensor<D>,
) -> Tensor<D> {
    let pivots = product(input, down, None);
    if low_rank.order.is_none() {
        return product(pivots, low_rank.up.val(), bias);
    }
    let made = product(pivots.clone(), low_rank.up.val(), None);
    let output = low_rank.ordered(pivots, made);
    match bias {
        Some(bias) => output + bias.unsqueeze(),
        None => output,
    }
}

/// What an adapter adds. Kept separate: added to the weight, it would cost a gradient of the
/// weight's size.
fn adapter_output<const D: usize>(
    input: Tensor<D>,
    a: &Param<Tensor<2>>,
    b: &Param<Tensor<2>>,
    scale: f64,
) -> Tensor<D> {
    product(product(input, a.val(), None), b.val(), None).mul_scalar(scale)
}

fn product<const D: usize>(
    input: Tensor<D>,
    matrix: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    let dtype = FloatDType::from(input.dtype());
    if !matches!(matrix.dtype(), DType::QFloat(_)) {
        return linear(input, matrix.cast(dtype), bias);
    }
    // A quantized matrix cannot be cast, and reshaping it with a batch would quantize it anew.
    let mut dims = input.dims();
    let [d_input, d_output] = matrix.dims();
    let rows = dims.iter().product::<usize>() / d_input.max(1);
    let output = input.reshape([rows, d_input]).matmul(matrix).cast(dtype);
    dims[D - 1] = d_output;
    let output = output.reshape(dims);
    match bias {
        Some(bias) => output + bias.unsqueeze(),
        None => output,
    }
}

/// The values of a tensor that may be quantized.
fn as_float<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    match tensor.dtype() {
        DType::QFloat(_) => tensor.dequantize(),
        _ => tensor,
    }
}
