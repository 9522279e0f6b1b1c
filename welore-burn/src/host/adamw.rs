use burn::optim::{AdaptiveMomentumState, LearningRate};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::{LEAST_WORK, Numbers, tensor};

/// What a step of AdamW is told (arXiv 1711.05101).
#[derive(Debug, Clone, Copy)]
pub(crate) struct AdamWStep {
    /// How much of the first moment stays.
    pub beta_1: f32,
    /// How much of the second moment stays.
    pub beta_2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// What the learning rate is multiplied by where parameters shrink.
    pub weight_decay: f32,
}

/// One step: the parameter and its moments after it, in one pass, on all threads. The same numbers as those
/// of Burn's AdamW, but for the last bits.
pub(crate) fn adamw<const D: usize>(
    how: AdamWStep,
    rate: LearningRate,
    parameter: &Tensor<D>,
    gradient: &Tensor<D>,
    state: Option<&AdaptiveMomentumState<D>>,
) -> Option<(Tensor<D>, AdaptiveMomentumState<D>)> {
    let (dims, device) = (parameter.dims(), parameter.device());
    if gradient.dims() != dims {
        return None;
    }
    let [numbers, gradients] = [parameter, gradient].map(Numbers::<D>::in_order);
    let (numbers, gradients) = (numbers?, gradients?);
    let moments = match state {
        Some(state) if state.max_moment_2.is_some() => return None,
        Some(state) => {
            let [first, second] = [&state.moment_1, &state.moment_2].map(Numbers::<D>::in_order);
            Some((first?, second?))
        }
        None => None,
    };
    let time = state.map_or(0, |state| state.time) + 1;
    let exponent = i32::try_from(time).unwrap_or(i32::MAX);
    let step = Step {
        how,
        rate: rate as f32,
        kept: (1.0 - rate * f64::from(how.weight_decay)) as f32,
        corrections: [1.0 - how.beta_1.powi(exponent), 1.0 - how.beta_2.powi(exponent)],
    };
    let mut after = numbers.slice().to_vec();
    let [mut first, mut second] = match &moments {
        Some((first, second)) => [first, second].map(|moment| moment.slice().to_vec()),
        None => [vec![0.0; after.len()], vec![0.0; after.len()]],
    };
    after
        .par_chunks_mut(LEAST_WORK)
        .zip(first.par_chunks_mut(LEAST_WORK).zip(second.par_chunks_mut(LEAST_WORK)))
        .zip(gradients.slice().par_chunks(LEAST_WORK))
        .for_each(|((parameters, (first, second)), gradients)| {
            take(step, parameters, first, second, gradients);
        });
    let [after, moment_1, moment_2] =
        [after, first, second].map(|numbers| tensor(numbers, dims, &device));
    Some((after, AdaptiveMomentumState { time, moment_1, moment_2, max_moment_2: None }))
}

#[derive(Clone, Copy)]
struct Step {
    how: AdamWStep,
    rate: f32,
    /// What is left of a parameter that shrinks.
    kept: f32,
    /// What the moments are divided by, which begin at 0.
    corrections: [f32; 2],
}

for_processors! {
    fn take(
        step: Step,
        parameters: &mut [f32],
        first: &mut [f32],
        second: &mut [f32],
        gradients: &[f32],
    ) {
        let AdamWStep { beta_1, beta_2, epsilon, .. } = step.how;
        let [correction_1, correction_2] = step.corrections;
        let moments = first.iter_mut().zip(second);
        for ((parameter, (first, second)), gradient) in parameters.iter_mut().zip(moments).zip(gradients) {
            *first = *first * beta_1 + gradient * (1.0 - beta_1);
            *second = *second * beta_2 + gradient * gradient * (1.0 - beta_2);
            let size = (*second / correction_2).sqrt() + epsilon;
            *parameter = *parameter * step.kept - *first / correction_1 / size * step.rate;
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::optim::{AdamWConfig, Optimizer};
    use burn::tensor::{Device, Distribution, Tolerance};

    use super::*;

    #[test]
    fn steps_are_those_of_burn() {
        let device = Device::flex();
        let random = || {
            let shape = [3, LEAST_WORK / 2 + 5];
            Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), &device)
        };
        let how = AdamWStep { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-8, weight_decay: 0.1 };
        let burns = AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(0.1).build();
        let mut ours = (random(), None);
        let mut theirs = (ours.0.clone(), None);
        for _ in 0..4 {
            let gradient = random();
            let (parameter, state) = adamw(how, 0.01, &ours.0, &gradient, ours.1.as_ref()).unwrap();
            ours = (parameter, Some(state));
            theirs = burns.step(0.01, theirs.0, gradient, theirs.1);
        }
        let tolerance = Tolerance::rel_abs(1e-5, 1e-6);
        ours.0.into_data().assert_approx_eq::<f32>(&theirs.0.into_data(), tolerance);
        let (ours, theirs) = (ours.1.unwrap(), theirs.1.unwrap().momentum);
        assert_eq!(ours.time, theirs.time);
        for (ours, theirs) in [(ours.moment_1, theirs.moment_1), (ours.moment_2, theirs.moment_2)] {
            ours.into_data().assert_approx_eq::<f32>(&theirs.into_data(), tolerance);
        }
    }
}
