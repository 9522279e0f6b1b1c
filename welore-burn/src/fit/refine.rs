use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Mutex;

use burn::module::{Module, ModuleMapper, Param, Reparameterization};
use burn::optim::{AdamWConfig, GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Tensor, TensorData};

use super::error::FitError;
use crate::calibrate::as_tensor;
use crate::language::LanguageModel;
use crate::linear::LowRank;
use crate::progress::Progress;
use crate::workers::Workers;

/// How the factors of a block are refined.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RefineOptions {
    /// How often the text is read.
    pub epochs: usize,
    /// Largest learning rate of AdamW; it falls along a half cosine to a tenth.
    pub lr: f64,
    /// Blocks of text in a step.
    pub batch: usize,
}

impl Default for RefineOptions {
    fn default() -> Self {
        Self { epochs: 1, lr: 3e-5, batch: 2 }
    }
}

/// A block to refine.
pub(super) struct Task<'a> {
    /// Number of the block.
    pub index: usize,
    /// Its factored matrices.
    pub names: &'a BTreeSet<String>,
    /// What it sees in the compressed model.
    pub inputs: &'a [Tensor<3>],
    /// What the dense one makes of what it sees in the dense model.
    pub targets: &'a [Tensor<3>],
    /// Any block of text, for what blocks share.
    pub tokens: &'a [u32],
    /// `L` with `L Lᵀ = E[g gᵀ]` of the gradients of its outputs, row-major: errors count as what
    /// they do to the loss.
    pub metric: Option<Vec<f64>>,
}

/// Trains the factors of a block on the squared difference of its outputs to the dense model's.
pub(super) fn refine<M: LanguageModel>(
    model: M,
    task: &Task<'_>,
    options: &RefineOptions,
    workers: &Workers,
    device: &Device,
    progress: &mut dyn Progress,
) -> Result<M, FitError> {
    let mut model = select(model, task.names);
    let mut optimizer = AdamWConfig::new().with_weight_decay(0.0).with_epsilon(1e-12).init();
    let [_, _, width] = task.targets[0].dims();
    let metric = task.metric.as_ref().filter(|metric| metric.len() == width * width);
    let plain = device.clone().inner();
    let metric = metric.map(|metric| {
        // The scale of gradients plays no part in AdamW, but its epsilon should.
        let scale = (metric.iter().map(|x| x * x).sum::<f64>() / width as f64).sqrt();
        let scaled: Vec<f32> = metric.iter().map(|x| (x / scale) as f32).collect();
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
            // Every worker has leaves of its own, as in training.
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
            let mut parts: Vec<Option<GradientsParams>> = share.iter().map(|_| None).collect();
            workers.spread(share.len(), work, |place, gradients| {
                parts[place] = Some(gradients);
                ControlFlow::Continue(())
            });
            let mut sum = GradientsAccumulator::new();
            for gradients in parts.into_iter().flatten() {
                sum.accumulate(&model, gradients);
            }
            let fallen = 0.5 * (1.0 + (std::f64::consts::PI * step as f64 / steps as f64).cos());
            let lr = options.lr * (0.1 + 0.9 * fallen);
            model = optimizer.step(lr, model, sum.grads());
            step += 1;
        }
    }
    Ok(model.no_grad())
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

/// Makes the factors of some matrices trainable, and nothing else.
fn select<M: Module>(model: M, names: &BTreeSet<String>) -> M {
    struct Chosen<'a> {
        names: &'a BTreeSet<String>,
        path: Vec<String>,
    }
    impl ModuleMapper for Chosen<'_> {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.push(name.into());
        }

        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.pop();
        }

        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let path = self.path.join(".");
            let weight = path.strip_suffix(&format!(".{}.up", LowRank::NAME)).unwrap_or(&path);
            let name = weight.strip_suffix(".weight");
            param.set_require_grad(name.is_some_and(|name| self.names.contains(name)))
        }
    }
    model.map(&mut Chosen { names, path: Vec::new() })
}
