//! `burn::train`'s learner on language models.

use std::sync::Arc;

use burn::data::dataloader::batcher::Batcher;
use burn::data::dataloader::{DataLoader, DataLoaderBuilder};
use burn::data::dataset::{Dataset, DatasetError};
use burn::module::Module;
use burn::tensor::{Device, ExecutionError, Tensor};
use burn::train::metric::{Adaptor, LossInput};
use burn::train::{InferenceStep, ItemLazy, TrainOutput, TrainStep};

use super::loss::{Batch, MemoryOptions, loss_and_gradients, losses};
use crate::data::TokenRows;
use crate::model::LanguageModel;

/// A language model in the form that `burn::train`'s `Learner` takes.
///
/// Loss and gradients are those of [`loss_and_gradients`], so the logits of all tokens never exist
/// at once. Choose beforehand what trains, with [`select_trainable`](super::select_trainable): an
/// optimizer does not change parameters without a gradient.
#[derive(Module, Debug)]
pub struct Learnable<M: Module> {
    /// The model.
    pub model: M,
    #[module(skip)]
    memory: MemoryOptions,
}

impl<M: LanguageModel> Learnable<M> {
    /// Wraps a model.
    pub fn new(model: M) -> Self {
        Self { model, memory: MemoryOptions::default() }
    }

    /// Sets how a step trades memory for time.
    pub fn with_memory(mut self, memory: MemoryOptions) -> Self {
        self.memory = memory;
        self
    }
}

impl<M: LanguageModel> TrainStep for Learnable<M> {
    type Input = Batch;
    type Output = LearnerLoss;

    fn step(&self, batch: Batch) -> TrainOutput<LearnerLoss> {
        let share = 1.0 / batch.targets().max(1) as f64;
        let (loss, grads) = loss_and_gradients(&self.model, &batch, share, self.memory);
        TrainOutput { grads, item: LearnerLoss { losses: loss } }
    }
}

impl<M: LanguageModel> InferenceStep for Learnable<M> {
    type Input = Batch;
    type Output = LearnerLoss;

    fn step(&self, batch: Batch) -> LearnerLoss {
        LearnerLoss { losses: losses(&self.model, &batch, self.memory.logits_at_once) }
    }
}

/// What a step of [`Learnable`] reports to `burn::train`'s metrics.
#[derive(Debug, Clone)]
pub struct LearnerLoss {
    /// In training the mean cross-entropy of the batch, `[1]`; in validation the cross-entropy of
    /// every token, `[targets]`, so that `LossMetric` averages over tokens.
    pub losses: Tensor<1>,
}

impl ItemLazy for LearnerLoss {
    fn sync(self) -> Result<Self, ExecutionError> {
        self.losses.device().flush()?;
        Ok(Self { losses: self.losses.without_autodiff() })
    }
}

impl Adaptor<LossInput> for LearnerLoss {
    fn adapt(&self) -> LossInput {
        LossInput::new(self.losses.clone())
    }
}

/// A data loader of rows of tokens, with `rows_at_once` rows per batch; reshuffled every epoch if
/// there is a `seed`, else in order.
///
/// # Panics
///
/// Panics if `rows_at_once` is 0.
pub fn row_loader(
    rows: TokenRows,
    rows_at_once: usize,
    seed: Option<u64>,
) -> Arc<dyn DataLoader<Batch>> {
    let rows = Arc::new(rows);
    let builder = DataLoaderBuilder::new(Rows(rows.clone())).batch_size(rows_at_once);
    match seed {
        Some(seed) => builder.shuffle(seed),
        None => builder,
    }
    .build(Rows(rows))
}

/// Rows by number: the data set, and the batcher that turns them into batches.
struct Rows(Arc<TokenRows>);

impl Dataset<usize> for Rows {
    fn get(&self, index: usize) -> Result<usize, DatasetError> {
        Ok(index)
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

impl Batcher<usize, Batch> for Rows {
    fn batch(&self, items: Vec<usize>, device: &Device) -> Batch {
        let rows: Vec<_> = items.into_iter().map(|row| self.0.nth(row, None)).collect();
        Batch::new(&rows, device)
    }
}
