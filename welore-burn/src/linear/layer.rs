use burn::config::Config;
use burn::module::{Content, DisplaySettings, Module, ModuleDisplay, Param};
use burn::nn::{Initializer, Linear};
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::forms::{
    FactorParams, Form, FormError, LiveMatrix, LowRank, Rest, apply, attach, attach_factors,
    matrices, order_of_pivots, weight_shape,
};
use crate::linalg::Weighting;
use crate::modules::{see_input, see_output};

/// Configuration to create a [`LowRankLinear`] layer using the [init
/// function](LowRankLinearConfig::init).
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
        assert!((1..=full).contains(&rank), "rank {rank} is not between 1 and {full}");
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

/// Applies a linear transformation, dense, factored or in blocks, to the input tensor.
///
/// Should be created with [`LowRankLinearConfig`], or from an `nn::Linear`.
///
/// Dense: `O = I W + b`. Factored: `O = (I down) up + b`; the product `down · up` is never
/// built, and neither is the product of a LoRA adapter. In pivoted storage (see [`LowRank`]),
/// `I down` already gives some of the outputs. Blocks are multiplied by as they are where they can be
/// (see [`Packed`](crate::forms::Packed)).
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
        Self::of_params(down, up, None, bias)
    }

    /// A factored layer in pivoted storage (see [`LowRank`]), from the weights of `rank` of its
    /// outputs and the coefficients that rebuild the others.
    ///
    /// # Shapes
    ///
    /// - down: `[d_input, rank]`, the weights of the outputs that are pivots
    /// - others: `[rank, d_output - rank]`, the coefficients of the other outputs, in rising order
    /// - pivots: indices of the `rank` outputs that are pivots, in the order of `down`
    /// - bias: `[d_output]`
    ///
    /// # Errors
    ///
    /// [`FormError::Pivots`] if the pivots are not distinct outputs.
    ///
    /// # Panics
    ///
    /// Panics if the shapes do not fit together.
    pub fn from_pivots(
        down: Tensor<2>,
        others: Tensor<2>,
        pivots: &[usize],
        bias: Option<Tensor<1>>,
    ) -> Result<Self, FormError> {
        let ([_, rank], [others_rank, made]) = (down.dims(), others.dims());
        let d_output = rank + made;
        assert_eq!(rank, others_rank, "the factors disagree about the rank");
        assert_eq!(rank, pivots.len(), "there is a pivot a rank");
        if let Some(bias) = &bias {
            assert_eq!(bias.dims(), [d_output], "the bias does not fit the outputs");
        }
        let wrong = || FormError::Pivots { rank, rows: d_output };
        let pivots =
            pivots.iter().map(|pivot| i32::try_from(*pivot)).collect::<Result<Vec<_>, _>>();
        let order = order_of_pivots(&pivots.map_err(|_| wrong())?, d_output).ok_or_else(wrong)?;
        let order = TensorData::new(order, [d_output]);
        let order = Tensor::<1, Int>::from_data(order, &down.device());
        Ok(Self::of_params(down, others, Some(order), bias))
    }

    fn of_params(
        down: Tensor<2>,
        up: Tensor<2>,
        order: Option<Tensor<1, Int>>,
        bias: Option<Tensor<1>>,
    ) -> Self {
        let dense = Self { weight: Param::from_tensor(down), bias: bias.map(Param::from_tensor) };
        let mut up = Some(Param::from_tensor(up));
        attach_factors(
            dense,
            |_, down| {
                let (down, order) = (down.clone(), order.clone());
                up.take().map(|up| FactorParams { down, up, order })
            },
            Rest::Keep,
        )
    }

    /// Applies the forward pass on the input tensor, in the input's type: parameters of another
    /// type, such as f32 master weights, are cast for the pass.
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
        see_output(self.weight.id, apply(&self.weight, self.bias.as_ref(), input))
    }

    /// The layer with its weight in another form, such as [`Form::factors`] at a rank, with the
    /// smallest error in the weights that the form allows; see
    /// [`balanced_factors`](crate::linalg::balanced_factors). The decomposition runs on the CPU in
    /// f64. The parts train, except blocks, and keep the weight's type, device and id. The bias stays as
    /// it is.
    ///
    /// # Errors
    ///
    /// [`FormError::Impossible`] for a rank that the weight does not have,
    /// [`FormError::NotDense`], [`FormError::Layout`], [`FormError::Quantized`],
    /// [`FormError::Blocks`] for entries that blocks cannot hold, and [`FormError::Linalg`] for a
    /// weight that is not finite.
    pub fn to_form(self, form: Form) -> Result<Self, FormError> {
        let weight = self.stored();
        if let Some(problem) = form.problem(weight.shape) {
            return Err(FormError::Impossible(problem));
        }
        let made = form.make(&weight.to_matrix()?, &Weighting::plain())?;
        let mut parts = Some(made.parts);
        attach(self, |_| parts.take().map(|parts| (form, parts)), Rest::Keep)
            .map_err(|(_, error)| error)
    }

    /// The layer with its weight as two factors at a rank: [`to_form`](LowRankLinear::to_form)
    /// with [`Form::factors`].
    ///
    /// # Errors
    ///
    /// Those of [`to_form`](LowRankLinear::to_form).
    pub fn factored(self, rank: usize) -> Result<Self, FormError> {
        self.to_form(Form::factors(rank))
    }

    /// How the weight is stored. Initializes nothing.
    pub fn form(&self) -> Form {
        self.stored().form
    }

    /// The factors `(down [d_input, rank], up [rank, d_output])`, if the layer is factored. In
    /// pivoted storage `up` is `[rank, d_output - rank]`; see [`LowRank`].
    pub fn factors(&self) -> Option<(Tensor<2>, Tensor<2>)> {
        let low_rank = self.weight.reparameterization::<LowRank>()?;
        Some((self.weight.base(), low_rank.up.val()))
    }

    /// The rank, if the layer is factored. Initializes nothing.
    pub fn rank(&self) -> Option<usize> {
        self.form().rank()
    }

    /// The size of the input features. Initializes nothing.
    pub fn d_input(&self) -> usize {
        weight_shape(&self.weight)[0]
    }

    /// The size of the output features. Initializes nothing.
    pub fn d_output(&self) -> usize {
        weight_shape(&self.weight)[1]
    }

    /// The weight and its form.
    fn stored(&self) -> LiveMatrix {
        matrices(self).into_iter().next().expect("the weight of a layer is a matrix in some form")
    }
}

impl From<Linear> for LowRankLinear {
    /// Takes over the parameters including their ids, so optimizer state stays attached.
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
