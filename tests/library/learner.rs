//! `burn::train`'s learner on language models: the loss in pieces, and only the chosen parameters
//! change.

use burn::lr_scheduler::constant::ConstantLr;
use burn::module::Module;
use burn::optim::AdamWConfig;
use burn::tensor::Tensor;
use burn::train::metric::{Adaptor, LossInput, LossMetric};
use burn::train::{InferenceStep, Learner, SupervisedTraining, TrainStep};
use welore_burn::data::TokenRows;
use welore_burn::train::{
    Batch, Learnable, MemoryOptions, Trainable, loss_and_gradients, row_loader,
};

use crate::train::{chosen, compressed_by, parameters};
use crate::{device, story_tokens};
use welore_burn::plan::PlanOptions;

fn rows(tokens: usize) -> TokenRows {
    TokenRows::windows(story_tokens().into_iter().take(tokens).collect(), 32)
}

#[test]
fn a_step_has_the_loss_and_the_gradients_of_the_run_that_trains() {
    let model = chosen(compressed_by(&PlanOptions::new(0.6)), Trainable::Lrc);
    let rows = rows(32 * 4);
    let batch: Vec<_> = (0..4).map(|row| rows.nth(row, None)).collect();
    let batch = Batch::new(&batch, &device().autodiff());
    let share = 1.0 / batch.targets() as f64;
    let memory = MemoryOptions { recompute: true, logits_at_once: 4000 };
    let (expected, reference) = loss_and_gradients(&model, &batch, share, memory);
    let learnable = Learnable::new(model).with_memory(memory);
    let output = TrainStep::step(&learnable, batch.clone());
    let loss = expected.into_scalar::<f64>();
    let close = |got: f64| assert!((got / loss - 1.0).abs() < 1e-5, "{got} for {loss}");
    close(output.item.losses.clone().mean().into_scalar());
    assert_eq!(output.grads.len(), reference.len());
    let layers = learnable.model.model.layers.iter();
    let weights = layers.map(|layer| layer.mlp.up_proj.as_ref().unwrap().weight.id);
    let mut compared = 0;
    for id in weights {
        let of = |grads: &burn::optim::GradientsParams| grads.get::<2>(id);
        let (got, expected) = (of(&output.grads), of(&reference));
        assert_eq!(got.is_some(), expected.is_some());
        if let (Some(got), Some(expected)) = (got, expected) {
            let norm = |x: Tensor<2>| x.square().sum().sqrt().into_scalar::<f64>();
            let gap = norm(got - expected.clone()) / norm(expected);
            assert!(gap < 1e-5, "{gap}");
            compared += 1;
        }
    }
    assert!(compared > 0, "no up projection has low rank");

    // In validation every token has its loss, and logits do not exist all at once either.
    let valid = learnable.valid();
    let plain: Vec<_> = (0..4).map(|row| rows.nth(row, None)).collect();
    let losses = InferenceStep::step(&valid, Batch::new(&plain, &device()));
    assert_eq!(losses.losses.dims(), [4 * 31]);
    close(losses.losses.clone().mean().into_scalar());
    let _: LossInput = losses.adapt();
}

#[test]
fn a_supervised_training_lowers_the_loss_and_moves_factors_alone() {
    let model = chosen(compressed_by(&PlanOptions::new(0.8)), Trainable::Lrc);
    let before = parameters(&model);
    let score = |model: &welore_burn::model::Decoder| {
        let rows = rows(32 * 8);
        let rows: Vec<_> = (0..8).map(|row| rows.nth(row, None)).collect();
        let batch = Batch::new(&rows, &device());
        let losses = InferenceStep::step(&Learnable::new(model.clone()), batch).losses;
        losses.mean().into_scalar::<f64>()
    };
    let untrained = score(&model.clone().valid());
    let scratch = tempfile::tempdir().unwrap();
    let learner =
        Learner::new(Learnable::new(model), AdamWConfig::new().init(), ConstantLr::new(3e-3));
    let (train, valid) = (row_loader(rows(32 * 8), 4, Some(1)), row_loader(rows(32 * 8), 4, None));
    let result = SupervisedTraining::new(scratch.path(), train, valid)
        .metrics((LossMetric::new(),))
        .with_application_logger(None)
        .num_epochs(5)
        .launch(learner);
    assert!(result.error.is_none());
    let model = result.model.model;
    let tuned = score(&model);
    assert!(tuned < 0.9 * untrained, "{tuned} for {untrained}");
    for ((path, old), (_, new)) in before.iter().zip(&parameters(&model)) {
        let factor = path.ends_with("low_rank.up")
            || before.iter().any(|(other, _)| *other == format!("{path}.low_rank.up"));
        assert_eq!(old != new, factor, "{path}");
    }
}
