use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::Mutex;

use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Device;

use super::loss::{Batch, loss_and_gradients};
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
}

/// An execution ready to work: its threads are started, and stay.
#[derive(Debug)]
pub(super) struct Executor<'a> {
    workers: Workers,
    tokens_at_once: usize,
    device: &'a Device,
}

/// Loss of some rows, and its gradients.
type Part = (f64, GradientsParams);

impl<'a> Executor<'a> {
    pub fn new(execution: Execution, device: &'a Device) -> Self {
        let Execution { workers, tokens_at_once } = execution;
        Self { workers: Workers::new(workers), tokens_at_once, device }
    }

    /// Loss of a batch, each token times `share`, and its gradients; see
    /// [`loss_and_gradients`].
    pub fn pass<M: LanguageModel>(
        &self,
        model: &M,
        rows: &[TokenRow<'_>],
        share: f64,
        recompute: bool,
    ) -> Part {
        let part = |model: &M, rows: &[TokenRow<'_>]| {
            let parts = self.groups(rows).map(|rows| {
                let batch = Batch::new(rows, self.device);
                let (loss, gradients) = loss_and_gradients(model, &batch, share, recompute);
                (loss.into_scalar::<f64>(), gradients)
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
    let (mut loss, mut sum) = (0.0, GradientsAccumulator::new());
    for (part, gradients) in parts {
        loss += part;
        sum.accumulate(model, gradients);
    }
    (loss, sum.grads())
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
        let execution = Execution { workers: NonZeroUsize::MIN, tokens_at_once: 60 };
        let executor = Executor::new(execution, &device);
        let groups: Vec<usize> = executor.groups(&rows).map(<[_]>::len).collect();
        assert_eq!(groups, [2, 2, 2, 1]);
        assert_eq!(executor.groups(&[]).count(), 0);
    }
}
