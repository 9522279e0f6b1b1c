//! The whole life of a `LowRankLinear`.

use burn::module::{Lora, Module, ModuleMapper, Param, ParamGroup, ParamId, QLora, Quantizer};
use burn::nn::{Linear, LinearConfig, LinearLayout};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::quantization::{Calibration, QuantValue};
use burn::tensor::{DType, Device, Distribution, FloatDType, Tensor, TensorData, Tolerance};
use welore_burn::forms::{Form, FormError};
use welore_burn::linalg::{Matrix, singular_values};
use welore_burn::linear::{LowRankLinear, LowRankLinearConfig};
use welore_burn::modules::{Tap, tapped};

use crate::device;

const IN: usize = 6;
const OUT: usize = 5;
const RANK: usize = 2;

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

fn factored(device: &Device) -> LowRankLinear {
    LowRankLinear::from_factors(
        random([IN, RANK], device),
        random([RANK, OUT], device),
        Some(random([OUT], device)),
    )
}

/// Sums of a few products of normal numbers: they may cancel, so the tolerance has an absolute part
/// too.
fn assert_close<const D: usize>(a: Tensor<D>, b: Tensor<D>) {
    a.into_data().assert_approx_eq::<f32>(&b.into_data(), Tolerance::rel_abs(1e-5, 1e-5));
}

#[test]
fn dense_layer_is_a_linear_layer() {
    let device = device();
    let linear = LinearConfig::new(IN, OUT).init(&device);
    let layer = LowRankLinear::from(linear.clone());
    let x = random([3, 4, IN], &device);
    assert_close(layer.forward(x.clone()), linear.forward(x));
    assert_eq!((layer.d_input(), layer.d_output(), layer.rank()), (IN, OUT, None));
    assert_eq!(layer.weight.id, linear.weight.id);
    assert_eq!(layer.num_params(), linear.num_params());
}

#[test]
fn configuration_has_the_fields_of_linear() {
    let device = device();
    let dense = LowRankLinearConfig::new(IN, OUT).init(&device);
    assert_eq!(dense.num_params(), IN * OUT + OUT);
    let no_bias = LowRankLinearConfig::new(IN, OUT).with_bias(false).init(&device);
    assert!(no_bias.bias.is_none());
    let low = LowRankLinearConfig::new(IN, OUT).with_rank(Some(RANK)).init(&device);
    assert_eq!(low.rank(), Some(RANK));
    assert_eq!(low.num_params(), IN * RANK + RANK * OUT + OUT);
    assert_eq!(low.forward(random([7, IN], &device)).dims(), [7, OUT]);
}

#[test]
fn factored_initialization_has_the_spread_of_a_dense_one() {
    let device = device();
    device.seed(1);
    let spread = |rank| {
        let layer = LowRankLinearConfig::new(200, 300).with_rank(rank).init(&device);
        layer.weight.val().var(1).mean().sqrt().into_scalar::<f64>()
    };
    let (dense, low) = (spread(None), spread(Some(50)));
    assert!((low / dense - 1.0).abs() < 0.1, "{low} against {dense}");
}

#[test]
#[should_panic(expected = "rank 6 is not between 1 and 5")]
fn impossible_rank_panics() {
    LowRankLinearConfig::new(IN, OUT).with_rank(Some(6)).init(&device());
}

#[test]
fn factored_forward_is_the_materialized_product() {
    let device = device();
    let layer = factored(&device);
    let x = random([3, 4, IN], &device);
    let (down, up) = layer.factors().unwrap();
    let expected = x.clone().matmul(down.matmul(up).unsqueeze())
        + layer.bias.as_ref().unwrap().val().unsqueeze();
    assert_close(layer.forward(x.clone()), expected.clone());
    // A plain Linear with the same parameters materializes, and agrees.
    assert_close(Linear::from(layer.clone()).forward(x.clone()), expected.clone());
    let merged = layer.materialize();
    assert_eq!(merged.rank(), None);
    assert_eq!(merged.weight.val().dims(), [IN, OUT]);
    assert_close(merged.forward(x), expected);
}

#[test]
fn factored_forward_never_builds_the_dense_weight() {
    // The dense weight would take 40 GB.
    let device = device();
    let n = 100_000;
    let layer = LowRankLinear::from_factors(random([n, 2], &device), random([2, n], &device), None);
    assert_eq!(layer.forward(random([1, n], &device)).dims(), [1, n]);
}

#[test]
fn gradients_reach_both_factors_and_the_bias() {
    let device = device().autodiff();
    let layer = factored(&device);
    let grads = layer.forward(random([3, IN], &device)).sum().backward();
    let (down, up) = layer.factors().unwrap();
    assert_eq!(down.grad(&grads).unwrap().dims(), [IN, RANK]);
    assert_eq!(up.grad(&grads).unwrap().dims(), [RANK, OUT]);
    assert!(layer.bias.as_ref().unwrap().grad(&grads).is_some());
}

#[test]
fn optimizer_moves_both_factors_and_lowers_the_loss() {
    let device = device().autodiff();
    let mut layer = factored(&device);
    let (x, y) = (random([16, IN], &device), random([16, OUT], &device));
    let before = layer.factors().unwrap();
    let mut optimizer = AdamWConfig::new().init();
    let mut losses = Vec::new();
    for _ in 0..20 {
        let loss = (layer.forward(x.clone()) - y.clone()).square().mean();
        losses.push(loss.clone().into_scalar::<f64>());
        let grads = GradientsParams::from_grads(loss.backward(), &layer);
        layer = optimizer.step(0.05, layer, grads);
    }
    assert!(losses[19] < 0.8 * losses[0], "{losses:?}");
    let after = layer.factors().unwrap();
    for (old, new) in [(before.0, after.0), (before.1, after.1)] {
        let moved = (new - old).abs().max().into_scalar::<f64>();
        assert!(moved > 1e-3);
    }
}

#[test]
fn records_devices_and_modes_keep_the_factors() {
    let plain = device();
    let layer = factored(&plain);
    let x = random([3, IN], &plain);
    let expected = layer.forward(x.clone());

    let loaded = factored(&plain).load_record(layer.clone().into_record());
    assert_close(loaded.forward(x.clone()), expected.clone());

    let training = layer.clone().train();
    assert!(training.factors().unwrap().0.is_require_grad());
    let back = training.valid();
    assert_eq!(back.rank(), Some(RANK));
    assert_close(back.forward(x.clone()), expected.clone());

    let moved = layer.to_device(&plain).fork(&plain);
    assert_close(moved.forward(x), expected);
}

/// A pivoted layer: outputs 3 and 1 are pivots.
fn pivoted(device: &Device) -> LowRankLinear {
    let (down, others) = (random([IN, RANK], device), random([RANK, OUT - RANK], device));
    let bias = random([OUT], device);
    LowRankLinear::from_pivots(down, others, &[3, 1], Some(bias)).unwrap()
}

#[test]
fn pivoted_layer_has_pivots_as_outputs_and_makes_the_others_of_them() {
    let device = device();
    let layer = pivoted(&device);
    assert_eq!((layer.d_input(), layer.d_output(), layer.rank()), (IN, OUT, Some(RANK)));
    assert_eq!(layer.num_params(), IN * RANK + RANK * (OUT - RANK) + OUT);
    let x = random([3, 4, IN], &device);
    let (down, up) = layer.factors().unwrap();
    let z = x.clone().matmul(down.unsqueeze());
    let made = z.clone().matmul(up.unsqueeze());
    let column = |of: &Tensor<3>, index| of.clone().narrow(2, index, 1);
    let columns = [(&made, 0), (&z, 1), (&made, 1), (&z, 0), (&made, 2)];
    let expected = Tensor::cat(columns.map(|(of, index)| column(of, index)).to_vec(), 2)
        + layer.bias.as_ref().unwrap().val().unsqueeze();
    assert_close(layer.forward(x.clone()), expected.clone());
    assert_close(Linear::from(layer.clone()).forward(x.clone()), expected.clone());
    let merged = layer.clone().materialize();
    assert_eq!((merged.rank(), merged.weight.val().dims()), (None, [IN, OUT]));
    assert_close(merged.forward(x.clone()), expected.clone());

    let loaded = pivoted(&device).load_record(layer.clone().into_record());
    assert_close(loaded.forward(x.clone()), expected.clone());
    let moved = layer.train().valid().to_device(&device).fork(&device);
    assert_close(moved.forward(x), expected);
}

#[test]
fn gradients_of_a_pivoted_layer_are_those_of_its_product() {
    let device = device().autodiff();
    let layer = pivoted(&device);
    let x = random([7, IN], &device);
    let weights = random([7, OUT], &device);
    let loss = |y: Tensor<2>| (y * weights.clone()).sum().backward();
    let gradients = loss(layer.forward(x.clone()));
    let materialized = loss(Linear::from(layer.clone()).forward(x));
    let (down, up) = layer.factors().unwrap();
    for leaf in [down, up] {
        assert_close(leaf.grad(&gradients).unwrap(), leaf.grad(&materialized).unwrap());
    }
}

#[test]
fn taps_see_inputs_and_may_probe_outputs() {
    struct See(Vec<[usize; 2]>);
    impl Tap for See {
        fn input(&mut self, _weight: ParamId, input: Tensor<2>) {
            self.0.push(input.dims());
        }
        fn output(&mut self, _weight: ParamId, output: Tensor<2>) -> Tensor<2> {
            output.mul_scalar(2.0)
        }
    }
    let device = device();
    let layer = factored(&device);
    let x = random([3, 4, IN], &device);
    let plain = layer.forward(x.clone());
    let (seen, tap) = tapped(See(Vec::new()), || layer.forward(x.clone()));
    assert_eq!(tap.0, [[12, IN]]);
    assert_close(seen, plain.clone().mul_scalar(2.0));
    assert_close(layer.forward(x), plain);
}

#[test]
fn display_tells_the_rank_and_builds_nothing() {
    let text = factored(&device()).to_string();
    for part in ["d_input: 6", "d_output: 5", "rank: 2", "bias: true"] {
        assert!(text.contains(part), "{text}");
    }
}

/// The matrix of a layer, `[out, in]`.
fn matrix_of(layer: &LowRankLinear) -> Matrix {
    let weight = layer.clone().materialize().weight.val().transpose();
    let [rows, cols] = weight.dims();
    Matrix::new(rows, cols, weight.into_data().iter::<f64>().collect()).unwrap()
}

#[test]
fn a_layer_takes_another_form_with_the_smallest_error_that_it_allows() {
    let device = device();
    let dense = LowRankLinearConfig::new(IN, OUT).init(&device);
    let matrix = matrix_of(&dense);
    let values = singular_values(&matrix).unwrap();
    let best = values[RANK..].iter().map(|s| s * s).sum::<f64>().sqrt();
    for form in [Form::factors(RANK), Form::pivot(RANK)] {
        let layer = dense.clone().to_form(form).unwrap();
        assert_eq!((layer.form(), layer.rank()), (form, Some(RANK)));
        assert_eq!((layer.weight.id, layer.d_output()), (dense.weight.id, OUT));
        let stored = form.parameters([OUT, IN]) as usize;
        assert_eq!(layer.num_params(), stored + OUT);
        let left: Vec<f64> =
            matrix.data().iter().zip(matrix_of(&layer).data()).map(|(a, b)| a - b).collect();
        let error = left.iter().map(|x| x * x).sum::<f64>().sqrt();
        assert!((error / best - 1.0).abs() < 1e-4, "{form}: {error} for {best}");
        let bias = |layer: &LowRankLinear| layer.bias.as_ref().unwrap().val();
        assert_close(bias(&layer), bias(&dense));
    }
    let layer = dense.clone().factored(RANK).unwrap();
    assert_eq!(layer.form(), Form::factors(RANK));
    assert_eq!(dense.clone().to_form(Form::dense()).unwrap().form(), Form::dense());

    let refused = |layer: LowRankLinear, rank| layer.factored(rank).unwrap_err();
    for rank in [0, OUT + 1] {
        let error = refused(dense.clone(), rank);
        assert!(matches!(error, FormError::Impossible(_)), "{error}");
    }
    let error = refused(layer, 1);
    assert!(matches!(error, FormError::NotDense), "{error}");
    let mut broken = dense.clone();
    broken.weight = Param::from_tensor(Tensor::full([IN, OUT], f32::NAN, &device));
    let error = refused(broken, 1);
    assert!(matches!(error, FormError::Linalg(_)), "{error}");
    let linear = LinearConfig::new(IN, OUT).with_layout(LinearLayout::Col).init(&device);
    let error = refused(linear.into(), 1);
    assert!(matches!(error, FormError::Layout) && error.to_string().contains("Row"), "{error}");
}

#[test]
fn factors_of_a_layer_train_and_its_bias_is_as_it_was() {
    let device = device().autodiff();
    let linear = LinearConfig::new(IN, OUT).init(&device).no_grad();
    let layer = LowRankLinear::from(linear).factored(RANK).unwrap();
    let grads = layer.forward(random([3, IN], &device)).sum().backward();
    let (down, up) = layer.factors().unwrap();
    assert!(down.grad(&grads).is_some() && up.grad(&grads).is_some());
    assert!(layer.bias.as_ref().unwrap().grad(&grads).is_none());
}

#[test]
fn pivots_that_cannot_be_are_refused() {
    let device = device();
    for pivots in [[3, 3], [3, OUT], [3, usize::MAX]] {
        let (down, others) = (random([IN, RANK], &device), random([RANK, OUT - RANK], &device));
        let error = LowRankLinear::from_pivots(down, others, &pivots, None).unwrap_err();
        assert!(matches!(error, FormError::Pivots { rank: RANK, rows: OUT }), "{error}");
    }
}

fn quantizer(device: &Device) -> Quantizer {
    let scheme = device.settings().quantization.scheme.with_value(QuantValue::Q8S);
    Quantizer::new(Calibration::MinMax, scheme)
}

/// Wide enough for the blocks of a quantization scheme.
const WIDE: usize = 64;

/// Layers of every form.
fn layers(device: &Device) -> [LowRankLinear; 3] {
    let dense = LowRankLinearConfig::new(WIDE, WIDE).init(device);
    [
        dense.clone(),
        dense.clone().factored(WIDE / 2).unwrap(),
        dense.to_form(Form::pivot(WIDE / 2)).unwrap(),
    ]
}

/// Gives the numbers that quantized weights stand for.
struct Dequantized;

impl ModuleMapper for Dequantized {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| match tensor.dtype() {
            DType::QFloat(_) => tensor.dequantize(),
            _ => tensor,
        })
    }
}

#[test]
fn quantized_layers_compute_what_their_numbers_say() {
    let device = device();
    let is_quantized = |tensor: &Tensor<2>| matches!(tensor.dtype(), DType::QFloat(_));
    for layer in layers(&device) {
        let form = layer.form();
        let quantized = layer.clone().quantize_weights(&mut quantizer(&device));
        assert!(is_quantized(&quantized.weight.base()), "{form}");
        assert_eq!(quantized.form(), form);
        let numbers = quantized.clone().map(&mut Dequantized);
        let gap = |layer: &LowRankLinear, x: &Tensor<3>| {
            let (got, expected) = (quantized.forward(x.clone()), layer.forward(x.clone()));
            assert_eq!(got.dims(), expected.dims());
            let norm = |x: Tensor<3>| x.square().sum().sqrt().into_scalar::<f64>();
            norm(got - expected.clone()) / norm(expected)
        };
        for x in [random([2, 3, WIDE], &device), random([1, 1, WIDE], &device)] {
            let (same, rounded) = (gap(&numbers, &x), gap(&layer, &x));
            assert!(same < 1e-5, "{form}: {same}");
            // Eight bits round a factor by about 0.5%. Pivots amplify that, most of all those of
            // a random matrix.
            assert!(rounded > 1e-4 && rounded < 0.1, "{form}: {rounded}");
        }
        let error = quantized.factored(2).unwrap_err();
        let told = match form == Form::dense() {
            true => matches!(error, FormError::Quantized),
            false => matches!(error, FormError::NotDense),
        };
        assert!(told, "{form}: {error}");
    }
}

#[test]
fn adapters_on_a_quantized_layer_train() {
    let device = device().autodiff();
    let [dense, ..] = layers(&device);
    let x = random([5, WIDE], &device);
    let qlora = QLora::new(Lora::new(4, 8.0), quantizer(&device));
    let layer = dense.apply_qlora(qlora);
    assert!(matches!(layer.weight.base().dtype(), DType::QFloat(_)));
    // The gradients are those of the same layer with dequantized weights.
    let adapter = layer.weight.adapter().expect("an adapter").clone();
    let (a, b) = (adapter.a.val(), adapter.b.val());
    let base = layer.weight.base().dequantize();
    let bias = layer.bias.as_ref().unwrap().val();
    let bias = if matches!(bias.dtype(), DType::QFloat(_)) { bias.dequantize() } else { bias };
    let product = a.clone().matmul(b.clone()).mul_scalar(adapter.scale);
    let expected = x.clone().matmul(base + product) + bias.unsqueeze();
    let got = layer.forward(x.clone());
    let near = Tolerance::rel_abs(1e-3, 1e-3);
    got.to_data().assert_approx_eq::<f32>(&expected.to_data(), near);
    let weights = random([5, WIDE], &device);
    let loss = |y: Tensor<2>| (y * weights.clone()).sum().backward();
    let (ours, reference) = (loss(got), loss(expected));
    for leaf in [a, b] {
        let (ours, reference) = (leaf.grad(&ours).unwrap(), leaf.grad(&reference).unwrap());
        ours.into_data().assert_approx_eq::<f32>(&reference.into_data(), near);
    }
}

#[test]
fn only_a_group_may_be_quantized() {
    let device = device();
    let [_, factored, _] = layers(&device);
    let mut quantizer = quantizer(&device);
    let group = ParamGroup::from_path("weight");
    let layer = factored.clone().quantize_weights_group(&mut quantizer, group);
    let x = random([3, WIDE], &device);
    let (got, expected) = (layer.forward(x.clone()), factored.forward(x));
    got.into_data().assert_approx_eq::<f32>(&expected.into_data(), Tolerance::rel_abs(0.05, 0.05));
}

#[test]
fn weights_as_rows_and_columns_of_tensors_agree_with_numbers() {
    // `[d_input, d_output]` here, `[out, in]` in a matrix.
    let device = device();
    let weight = TensorData::new(vec![1f32, 2.0, 3.0, 4.0, 5.0, 6.0], [2, 3]);
    let weight = Param::from_tensor(Tensor::<2>::from_data(weight, &device));
    let layer = LowRankLinear { weight, bias: None };
    assert_eq!(matrix_of(&layer).data(), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
}

#[test]
fn outputs_that_are_made_of_pivots_are_rounded_once_on_flex() {
    let device = device();
    if device != Device::flex() {
        return;
    }
    let half = |tensor: Tensor<2>| tensor.cast(FloatDType::BF16);
    let (down, others) = (random([8, 3], &device), random([3, 4], &device).mul_scalar(20.0));
    let layer = |down, others| {
        LowRankLinear::from_pivots(down, others, &[4, 0, 6], None).expect("pivots are outputs")
    };
    let x = half(random([5, 8], &device));
    let (down, others) = (half(down), half(others));
    let wide = layer(down.clone().cast(FloatDType::F32), others.clone().cast(FloatDType::F32));
    let expected = half(wide.forward(x.clone().cast(FloatDType::F32)));
    let output = layer(down, others).forward(x);
    assert_eq!(output.dtype(), DType::BF16);
    assert_eq!(output.into_data(), expected.into_data());
}
