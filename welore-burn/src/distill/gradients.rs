//! The gradient of the divergence from the dense model.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::activation::softmax;
use burn::tensor::{Device, Tensor};

use super::error::DistillError;
use crate::forms::to_matrix;
use crate::linalg::Matrix;
use crate::model::{LanguageModel, as_tensor, leaf, rows_at_once};
use crate::modules::{Change, MatrixName, map_floats, walk};
use crate::progress::Progress;
use crate::workers::Workers;

/// Logits in memory at once; several tensors have this size.
const LOGITS_AT_ONCE: usize = 1 << 22;

/// The gradients of the parts of some matrices of a model that hold numbers, oriented as in files, in the
/// order of the parts: of the mean KL divergence from the dense model over all tokens of some windows.
/// `model` is on its autodiff device in f32, `dense` on the device within. A matrix that got no
/// gradient, such as that of an expert that saw no token, is left out.
pub(super) fn gradients<M: LanguageModel, D: LanguageModel>(
    model: &M,
    dense: &D,
    names: &BTreeSet<MatrixName>,
    windows: &[Vec<u32>],
    (device, workers): (&Device, &Workers),
    progress: &mut dyn Progress,
) -> Result<BTreeMap<MatrixName, [Matrix; 2]>, DistillError> {
    let model = map_floats(model.clone(), |place, _| {
        Change::Train(place.matrix().is_some_and(|name| names.contains(&name)))
    });
    let tokens: usize = windows.iter().map(Vec::len).sum();
    let share = 1.0 / tokens.max(1) as f64;
    progress.begin("gradients of the divergence", windows.len());
    progress.count_in("windows");
    let mut sum = GradientsAccumulator::new();
    for (number, some) in windows.chunks(workers.count()).enumerate() {
        for place in 0..some.len() {
            progress.step(&format!("window {}", number * workers.count() + place + 1))?;
        }
        // Every replica has its own autodiff leaves, as in training.
        let forks: Vec<_> =
            some.iter().map(|_| Mutex::new(Some(model.clone().fork(device)))).collect();
        let work = |place: usize| {
            let fork = forks[place].lock().expect("no holder panics").take();
            let fork = fork.expect("each window is computed once");
            of_window(&fork, dense, &some[place], share, device)
        };
        workers.spread_in_order(some.len(), work, |_, gradients| {
            sum.accumulate(&model, gradients);
        });
    }
    read(&model, &sum.grads(), names)
}

/// The gradients of `share` times the sum of the divergences at all positions of a window.
fn of_window<M: LanguageModel, D: LanguageModel>(
    model: &M,
    dense: &D,
    tokens: &[u32],
    share: f64,
    device: &Device,
) -> GradientsParams {
    let hidden = model.hidden(as_tensor(tokens, device)).squeeze_dim::<2>(0);
    let wanted = dense.hidden(as_tensor(tokens, &device.clone().inner())).squeeze_dim::<2>(0);
    let plain = hidden.clone().inner();
    let most = rows_at_once(model.vocab_size(), LOGITS_AT_ONCE);
    let mut gradients = Vec::new();
    for start in (0..tokens.len()).step_by(most) {
        let rows = most.min(tokens.len() - start);
        let piece = leaf(plain.clone().narrow(0, start, rows));
        let logits = model.logits(piece.clone().unsqueeze_dim::<3>(0)).squeeze_dim::<2>(0);
        let right = wanted.clone().narrow(0, start, rows).unsqueeze_dim::<3>(0);
        let right = dense.logits(right).squeeze_dim::<2>(0);
        let gap = softmax(logits.clone().inner(), 1) - softmax(right, 1);
        let gap = Tensor::from_inner(gap.mul_scalar(share));
        let mut backward = (logits * gap).sum().backward();
        gradients.push(piece.grad_remove(&mut backward).expect("the piece is a leaf"));
    }
    let gradient = Tensor::from_inner(Tensor::cat(gradients, 0));
    GradientsParams::from_grads((hidden * gradient).sum().backward(), model)
}

/// The gradients of both factors of each matrix.
fn read<M: LanguageModel>(
    model: &M,
    gradients: &GradientsParams,
    names: &BTreeSet<MatrixName>,
) -> Result<BTreeMap<MatrixName, [Matrix; 2]>, DistillError> {
    let (mut of_bases, mut of_others) = (BTreeMap::new(), BTreeMap::new());
    walk(model, |place, param| {
        let (Some(name), Some(param)) = (place.matrix(), param.matrix()) else { return };
        if !names.contains(&name) {
            return;
        }
        if let Some(gradient) = gradients.get::<2>(param.id) {
            let into = if place.part.is_empty() { &mut of_bases } else { &mut of_others };
            into.insert(name, gradient);
        }
    });
    let mut found = BTreeMap::new();
    for (name, base) in of_bases {
        let Some(other) = of_others.remove(&name) else { continue };
        let read = |gradient: Tensor<2>| to_matrix(gradient).map_err(DistillError::of_form(&name));
        found.insert(name.clone(), [read(base)?, read(other)?]);
    }
    Ok(found)
}
