use std::collections::HashSet;
use std::num::NonZeroUsize;

use burn::module::ParamId;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Tensor};

use super::loss::{Batch, MemoryOptions, loss_and_gradients};
use crate::data::TokenRow;
use crate::model::LanguageModel;
use crate::modules::Trained;
use crate::workers::Workers;

/// How a batch is computed on a device. Changes only the order of sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecutionOptions {
    /// Number of threads that each compute a part of the rows. CPU backends run elementwise
    /// operations on one thread, so a second worker keeps the other cores busy; a GPU needs only
    /// one.
    pub workers: NonZeroUsize,
    /// A worker computes rows together up to this many tokens, padding included. It should be large
    /// enough for large matrix products, and small enough for activations to fit in memory.
    pub tokens_at_once: usize,
    /// Number of steps that are queued on the device before the numbers of an earlier one are read,
    /// so that the device never waits for the host. Reading costs nothing on a CPU: 0 is right
    /// there, 1 on a GPU.
    pub ahead: usize,
    /// Number of logits of a worker in memory at once; see [`MemoryOptions`].
    pub logits_at_once: usize,
}

impl Default for ExecutionOptions {
    /// One worker; numbers are read after every step.
    fn default() -> Self {
        let MemoryOptions { logits_at_once, .. } = MemoryOptions::default();
        Self { workers: NonZeroUsize::MIN, tokens_at_once: 1024, ahead: 0, logits_at_once }
    }
}

/// Computes the gradients of batches on a list of devices, which has one device today.
///
/// Every worker has a replica of the model with its own autodiff leaves: simultaneous backward
/// passes over shared leaves deadlock (Burn 0.22.1). On one device the replicas share the values.
/// They persist: after a step they take over the parameters that train; frozen ones are placed
/// once.
#[derive(Debug)]
pub(super) struct Executor<M> {
    workers: Workers,
    replicas: Vec<Replica<M>>,
    /// The parameters that trained when the replicas last followed the model.
    training: HashSet<ParamId>,
    tokens_at_once: usize,
    memory: MemoryOptions,
}

/// The model of a worker, and its device.
#[derive(Debug)]
struct Replica<M> {
    model: M,
    device: Device,
}

/// Losses that add up to the loss of some rows, and the gradients of their sum.
type Part = (Vec<Tensor<1>>, GradientsParams);

impl<M: LanguageModel> Executor<M> {
    /// Assigns the workers to the devices in turn. Starts the threads, which stay.
    pub fn new(model: &M, devices: &[Device], options: ExecutionOptions, recompute: bool) -> Self {
        let ExecutionOptions { workers, tokens_at_once, ahead: _, logits_at_once } = options;
        let memory = MemoryOptions { recompute, logits_at_once };
        let workers = Workers::new(workers);
        let replicas = devices
            .iter()
            .cycle()
            .take(workers.count())
            .map(|device| Replica { model: model.clone().fork(device), device: device.clone() });
        let (replicas, training) = (replicas.collect(), HashSet::new());
        Self { replicas, training, workers, tokens_at_once, memory }
    }

    /// Takes over the parameters of the model that train, and those that trained until now.
    pub fn follow(&mut self, model: &M) {
        let trained = Trained::of(model, &self.training);
        self.training = trained.ids();
        for replica in &mut self.replicas {
            let before = replica.model.clone();
            replica.model = trained.put_into(before, &replica.device);
        }
    }

    /// Loss of a batch, the loss of each token times `share`, and its gradients; see
    /// [`loss_and_gradients`].
    pub fn pass(&self, model: &M, rows: &[TokenRow<'_>], share: f64) -> Part {
        let shares: Vec<_> = rows.chunks(rows.len().div_ceil(self.replicas.len())).collect();
        let work = |index: usize| {
            let Replica { model, device } = &self.replicas[index];
            let parts = groups(shares[index], self.tokens_at_once).map(|rows| {
                let batch = Batch::new(rows, device);
                let (loss, gradients) = loss_and_gradients(model, &batch, share, self.memory);
                (vec![loss], gradients)
            });
            sum(model, parts)
        };
        // Summed in the order of the rows, so that a run can be repeated to the last bit.
        sum(model, self.workers.map(shares.len(), work).into_iter())
    }
}

/// Groups of consecutive rows that are computed together: at most `most` tokens with padding,
/// unless a single row has more.
fn groups<'b, 'r>(
    rows: &'b [TokenRow<'r>],
    most: usize,
) -> impl Iterator<Item = &'b [TokenRow<'r>]> {
    let mut left = rows;
    std::iter::from_fn(move || {
        let mut longest = left.first()?.tokens.len();
        let mut count = 1;
        for row in &left[1..] {
            longest = longest.max(row.tokens.len());
            if longest * (count + 1) > most {
                break;
            }
            count += 1;
        }
        let (group, rest) = left.split_at(count);
        left = rest;
        Some(group)
    })
}

fn sum<M: LanguageModel>(model: &M, parts: impl Iterator<Item = Part>) -> Part {
    let (mut losses, mut sum) = (Vec::new(), GradientsAccumulator::new());
    for (part, gradients) in parts {
        losses.extend(part);
        sum.accumulate(model, gradients);
    }
    (losses, sum.grads())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_go_together_until_their_filled_tokens_are_too_many() {
        let tokens = [0; 100];
        let row = |len| TokenRow { tokens: &tokens[..len], given: 1, skipped: &[] };
        let rows: Vec<_> = [10, 10, 30, 5, 5, 5, 100].map(row).to_vec();
        let lengths: Vec<usize> = groups(&rows, 60).map(<[_]>::len).collect();
        assert_eq!(lengths, [2, 2, 2, 1]);
        assert_eq!(groups(&[], 60).count(), 0);
    }
}
