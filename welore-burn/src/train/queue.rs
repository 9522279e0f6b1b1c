use std::collections::VecDeque;
use std::time::Instant;

use burn::tensor::Tensor;

/// Steps that are queued on the device and whose numbers were not read yet.
///
/// Reading a number waits for all work before it, so a device that gets its work from the host runs
/// idle if every step is read immediately.
#[derive(Debug)]
pub struct StepQueue {
    ahead: usize,
    steps: VecDeque<QueuedStep>,
    since: Instant,
}

/// A step whose numbers are still on the device.
#[derive(Debug)]
pub struct QueuedStep {
    /// Number of the step, from 1.
    pub step: usize,
    /// Learning rate of the step.
    pub lr: f64,
    /// Number of tokens in its rows.
    pub tokens: usize,
    /// Losses that add up to the loss of the step.
    pub losses: Vec<Tensor<1>>,
    /// Global norm of its gradients.
    pub grad_norm: Option<Tensor<1>>,
}

/// The numbers of a step.
#[derive(Debug, Clone, Copy)]
pub struct StepNumbers {
    /// Number of the step, from 1.
    pub step: usize,
    /// Learning rate of the step.
    pub lr: f64,
    /// Mean loss of its predicted tokens.
    pub loss: f64,
    /// Global norm of its gradients.
    pub grad_norm: f64,
    /// Its tokens divided by the time since the previous step was read, or since it began.
    pub tokens_per_second: f64,
}

impl StepQueue {
    /// A queue in which at most `ahead` steps wait.
    pub fn new(ahead: usize) -> Self {
        Self { ahead, steps: VecDeque::new(), since: Instant::now() }
    }

    /// Notes that a step begins.
    pub fn begin(&mut self) {
        if self.steps.is_empty() {
            self.since = Instant::now();
        }
    }

    /// Adds a step whose work is queued on the device.
    pub fn push(&mut self, step: QueuedStep) {
        self.steps.push_back(step);
    }

    /// The numbers of the oldest step, if more than `ahead` steps wait.
    pub fn read_due(&mut self) -> Option<StepNumbers> {
        if self.steps.len() > self.ahead { self.read() } else { None }
    }

    /// The numbers of the oldest step.
    pub fn read(&mut self) -> Option<StepNumbers> {
        let QueuedStep { step, lr, tokens, losses, grad_norm } = self.steps.pop_front()?;
        let number = |x: Tensor<1>| x.into_scalar::<f64>();
        let loss = losses.into_iter().map(number).sum();
        let grad_norm = grad_norm.map_or(0.0, number);
        let tokens_per_second = tokens as f64 / self.since.elapsed().as_secs_f64();
        self.since = Instant::now();
        Some(StepNumbers { step, lr, loss, grad_norm, tokens_per_second })
    }
}
