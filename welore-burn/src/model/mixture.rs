//! Mixtures of experts: MLPs between which a router chooses for each token.

use burn::module::{Module, Param, ParamId};
use burn::tensor::activation::{sigmoid, softmax};
use burn::tensor::{Device, FloatDType, IndexingUpdateOp, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::activation::Activation;
use crate::forms::apply;
use crate::linear::{LowRankLinear, LowRankLinearConfig};
use crate::modules::wants_all_rows;

/// The experts of layers that have some in the place of one MLP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MixtureConfig {
    /// Number of experts in a layer.
    pub experts: usize,
    /// Number of experts that see a token.
    pub chosen: usize,
    /// What the router's logits are turned into.
    pub scoring: Scoring,
    /// Groups of experts of which some are chosen first, if there are groups.
    pub groups: Option<ExpertGroups>,
    /// Whether scores are corrected for the choice alone (DeepSeek-V3).
    pub is_corrected: bool,
    /// What the weights of experts are multiplied by in the end.
    pub scale: f64,
    /// Width of an expert.
    pub width: usize,
    /// Width of the expert that sees all tokens, if there is one.
    pub shared_width: Option<usize>,
    /// Whether that one has a weight for each token (Qwen2-MoE).
    pub has_shared_gate: bool,
    /// Whether the weights of the chosen experts are divided by their sum.
    pub rescales: bool,
    /// Whether each layer has experts, one for each layer; `None` if all have them.
    pub layers: Option<Vec<bool>>,
    /// Whether the router and the matrices of experts have biases (gpt-oss).
    pub biases: bool,
    /// What is between the matrices of an expert, if not `f(gate) · up`.
    pub clamped: Option<ClampedGlu>,
}

/// What the logits of a router are turned into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Scoring {
    /// Probabilities that sum up to 1 over all experts.
    #[default]
    Softmax,
    /// A number between 0 and 1 for each expert (DeepSeek-V3).
    Sigmoid,
}

/// Groups of equally many experts: an expert is chosen only if its group is (DeepSeek).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpertGroups {
    /// Number of groups.
    pub count: usize,
    /// Number of groups that are chosen for a token.
    pub chosen: usize,
    /// Number of experts, the best of a group, whose scores are added up for that of the group.
    pub best: usize,
}

/// `(up + 1) · gate · sigmoid(alpha · gate)`, where `gate` is at most `limit`, and `up` between
/// `-limit` and `limit` (gpt-oss).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ClampedGlu {
    /// What the gate is multiplied by in the sigmoid.
    pub alpha: f64,
    /// The limit of both.
    pub limit: f64,
}

impl ClampedGlu {
    fn forward<const D: usize>(self, gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
        let gate = gate.clamp_max(self.limit);
        let up = up.clamp(-self.limit, self.limit) + 1.0;
        up * gate.clone() * sigmoid(gate.mul_scalar(self.alpha))
    }
}

impl MixtureConfig {
    /// Whether a layer has experts.
    pub(crate) fn is_in(&self, layer: usize) -> bool {
        self.layers.as_ref().is_none_or(|layers| layers.get(layer) == Some(&true))
    }

    /// Number of parameters of the experts of a layer, and of what chooses between them.
    pub(super) fn parameters(&self, hidden_size: usize) -> u128 {
        let size = |size: usize| size as u128;
        let hidden = size(hidden_size);
        let gate = u128::from(self.has_shared_gate);
        let shared = self.shared_width.map_or(0, |width| hidden * (3 * size(width) + gate));
        let correction = if self.is_corrected { size(self.experts) } else { 0 };
        let biases = if self.biases { 2 * size(self.width) + hidden + 1 } else { 0 };
        size(self.experts) * (hidden * (3 * size(self.width) + 1) + biases) + shared + correction
    }

    pub(super) fn routing(&self) -> Routing {
        let Self { chosen, rescales, scoring, groups, scale, .. } = *self;
        Routing { chosen, rescales, scoring, groups, scale }
    }
}

/// What chooses between experts.
#[derive(Module, Debug)]
pub struct Router {
    /// Weight, `[hidden_size, experts]`.
    pub weight: Param<Tensor<2>>,
    /// Bias of the logits, `[experts]`, if there is one.
    pub bias: Option<Param<Tensor<1>>>,
    /// What is added to scores for the choice alone, `[experts]`, if there is something.
    pub e_score_correction_bias: Option<Param<Tensor<1>>>,
}

impl Router {
    /// A router with the weight of a linear layer, and without the names of one.
    pub(super) fn new(linear: LowRankLinear, correction: Option<Param<Tensor<1>>>) -> Self {
        let LowRankLinear { weight, bias } = linear;
        Self { weight, bias, e_score_correction_bias: correction }
    }

    /// Logits of rows, in f32: a rounded one may be another choice.
    fn forward(&self, rows: Tensor<2>) -> Tensor<2> {
        apply(&self.weight, self.bias.as_ref(), rows.cast(FloatDType::F32))
    }
}

/// One of several MLPs: `down_proj(f(gate_proj(x)) · up_proj(x))`.
#[derive(Module, Debug)]
pub struct Expert {
    /// Gate projection, `[hidden_size, width]`.
    pub gate_proj: LowRankLinear,
    /// Up projection, `[hidden_size, width]`.
    pub up_proj: LowRankLinear,
    /// Down projection, `[width, hidden_size]`.
    pub down_proj: LowRankLinear,
    #[module(skip)]
    activation: Activation,
    #[module(skip)]
    clamped: Option<ClampedGlu>,
}

impl Expert {
    /// The fields that are matrices.
    pub(super) const MATRICES: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];

    /// `linear` has the sizes of its matrices to fill in.
    pub(super) fn new(
        linear: impl Fn(usize, usize) -> LowRankLinearConfig,
        [hidden, width]: [usize; 2],
        activation: Activation,
        device: &Device,
    ) -> Self {
        Self {
            gate_proj: linear(hidden, width).init(device),
            up_proj: linear(hidden, width).init(device),
            down_proj: linear(width, hidden).init(device),
            activation,
            clamped: None,
        }
    }

    /// The same with something else between its matrices.
    pub(super) fn with_clamped(self, clamped: Option<ClampedGlu>) -> Self {
        Self { clamped, ..self }
    }

    /// Applies the forward pass on the input tensor.
    ///
    /// # Shapes
    ///
    /// - input and output: `[..., hidden_size]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let (gate, up) = (self.gate_proj.forward(x.clone()), self.up_proj.forward(x));
        self.down_proj.forward(match self.clamped {
            Some(clamped) => clamped.forward(gate, up),
            None => self.activation.forward(gate) * up,
        })
    }

    fn weights(&self) -> [ParamId; 3] {
        [&self.gate_proj, &self.up_proj, &self.down_proj].map(|matrix| matrix.weight.id)
    }
}

/// How experts are chosen and weighed.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Routing {
    /// Number of experts that see a token.
    chosen: usize,
    /// Whether their weights are divided by their sum.
    rescales: bool,
    scoring: Scoring,
    groups: Option<ExpertGroups>,
    /// What their weights are multiplied by in the end.
    scale: f64,
}

/// Which experts see which tokens.
#[derive(Debug)]
struct Routes {
    /// The numbers of the tokens that each expert sees, rising.
    tokens: Vec<Vec<i32>>,
    /// The weight of each expert for each token, `[tokens, experts]`, f32; 0 for those that are not
    /// chosen.
    weights: Tensor<2>,
}

impl Routing {
    /// The sum of the outputs of the experts that are chosen for each row, by their weights. An
    /// expert that is chosen for none computes nothing.
    ///
    /// # Shapes
    ///
    /// - rows and output: `[rows, hidden_size]`
    pub fn mix(self, experts: &[Expert], router: &Router, rows: Tensor<2>) -> Tensor<2> {
        let correction = router.e_score_correction_bias.as_ref().map(|bias| on_host(bias.val()));
        let Routes { tokens, weights } = self.routes(router.forward(rows.clone()), correction);
        let (device, dtype) = (rows.device(), FloatDType::from(rows.dtype()));
        let mut sum = rows.zeros_like();
        for (number, (expert, tokens)) in experts.iter().zip(tokens).enumerate() {
            // Who watches the inputs may want to see those that other experts get.
            let of_all = wants_all_rows(&expert.weights()).then(|| expert.forward(rows.clone()));
            if tokens.is_empty() {
                continue;
            }
            let shape = [tokens.len()];
            let places = Tensor::<1, Int>::from_data(TensorData::new(tokens, shape), &device);
            let output = match of_all {
                Some(output) => output.select(0, places.clone()),
                None => expert.forward(rows.clone().select(0, places.clone())),
            };
            let weight = weights.clone().narrow(1, number, 1).select(0, places.clone());
            let weighted = output * weight.cast(dtype);
            sum = sum.select_assign(0, places, weighted, IndexingUpdateOp::Add);
        }
        sum
    }

    /// The choice is made on the host: it has no gradient, and the number of tokens of each expert is
    /// needed there anyway.
    fn routes(self, logits: Tensor<2>, correction: Option<Vec<f32>>) -> Routes {
        let scores = match self.scoring {
            Scoring::Softmax => softmax(logits, 1),
            Scoring::Sigmoid => sigmoid(logits),
        };
        let [count, experts] = scores.dims();
        let mut values = on_host(scores.clone());
        let mut tokens = vec![Vec::new(); experts];
        let mut is_chosen = vec![0f32; count * experts];
        for (token, row) in values.chunks_mut(experts).enumerate() {
            let added = correction.iter().flatten();
            row.iter_mut().zip(added).for_each(|(score, added)| *score += added);
            if let Some(groups) = self.groups {
                leave_groups_out(row, groups);
            }
            for expert in largest(row, self.chosen) {
                tokens[expert].push(token as i32);
                is_chosen[token * experts + expert] = 1.0;
            }
        }
        let is_chosen = TensorData::new(is_chosen, [count, experts]);
        let weights = Tensor::<2>::from_data(is_chosen, &scores.device()) * scores;
        let weights = match self.rescales {
            // Sigmoids may all be 0.
            true => weights.clone() / (weights.sum_dim(1) + 1e-20),
            false => weights,
        };
        Routes { tokens, weights: weights.mul_scalar(self.scale) }
    }
}

/// The numbers of a tensor, row-major.
fn on_host<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    let x = if x.is_autodiff() { x.inner() } else { x };
    x.cast(FloatDType::F32).into_data().try_into_vec::<f32>().expect("it was cast")
}

/// Makes the experts of all groups but the best ones the last to be chosen.
fn leave_groups_out(scores: &mut [f32], groups: ExpertGroups) {
    let size = scores.len() / groups.count.max(1);
    let score = |group: &[f32]| -> f32 {
        largest(group, groups.best).into_iter().map(|place| group[place]).sum()
    };
    let of_groups: Vec<f32> = scores.chunks(size.max(1)).map(score).collect();
    let chosen = largest(&of_groups, groups.chosen);
    for (number, group) in scores.chunks_mut(size.max(1)).enumerate() {
        if !chosen.contains(&number) {
            group.fill(f32::NEG_INFINITY);
        }
    }
}

/// The places of the largest numbers, of equal ones the first.
fn largest(numbers: &[f32], count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..numbers.len()).collect();
    places.sort_by(|a, b| numbers[*b].total_cmp(&numbers[*a]));
    places.truncate(count);
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(chosen: usize, rescales: bool, logits: &[[f32; 3]]) -> Routes {
        let data = TensorData::new(logits.concat(), [logits.len(), 3]);
        let routing = Routing { chosen, rescales, scale: 1.0, ..Routing::default() };
        routing.routes(Tensor::from_data(data, &Device::default()), None)
    }

    #[test]
    fn the_largest_are_chosen_and_of_equal_ones_the_first() {
        assert_eq!(largest(&[0.1, 0.5, 0.4], 2), [1, 2]);
        assert_eq!(largest(&[0.2, 0.4, 0.4], 1), [1]);
        assert_eq!(largest(&[0.0, 0.0, 0.0], 2), [0, 1]);
    }

    #[test]
    fn each_token_goes_to_as_many_experts_with_the_weights_of_its_probabilities() {
        // Probabilities of 1/7, 2/7 and 4/7, in two orders.
        let [one, two, four] = [1f32, 2.0, 4.0].map(f32::ln);
        for (rescales, total) in [(false, 7.0), (true, 6.0)] {
            let routes = routes(2, rescales, &[[one, two, four], [four, one, two]]);
            assert_eq!(routes.tokens, [vec![1], vec![0], vec![0, 1]]);
            let want = [0.0, 2.0, 4.0, 4.0, 0.0, 2.0].map(|weight| weight / total);
            for (got, want) in routes.weights.into_data().iter::<f64>().zip(want) {
                assert!((got - want).abs() < 1e-6, "{got} for {want}");
            }
        }
    }

    #[test]
    fn an_expert_that_is_chosen_for_no_token_has_no_part() {
        let device = Device::default();
        let linear =
            |d_input, d_output| LowRankLinearConfig::new(d_input, d_output).with_bias(false);
        let expert = || Expert::new(linear, [4, 6], Activation::Silu, &device);
        let experts: Vec<Expert> = (0..3).map(|_| expert()).collect();
        // Its logits are 0, 4 and 0 for rows of ones.
        let weight = TensorData::new([0f32, 1.0, 0.0].repeat(4), [4, 3]);
        let weight = Param::from_tensor(Tensor::<2>::from_data(weight, &device));
        let router = Router { weight, bias: None, e_score_correction_bias: None };
        let rows = Tensor::<2>::ones([2, 4], &device);
        let routing = Routing { chosen: 1, rescales: true, scale: 0.5, ..Routing::default() };
        let mixed = routing.mix(&experts, &router, rows.clone());
        let gap = mixed - experts[1].forward(rows).mul_scalar(0.5);
        let gap = gap.abs().max().into_scalar::<f64>();
        assert!(gap < 1e-6, "{gap}");
    }

    #[test]
    fn only_the_best_groups_are_chosen_from() {
        let of = |best, chosen| {
            let mut scores = [0.9, 0.1, 0.6, 0.5, 0.7, 0.2];
            leave_groups_out(&mut scores, ExpertGroups { count: 3, chosen, best });
            largest(&scores, 2)
        };
        // By their best expert, and by the sum of two.
        assert_eq!(of(1, 1), [0, 1]);
        assert_eq!(of(2, 1), [2, 3]);
        assert_eq!(of(1, 2), [0, 4]);
    }

    #[test]
    fn a_correction_changes_the_choice_and_not_the_weights() {
        let logits = TensorData::new(vec![0f32, 2.0, 1.0], [1, 3]);
        let routing =
            Routing { chosen: 1, scoring: Scoring::Sigmoid, scale: 2.0, ..Routing::default() };
        let logits = Tensor::<2>::from_data(logits, &Device::default());
        let routes = routing.routes(logits, Some(vec![1.0, 0.0, 0.0]));
        assert_eq!(routes.tokens, [vec![0], vec![], vec![]]);
        let weights: Vec<f64> = routes.weights.into_data().iter::<f64>().collect();
        assert!((weights[0] - 1.0).abs() < 1e-6 && weights[1..] == [0.0, 0.0], "{weights:?}");
    }
}
