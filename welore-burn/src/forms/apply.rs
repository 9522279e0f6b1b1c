//! The forward pass of a weight: what a layer multiplies by, whatever the form of its weight.

use burn::module::Param;
use burn::tensor::module::{embedding, linear};
use burn::tensor::{DType, Device, FloatDType, Int, Tensor};

use super::low_rank::LowRank;
use super::packed::Packed;
use crate::host;

/// `input · weight + bias`, in the type of the input: parameters of another type are cast for the
/// pass. The input is multiplied by one factor after the other, and by an adapter separately from
/// the weight; their products are never built. A quantized weight stays quantized, and a packed one
/// packed.
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
    if let Some(packed) = weight.reparameterization::<Packed>() {
        let output = packed.product(input);
        return match bias {
            Some(bias) => output + bias.unsqueeze(),
            None => output,
        };
    }
    if let Some(adapter) = weight.adapter() {
        let adapted = adapter_output(input.clone(), &adapter.a, &adapter.b, adapter.scale);
        return product(input, weight.base(), bias) + adapted;
    }
    product(input, weight.val(), bias)
}

/// `input · tableᵀ`, in the type of the input: the head that an embedding is at the same time.
///
/// # Shapes
///
/// - table: `[rows, columns]`
/// - input: `[batch, positions, columns]`
/// - output: `[batch, positions, rows]`
pub(crate) fn apply_transposed(table: &Param<Tensor<2>>, input: Tensor<3>) -> Tensor<3> {
    if let Some(packed) = table.reparameterization::<Packed>() {
        return packed.product(input);
    }
    // A product of matrices reads the transposed table in place; a batched product would copy all of
    // it first.
    let [batch, positions, width] = input.dims();
    let table = table.val();
    if is_for_host(&input)
        && let Some(output) = few_rows_product(&input, &table.clone().transpose())
    {
        return output;
    }
    let [rows, _] = table.dims();
    let table = table.cast(FloatDType::from(input.dtype()));
    let output = input.reshape([batch * positions, width]).matmul(table.transpose());
    output.reshape([batch, positions, rows])
}

/// Rows of a table, by their numbers.
///
/// # Shapes
///
/// - table: `[rows, columns]`
/// - rows: `[batch, positions]`
/// - output: `[batch, positions, columns]`
pub(crate) fn look_up(table: &Param<Tensor<2>>, rows: Tensor<2, Int>) -> Tensor<3> {
    match table.reparameterization::<Packed>() {
        Some(packed) => packed.rows(rows, &table.lazy_device()),
        None => embedding(table.val(), rows),
    }
}

/// The shape of a weight as layers see it, whatever its form: `[d_input, d_output]` in a linear
/// layer. Initializes nothing.
pub(crate) fn weight_shape(weight: &Param<Tensor<2>>) -> [usize; 2] {
    if let Some(packed) = weight.reparameterization::<Packed>() {
        return packed.weight_shape();
    }
    let [first, second] = weight.lazy_shape().dims();
    match weight.reparameterization::<LowRank>() {
        None => [first, second],
        Some(LowRank { order: Some(order), .. }) => [first, order.lazy_shape()[0]],
        Some(LowRank { up, order: None }) => [first, up.lazy_shape()[1]],
    }
}

fn factored<const D: usize>(
    down: Tensor<2>,
    low_rank: &LowRank,
    bias: Option<Tensor<1>>,
    input: Tensor<D>,
) -> Tensor<D> {
    if low_rank.order.is_none() {
        let inner = product(input, down, None);
        return product(inner, low_rank.up.val(), bias);
    }
    let dtype = input.dtype();
    // Outputs that are made of pivots add up many of these, with their errors, so they are rounded at
    // the end where that costs nothing.
    let input = match is_computed_in_f32(&input.device(), dtype) {
        true => input.cast(FloatDType::F32),
        false => input,
    };
    let pivots = product(input, down, None);
    let made = product(pivots.clone(), low_rank.up.val(), None);
    let output = low_rank.ordered(pivots, made).cast(FloatDType::from(dtype));
    match bias {
        Some(bias) => output + bias.unsqueeze(),
        None => output,
    }
}

/// Whether products of a type of 16 bits are computed in f32 anyway, and only their results rounded,
/// as on flex. Other devices have units for these types, without which they are several times slower.
fn is_computed_in_f32(device: &Device, dtype: DType) -> bool {
    matches!(dtype, DType::BF16 | DType::F16) && host::is_host(device)
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
        let few = is_for_host(&input).then(|| few_rows_product(&input, &matrix)).flatten();
        return match few {
            Some(output) => match bias {
                Some(bias) => output + bias.unsqueeze(),
                None => output,
            },
            None => linear(input, matrix.cast(dtype), bias),
        };
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

/// Whether an input is of few rows on the host, without gradients. Elsewhere, even to reshape it would be
/// an operation in vain.
fn is_for_host<const D: usize>(input: &Tensor<D>) -> bool {
    let rows = input.dims()[..D - 1].iter().product::<usize>();
    let device = input.device();
    rows <= host::FEW && host::is_host(&device) && !device.is_autodiff()
}

/// The product of few rows with a matrix on the host, where it is read as it is.
fn few_rows_product<const D: usize>(input: &Tensor<D>, matrix: &Tensor<2>) -> Option<Tensor<D>> {
    let mut dims = input.dims();
    let [d_input, d_output] = matrix.dims();
    let rows = dims[..D - 1].iter().product::<usize>();
    let output = host::few_rows(&input.clone().reshape([rows, d_input]), matrix)?;
    dims[D - 1] = d_output;
    Some(output.cast(FloatDType::from(input.dtype())).reshape(dims))
}

/// The values of a tensor that may be quantized.
fn as_float<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    match tensor.dtype() {
        DType::QFloat(_) => tensor.dequantize(),
        _ => tensor,
    }
}
