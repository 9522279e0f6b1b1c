use burn::module::ParamGroup;
use burn::optim::{AdamW, AdamWConfig, AdamWState, LearningRate, ModuleOptimizer, Optimizer};
use burn::tensor::{Device, Tensor};

use super::restored::RestoredOn;
use crate::host::{self, AdamWStep};
use crate::model::LanguageModel;
use crate::train::TrainOptions;

/// Keeps AdamW from dividing by 0.
pub(super) const EPSILON: f32 = 1e-8;

/// AdamW for all parameters that train.
pub(super) fn adamw<M: LanguageModel>(model: &M, options: &TrainOptions) -> ModuleOptimizer {
    let adamw = InOnePass::new(options.weight_decay as f32);
    let restored = RestoredOn::device_of(model, adamw.clone());
    ModuleOptimizer::from(adamw).with_group(ParamGroup::all(), restored, None)
}

/// Burn's AdamW, whose dozen passes are one on the host.
#[derive(Clone)]
struct InOnePass {
    burns: AdamW,
    step: AdamWStep,
}

impl InOnePass {
    fn new(weight_decay: f32) -> Self {
        let step = AdamWStep { beta_1: 0.9, beta_2: 0.999, epsilon: EPSILON, weight_decay };
        let burns = AdamWConfig::new()
            .with_beta_1(step.beta_1)
            .with_beta_2(step.beta_2)
            .with_epsilon(step.epsilon)
            .with_weight_decay(step.weight_decay)
            .build();
        Self { burns, step }
    }
}

impl Optimizer for InOnePass {
    type State<const D: usize> = AdamWState<D>;

    fn step<const D: usize>(
        &self,
        rate: LearningRate,
        parameter: Tensor<D>,
        gradient: Tensor<D>,
        state: Option<AdamWState<D>>,
    ) -> (Tensor<D>, Option<AdamWState<D>>) {
        let moments = state.as_ref().map(|state| &state.momentum);
        match host::adamw(self.step, rate, &parameter, &gradient, moments) {
            Some((parameter, moments)) => (parameter, Some(AdamWState::new(moments))),
            None => self.burns.step(rate, parameter, gradient, state),
        }
    }

    fn to_device<const D: usize>(state: AdamWState<D>, device: &Device) -> AdamWState<D> {
        AdamW::to_device(state, device)
    }
}
