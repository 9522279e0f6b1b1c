use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::Mutex;

use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Tensor};

use super::loss::{Batch, Memory, loss_and_gradients};
use crate::data::TokenRow;
use crate::language::LanguageModel;
use crate::workers::Workers;

/// How a batch is spread over a device. Changes the order of sums, nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Execution {
    /// Threads that each compute a part of the rows. CPU backends run elementwise operations
    /// on one thread, so a second worker keeps the other cores busy; a GPU is kept busy by
    /// one.
    pub workers: NonZeroUsize,
    /// Rows of a worker are computed together up to this many tokens, filling included.
    /// Enough to make products large, few enough that activations fit in memory.
    pub tokens_at_once: usize,
    /// Steps that are queued on the device before the numbers of an earlier one are read, so
    /// that it never waits for the host. Reading costs nothing on a CPU: 0 there, 1 on a GPU.
    pub ahead: usize,
    /// Logits of a worker that exist at once; see [`Memory`].
    pub logits_at_once: usize,
}

impl Default for Execution {
    /// One worker, numbers read at once.
    fn default() -> Self {
        let Memory { logits_at_once, .. } = Memory::default();
        Self { workers: NonZeroUsize::MIN, tokens_at_once: 1024, ahead: 0, logits_at_once }
    }
}

/// An execution ready to work: its threads are started, and stay.
#[derive(Debug)]
pub(super) struct Executor<'a> {
    workers: Workers,
    tokens_at_once: usize,
    memory: Memory,
    device: &'a Device,
}

/// Losses that add up to that of some rows, and the gradients of the sum.
type Part = (Vec<Tensor<1>>, GradientsParams);

impl<'a> Executor<'a> {
    pub fn new(execution: Execution, recompute: bool, device: &'a Device) -> Self {
        let Execution { workers, tokens_at_once, ahead: _, logits_at_once } = execution;
        let memory = Memory { recompute, logits_at_once };
        Self { workers: Workers::new(workers), tokens_at_once, memory, device }
    }

    /// Loss of a batch, each token times `share`, and its gradients; see
    /// [`loss_and_gradients`].
    pub fn pass<M: LanguageModel>(&self, model: &M, rows: &[TokenRow<'_>], share: f64) -> Part {
        let part = |model: &M, rows: &[TokenRow<'_>]| {
            let parts = self.groups(rows).map(|rows| {
                let batch = Batch::new(rows, self.device);
                let (loss, gradients) = loss_and_gradients(model, &batch, share, self.memory);
                (vec![loss], gradients)
            });
            sum(model, parts)
        };
        let shares: Vec<_> = rows.chunks(rows.len().div_ceil(self.workers.count())).collect();
        if shares.len() <= 1 {
            return part(model, rows);
        }
        // Every worker has leaves of its own: backward passes over shared ones that run at
        // the same time wait for each other forever. The values are shared.
        let forks: Vec<_> =
            (0..shares.len()).map(|_| Mutex::new(Some(model.clone().fork(self.device)))).collect();
        let mut parts: Vec<_> = shares.iter().map(|_| None).collect();
        self.workers.spread(
            shares.len(),
            |index| {
                let fork = forks[index].lock().expect("no holder panics").take();
                part(&fork.expect("each share is computed once"), shares[index])
            },
            |index, result| {
                parts[index] = Some(result);
                ControlFlow::Continue(())
            },
        );
        sum(model, parts.into_iter().flatten())
    }

    /// Rows one after the other that are computed together.
    fn groups<'b, 'r>(&self, rows: &'b [TokenRow<'r>]) -> impl Iterator<Item = &'b [TokenRow<'r>]> {
        let (mut left, most) = (rows, self.tokens_at_once);
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
}

/// Sums in the order of the parts, so that a run can be repeated to the last bit.
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
        let row = |len| TokenRow { tokens: &tokens[..len], given: 1 };
        let rows: Vec<_> = [10, 10, 30, 5, 5, 5, 100].map(row).to_vec();
        let device = Device::default();
        let execution = Execution { tokens_at_once: 60, ..Execution::default() };
        let executor = Executor::new(execution, false, &device);
        let groups: Vec<usize> = executor.groups(&rows).map(<[_]>::len).collect();
        assert_eq!(groups, [2, 2, 2, 1]);
        assert_eq!(executor.groups(&[]).count(), 0);
    }
}
