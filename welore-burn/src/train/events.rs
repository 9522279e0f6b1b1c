use super::score::Score;

/// What one step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// Number of the step, from 1.
    pub step: usize,
    /// Mean cross-entropy of the step's predicted tokens, before the parameters change.
    pub loss: f64,
    /// Learning rate of the step.
    pub lr: f64,
    /// Global norm of the gradients before clipping.
    pub grad_norm: f64,
    /// Tokens of the step's rows per second.
    pub tokens_per_second: f64,
}

/// What [`Training::run`](super::Training::run) reports while it runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TrainingEvent {
    /// A step was taken.
    Step(StepReport),
    /// The model was evaluated.
    Evaluation {
        /// Steps taken; 0 for the model that the run begins with.
        step: usize,
        /// What was measured.
        score: Score,
        /// Perplexity of the text that is only watched, if there is one.
        watched: Option<f64>,
    },
}
