use burn::config::Config;
use burn::module::{Content, DisplaySettings, Module, ModuleDisplay, Param, ParamId};
use burn::nn::{Initializer, Linear};
use burn::tensor::module::linear;
use burn::tensor::{Device, FloatDType, Tensor};

use super::factors::{FactorParams, LowRank, Rest, attach_factors};
use super::tap::{see_input, see_output};

/// Configuration to create a [`LowRankLinear`] layer using the [init function](LowRankLinearConfig::init).
#[derive(Config, Debug)]
pub struct LowRankLinearConfig {
    /// The size of the input features.
    pub d_input: usize,
    /// The size of the output features.
    pub d_output: usize,
    /// If a bias should be applied during the linear transformation.
    #[config(default = true)]
    pub bias: bool,
    /// Start factored at this rank. Default: `None`, a dense layer.
    pub rank: Option<usize>,
    /// The type of function used to initialize neural network parameters.
    #[config(default = "Initializer::KaimingUniform{gain:1.0/3.0f64.sqrt(), fan_out_only:false}")]
    pub initializer: Initializer,
}

impl LowRankLinearConfig {
    /// Initialize a new [`LowRankLinear`] module. Parameters are created lazily, on first use
    /// or when weights are loaded.
    ///
    /// With a rank, `down` is drawn from the initializer and `up` from `N(0, 1/rank)`, which
    /// gives the entries of the product the variance that the dense weight would have.
    ///
    /// # Panics
    ///
    /// Panics if the rank is 0 or larger than `min(d_input, d_output)`.
    pub fn init(&self, device: &Device) -> LowRankLinear {
        let matrix = |initializer: &Initializer, shape: [usize; 2]| {
            initializer.init_with::<2, _>(shape, Some(shape[0]), Some(shape[1]), device)
        };
        let layer = LowRankLinear {
            weight: matrix(&self.initializer, [self.d_input, self.d_output]),
            bias: self.bias.then(|| {
                self.initializer.init_with(
                    [self.d_output],
                    Some(self.d_input),
                    Some(self.d_output),
                    device,
                )
            }),
        };
        let Some(rank) = self.rank else { return layer };
        let full = self.d_input.min(self.d_output);
        assert!((1..=full).contains(&rank), "rank {rank} is not in 1..={full}");
        let up = Initializer::Normal { mean: 0.0, std: (1.0 / rank as f64).sqrt() };
        attach_factors(
            layer,
            |_, _| {
                Some(FactorParams {
                    down: matrix(&self.initializer, [self.d_input, rank]),
                    up: matrix(&up, [rank, self.d_output]),
                    order: None,
                })
            },
            Rest::Keep,
        )
    }
}

/// Applies a linear transformation, dense or factored, to the input tensor.
///
/// Should be created with [`LowRankLinearConfig`], or from an `nn::Linear`.
///
/// Dense: `O = I W + b`. Factored: `O = (I down) up + b`; the product `down · up` is never
/// built, and neither is that of a LoRA adapter. In pivoted storage (see [`LowRank`]) `I down` is
/// already a part of the outputs.
///
/// The fields are those of Burn's `nn::Linear`, and a factored weight is Burn's own parameter
/// reparameterization, so records, optimizers, `valid`, `train`, `to_device`, `num_params` and
/// `materialize` work as for any module.
///
/// Source: WeLore, arXiv 2407.11239.
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct LowRankLinear {
    /// Matrix of shape `[d_input, d_output]`. When factored, its base is the down factor
    /// `[d_input, rank]`; see [`LowRank`].
    pub weight: Param<Tensor<2>>,
    /// Vector of size `d_output`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl LowRankLinear {
    /// A factored layer from its two factors.
    ///
    /// # Shapes
    ///
    /// - down: `[d_input, rank]`
    /// - up: `[rank, d_output]`
    /// - bias: `[d_output]`
    ///
    /// # Panics
    ///
    /// Panics if the shapes do not fit together.
    pub fn from_factors(down: Tensor<2>, up: Tensor<2>, bias: Option<Tensor<1>>) -> Self {
        let ([_, rank], [up_rank, d_output]) = (down.dims(), up.dims());
        assert_eq!(rank, up_rank, "the factors disagree about the rank");
        if let Some(bias) = &bias {
            assert_eq!(bias.dims(), [d_output], "the bias does not fit the up factor");
        }
        let dense = Self { weight: Param::from_tensor(down), bias: bias.map(Param::from_tensor) };
        let mut up = Some(Param::from_tensor(up));
        attach_factors(
            dense,
            |_, down| up.take().map(|up| FactorParams { down: down.clone(), up, order: None }),
            Rest::Keep,
        )
    }

    /// Applies the forward pass on the input tensor, in the input's type: parameters of another
    /// one, such as f32 masters of what trains, are cast for the pass.
    ///
    /// # Shapes
    ///
    /// - input: `[..., d_input]`
    /// - output: `[..., d_output]`
    ///
    /// # Panics
    ///
    /// Panics if the last axis of `input` is not `d_input`.
    pub fn forward<const D: usize>(&self, input: Tensor<D>) -> Tensor<D> {
        let d_input = self.d_input();
        assert_eq!(input.dims()[D - 1], d_input, "the last axis of the input must be d_input");
        see_input(self.weight.id, &input);
        see_output(self.weight.id, self.transform(input))
    }

    fn transform<const D: usize>(&self, input: Tensor<D>) -> Tensor<D> {
        let dtype = FloatDType::from(input.dtype());
        let bias = self.bias.as_ref().map(|bias| bias.val().cast(dtype));
        let by = |input, matrix: Tensor<2>| linear(input, matrix.cast(dtype), None);
        if let Some(low_rank) = self.weight.reparameterization::<LowRank>() {
            let down = by(input, self.weight.base());
            let up = low_rank.up.val().cast(dtype);
            if low_rank.order.is_none() {
                return linear(down, up, bias);
            }
            let output = low_rank.ordered(down.clone(), linear(down, up, None));
            return match bias {
                Some(bias) => output + bias.unsqueeze(),
                None => output,
            };
        }
        if let Some(adapter) = self.weight.adapter() {
            // Beside the weight: added to it, the adapter would cost a gradient of its size.
            let adapted = by(by(input.clone(), adapter.a.val()), adapter.b.val());
            let dense = linear(input, self.weight.base().cast(dtype), bias);
            return dense + adapted.mul_scalar(adapter.scale);
        }
        linear(input, self.weight.val().cast(dtype), bias)
    }

    /// The factors `(down [d_input, rank], up [rank, d_output])`, if the layer is factored. In
    /// pivoted storage `up` is `[rank, d_output - rank]`; see [`LowRank`].
    pub fn factors(&self) -> Option<(Tensor<2>, Tensor<2>)> {
        let low_rank = self.weight.reparameterization::<LowRank>()?;
        Some((self.weight.base(), low_rank.up.val()))
    }

    /// The rank, if the layer is factored. Initializes nothing.
    pub fn rank(&self) -> Option<usize> {
        self.weight.reparameterization::<LowRank>()?;
        Some(self.weight.lazy_shape()[1])
    }

    /// The size of the input features. Initializes nothing.
    pub fn d_input(&self) -> usize {
        self.weight.lazy_shape()[0]
    }

    /// The size of the output features. Initializes nothing.
    pub fn d_output(&self) -> usize {
        match self.weight.reparameterization::<LowRank>() {
            Some(low_rank) => low_rank.d_output(),
            None => self.weight.lazy_shape()[1],
        }
    }
}

impl From<Linear> for LowRankLinear {
    /// Takes over the parameters, ids included, so optimizer state stays attached.
    fn from(linear: Linear) -> Self {
        Self { weight: linear.weight, bias: linear.bias }
    }
}

impl From<LowRankLinear> for Linear {
    /// Hands the parameters to a plain `nn::Linear`. A factored weight stays factored and is
    /// materialized in every forward pass; call `materialize()` first to merge it for good.
    fn from(layer: LowRankLinear) -> Self {
        Self { weight: layer.weight, bias: layer.bias }
    }
}

impl ModuleDisplay for LowRankLinear {
    fn custom_settings(&self) -> Option<DisplaySettings> {
        DisplaySettings::new().with_new_line_after_attribute(false).optional()
    }

    fn custom_content(&self, content: Content) -> Option<Content> {
        let content = content
            .add("d_input", &self.d_input())
            .add("d_output", &self.d_output())
            .add("bias", &self.bias.is_some());
        match self.rank() {
            Some(rank) => content.add("rank", &rank).optional(),
            None => content.optional(),
        }
    }
}

/// A parameter of the given shape that allocates nothing until weights are loaded into it.
/// Read before that, it is zero.
pub(crate) fn empty_param(shape: [usize; 2], device: &Device) -> Param<Tensor<2>> {
    Param::uninitialized(
        ParamId::new(),
        move |device, _| Tensor::zeros(shape, device),
        device.clone(),
        true,
        shape.into(),
    )
}
