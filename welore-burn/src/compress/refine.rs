use std::collections::BTreeSet;
use std::sync::Mutex;

use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Tensor, TensorData};

use super::error::CompressError;
use super::options::RefineOptions;
use crate::linalg::Matrix;
use crate::model::{LanguageModel, as_tensor};
use crate::modules::{Change, MatrixName, map_floats};
use crate::progress::Progress;
use crate::workers::Workers;

/// A block to refine.
pub(super) struct Task<'a> {
    /// Number of the block.
    pub index: usize,
    /// Its compressed matrices.
    pub names: &'a BTreeSet<MatrixName>,
    /// Its inputs in the compressed model, by window.
    pub inputs: &'a [Tensor<3>],
    /// Outputs of the dense block in the dense model, by window.
    pub targets: &'a [Tensor<3>],
    /// Any window of text, to prepare what blocks share.
    pub tokens: &'a [u32],
    /// `L` with `L Lᵀ = E[g gᵀ]` of the gradients of its outputs: it weights errors by their effect
    /// on the loss.
    pub metric: Option<Matrix>,
}

/// Trains the parts of the compressed matrices of a block on the squared difference between its
/// outputs and those of the dense model.
pub(super) fn refine<M: LanguageModel>(
    model: M,
    task: &Task<'_>,
    options: &RefineOptions,
    workers: &Workers,
    device: &Device,
    progress: &mut dyn Progress,
) -> Result<M, CompressError> {
    let mut model = train_only(model, |name| task.names.contains(name));
    let mut optimizer = AdamWConfig::new().with_weight_decay(0.0).with_epsilon(1e-12).init();
    let [_, _, width] = task.targets[0].dims();
    let metric = task.metric.as_ref().filter(|metric| metric.rows() == width);
    let plain = device.clone().inner();
    let metric = metric.map(|metric| {
        // AdamW ignores the scale of gradients except for its epsilon, so the scale is normalized.
        let scale = metric.norm() / (width as f64).sqrt();
        let scaled: Vec<f32> = metric.data().iter().map(|x| (x / scale) as f32).collect();
        Tensor::<2>::from_data(TensorData::new(scaled, [width, width]), &plain)
    });
    let count = task.inputs.len();
    let batch = options.batch.clamp(1, count);
    let steps = options.epochs * count.div_ceil(batch);
    let mut step = 0;
    for _ in 0..options.epochs {
        for start in (0..count).step_by(batch) {
            progress.check()?;
            let share: Vec<usize> = (start..(start + batch).min(count)).collect();
            // Every replica has its own autodiff leaves, as in training.
            let forks: Vec<_> =
                share.iter().map(|_| Mutex::new(Some(model.clone().fork(device)))).collect();
            let work = |place: usize| {
                let fork = forks[place].lock().expect("no holder panics").take();
                gradients(
                    &fork.expect("each share is computed once"),
                    task,
                    share[place],
                    metric.as_ref(),
                    device,
                )
            };
            let mut sum = GradientsAccumulator::new();
            workers.spread_in_order(share.len(), work, |_, gradients| {
                sum.accumulate(&model, gradients);
            });
            let fallen = 0.5 * (1.0 + (std::f64::consts::PI * step as f64 / steps as f64).cos());
            let lr = options.lr * (0.1 + 0.9 * fallen);
            model = optimizer.step(lr, model, sum.grads());
            step += 1;
        }
    }
    Ok(model)
}

fn gradients<M: LanguageModel>(
    model: &M,
    task: &Task<'_>,
    block: usize,
    metric: Option<&Tensor<2>>,
    device: &Device,
) -> GradientsParams {
    let (_, pass) = model.begin(as_tensor(task.tokens, device));
    let output = model.block(task.index, Tensor::from_inner(task.inputs[block].clone()), &pass);
    let error = output.clone().inner() - task.targets[block].clone();
    let [batch, positions, width] = error.dims();
    let scale = 2.0 / (batch * positions) as f64;
    let gradient = match metric {
        Some(metric) => {
            let rows = error.reshape([batch * positions, width]);
            let weighted = rows.matmul(metric.clone()).matmul(metric.clone().transpose());
            weighted.reshape([batch, positions, width])
        }
        None => error,
    };
    let backward = (output * Tensor::from_inner(gradient.mul_scalar(scale))).sum().backward();
    GradientsParams::from_grads(backward, model)
}

/// Makes the parts of these matrices trainable, and freezes everything else.
fn train_only<M: Module>(model: M, matrices: impl Fn(&MatrixName) -> bool) -> M {
    map_floats(model, |place, _| Change::Train(place.matrix().is_some_and(|name| matrices(&name))))
}
