//! Fine-tuning: exact gradients, and the parts that move.

mod resumed;

use std::num::NonZeroUsize;
use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, TensorData, Tolerance};
use welore_burn::compress::compress_module;
use welore_burn::data::{TokenRow, TokenRows};
use welore_burn::linalg::{Matrix, singular_values};
use welore_burn::model::Decoder;
use welore_burn::plan::{PlanOptions, WeLore, make_plan};
use welore_burn::progress::Interrupted;
use welore_burn::spectrum::{MeasureOptions, measure_module};
use welore_burn::train::{
    Batch, ExecutionOptions, GaloreOptions, MemoryOptions, RunPlace, ScheduleKind, StepReport,
    TrainError, TrainOptions, Trainable, Training, TrainingEvent, clip_to_norm, global_norm,
    loss_and_gradients, select_trainable,
};

use crate::{device, is_on_flex, story_tokens, tiny_llama, tiny_projections};

/// tiny-llama with more than half of its ranks gone.
pub fn compressed() -> Decoder {
    compressed_at(0.6)
}

fn compressed_at(err: f64) -> Decoder {
    compressed_by(&PlanOptions::new(err))
}

pub fn compressed_by(options: &PlanOptions) -> Decoder {
    let model = dense();
    let spectra =
        measure_module(&model, &tiny_projections(), &MeasureOptions::default(), &mut ()).unwrap();
    let plan = make_plan(&spectra, &WeLore, options).unwrap();
    compress_module(model, &plan, &mut ()).unwrap().0
}

/// tiny-llama as it is.
pub fn dense() -> Decoder {
    tiny_llama(&device().autodiff())
}

pub fn story(seq_len: usize) -> TokenRows {
    TokenRows::windows(story_tokens(), seq_len)
}

pub fn options() -> TrainOptions {
    TrainOptions {
        seq_len: 32,
        batch_size: 2,
        steps: 6,
        lr: 1e-3,
        schedule: ScheduleKind::Cosine,
        warmup: 2,
        clip: Some(1.0),
        save_every: 2,
        seed: 5,
        ..TrainOptions::default()
    }
}

pub fn run(
    training: &mut Training<Decoder>,
    stop_after: usize,
) -> Result<Vec<StepReport>, TrainError> {
    let mut reports = Vec::new();
    let observe = |event| {
        if let TrainingEvent::Step(report) = event {
            reports.push(report);
        }
        if reports.len() == stop_after { Err(Interrupted) } else { Ok(()) }
    };
    let evaluate = |_: &Decoder| unreachable!("no evaluation");
    let outcome = training.run(&story(32), one_worker(), evaluate, observe);
    outcome.map(|()| reports)
}

pub fn one_worker() -> ExecutionOptions {
    ExecutionOptions::default()
}

pub fn place(dir: &Path, resume: bool) -> RunPlace<'_> {
    RunPlace { dir, origin: "tiny-llama", resume }
}

pub fn start(model: Decoder, options: TrainOptions, dir: &Path) -> Training<Decoder> {
    Training::open(model, options, place(dir, false)).unwrap()
}

pub fn chosen(model: Decoder, trainable: Trainable) -> Decoder {
    let options = TrainOptions { trainable, ..options() };
    select_trainable(model, &options).unwrap().0
}

/// Every parameter by path, with its values.
pub fn parameters(module: &impl Module) -> Vec<(String, Vec<f32>)> {
    #[derive(Default)]
    struct All {
        path: Vec<String>,
        found: Vec<(String, Vec<f32>)>,
    }
    impl ModuleVisitor for All {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.push(name.into());
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let values = param.base().into_data().iter::<f32>().collect();
            self.found.push((self.path.join("."), values));
        }
    }
    let mut all = All::default();
    module.visit(&mut all);
    all.found
}

/// Two rows of different lengths, the second with a prompt that is given.
pub fn rows(tokens: &[u32]) -> [TokenRow<'_>; 2] {
    [
        TokenRow { tokens: &tokens[..24], given: 1, skipped: &[] },
        TokenRow { tokens: &tokens[24..41], given: 9, skipped: &[] },
    ]
}

pub fn some_tokens() -> Vec<u32> {
    (0..48).map(|i| (i * 37 + 11) % 384).collect()
}

/// Loss and gradients by their definition: all logits, log-softmax, one backward pass.
pub fn by_definition(model: &Decoder, rows: &[TokenRow<'_>], share: f64) -> (f64, GradientsParams) {
    let device = device().autodiff();
    let losses = rows.iter().map(|row| {
        let (len, predicted) = (row.tokens.len(), row.predicted());
        let ids: Vec<i32> = row.tokens.iter().map(|token| *token as i32).collect();
        let tokens = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, len]), &device);
        let logits = model.forward(tokens.clone()).squeeze_dim::<2>(0);
        let logits = logits.narrow(0, row.given - 1, predicted);
        let targets = tokens.narrow(1, row.given, predicted).reshape([predicted, 1]);
        log_softmax(logits, 1).gather(1, targets).sum().neg()
    });
    let loss = Tensor::cat(losses.collect(), 0).sum().mul_scalar(share);
    let value = loss.clone().into_scalar::<f64>();
    (value, GradientsParams::from_grads(loss.backward(), model))
}

#[test]
fn loss_in_pieces_and_recomputed_has_the_gradients_of_the_whole() {
    let tokens = some_tokens();
    let rows = rows(&tokens);
    for trainable in [Trainable::Full, Trainable::Lrc, Trainable::Lora] {
        let model = chosen(compressed(), trainable);
        let (expected, reference) = by_definition(&model, &rows, 0.03);
        let norm = norm(&model, &reference);
        let batch = Batch::new(&rows, &device().autodiff());
        assert_eq!(batch.targets(), 23 + 8);
        for recompute in [false, true] {
            let (loss, gradients) = loss_and_gradients(
                &model,
                &batch,
                0.03,
                MemoryOptions { recompute, logits_at_once: 4000 },
            );
            assert!((loss.into_scalar::<f64>() - expected).abs() < 1e-5);
            assert_eq!(gradients.len(), reference.len(), "{trainable:?}");
            let gap = difference(&model, &gradients, &reference);
            assert!(gap < 1e-5 * norm, "{trainable:?} {recompute}: {gap} of {norm}");
        }
    }
}

pub fn norm(model: &Decoder, gradients: &GradientsParams) -> f64 {
    global_norm(model, gradients).unwrap().into_scalar()
}

/// The norm of the difference of two gradients.
pub fn difference(model: &Decoder, a: &GradientsParams, b: &GradientsParams) -> f64 {
    struct Gap<'a>(&'a GradientsParams, &'a GradientsParams, f64);
    impl ModuleVisitor for Gap<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let Some(a) = self.0.get::<D>(param.id) else { return };
            let gap = a - self.1.get::<D>(param.id).unwrap();
            self.2 += gap.square().sum().into_scalar::<f64>();
        }
    }
    let mut gap = Gap(a, b, 0.0);
    model.visit(&mut gap);
    gap.2.sqrt()
}

#[test]
fn workers_and_groups_change_only_the_order_of_sums() {
    let losses = |workers, tokens_at_once, ahead| {
        let scratch = tempfile::tempdir().unwrap();
        let options =
            TrainOptions { batch_size: 3, accumulate: 2, trainable: Trainable::Full, ..options() };
        let mut training = start(compressed(), options, scratch.path());
        let workers = NonZeroUsize::new(workers).unwrap();
        let execution =
            ExecutionOptions { workers, tokens_at_once, ahead, ..ExecutionOptions::default() };
        let mut losses = Vec::new();
        let observe = |event| {
            if let TrainingEvent::Step(report) = event {
                losses.push(report.loss);
            }
            Ok(())
        };
        let evaluate = |_: &Decoder| unreachable!("no evaluation");
        training.run(&story(32), execution, evaluate, observe).unwrap();
        losses
    };
    let expected = losses(1, 1024, 0);
    for (workers, tokens_at_once, ahead) in [(1, 1, 0), (2, 64, 2), (5, 1024, 0)] {
        let got = losses(workers, tokens_at_once, ahead);
        for (a, b) in got.iter().zip(&expected) {
            assert!((a - b).abs() < 1e-4, "{workers} {tokens_at_once}: {got:?} {expected:?}");
        }
        if repeats_itself() {
            let again = losses(workers, tokens_at_once, 1);
            assert_eq!(got, again, "a run can be repeated exactly, and how far ahead matters not");
        }
    }
}

#[test]
fn clipping_scales_all_gradients_to_the_norm() {
    let model = chosen(compressed(), Trainable::Lrc);
    let tokens = some_tokens();
    let batch = Batch::new(&rows(&tokens), &device().autodiff());
    let (_, gradients) = loss_and_gradients(&model, &batch, 1.0, MemoryOptions::default());
    let whole = norm(&model, &gradients);
    let of = |gradients: &GradientsParams| global_norm(&model, gradients).unwrap();
    let before = of(&gradients);
    let clipped = clip_to_norm(&model, gradients, before, whole / 3.0);
    assert!((norm(&model, &clipped) / whole - 1.0 / 3.0).abs() < 1e-5);
    let before = of(&clipped);
    let untouched = clip_to_norm(&model, clipped, before, whole);
    assert!((norm(&model, &untouched) / whole - 1.0 / 3.0).abs() < 1e-5);
}

#[test]
fn only_the_chosen_part_moves() {
    for trainable in [Trainable::Lrc, Trainable::Nlrc, Trainable::Full, Trainable::Galore] {
        let scratch = tempfile::tempdir().unwrap();
        let mut options = TrainOptions { trainable, ..options() };
        options.galore.rank = 4;
        let mut training = start(compressed(), options, scratch.path());
        let before = parameters(training.model());
        run(&mut training, usize::MAX).unwrap();
        let after = parameters(training.model());
        let mut moved = 0;
        for ((path, old), (_, new)) in before.iter().zip(&after) {
            let factor = path.ends_with("low_rank.up")
                || before.iter().any(|(other, _)| *other == format!("{path}.low_rank.up"));
            let projection = path.contains("_proj.");
            let expected = match trainable {
                Trainable::Lrc => factor,
                Trainable::Nlrc => projection && !factor,
                Trainable::Full | Trainable::Galore => true,
                other => unreachable!("{other:?}"),
            };
            assert_eq!(old != new, expected, "{trainable:?}: {path}");
            moved += if expected { new.len() as u64 } else { 0 };
        }
        assert_eq!(moved, training.count().trainable);
    }
}

#[test]
fn a_model_without_factors_has_no_lrc_to_train() {
    let model = dense();
    let error = select_trainable(model, &options()).unwrap_err();
    assert!(matches!(error, TrainError::NothingTrainable(Trainable::Lrc)));
}

#[test]
fn training_lowers_the_loss() {
    let scratch = tempfile::tempdir().unwrap();
    let options = TrainOptions { steps: 40, lr: 3e-3, ..options() };
    let mut training = start(compressed_at(0.85), options, scratch.path());
    let losses: Vec<f64> =
        run(&mut training, usize::MAX).unwrap().iter().map(|report| report.loss).collect();
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    assert!(mean(&losses[30..]) < 0.7 * mean(&losses[..5]), "{losses:?}");
}

/// Whether the same operations give the same bits here. CubeCL's backends lay out a result by
/// whether an input's memory can be reused, which depends on how far the device has come, and the
/// layout decides in which order a product is summed.
pub fn repeats_itself() -> bool {
    is_on_flex()
}

/// Of two runs that do the same: to the bit where the device repeats itself.
#[track_caller]
fn assert_same_number(one: impl Into<Option<f64>>, other: impl Into<Option<f64>>) {
    let tolerance = if repeats_itself() { 0.0 } else { 1e-5 };
    let (one, other) = (one.into(), other.into());
    assert_eq!(one.is_some(), other.is_some());
    if let (Some(a), Some(b)) = (one, other) {
        assert!((a - b).abs() <= tolerance * a.abs(), "{a} and {b}");
    }
}

#[track_caller]
pub fn assert_same_steps(ones: &[StepReport], others: &[StepReport]) {
    assert_eq!(ones.len(), others.len());
    for (a, b) in ones.iter().zip(others) {
        assert_eq!((a.step, a.lr), (b.step, b.lr));
        assert_same_number(a.loss, b.loss);
        assert_same_number(a.grad_norm, b.grad_norm);
    }
}

pub fn assert_same_parameters(one: &Decoder, other: &Decoder) {
    let (ones, others) = (parameters(one), parameters(other));
    if repeats_itself() {
        assert_eq!(ones, others);
    }
    assert_eq!(ones.len(), others.len());
    for ((path, a), (other, b)) in ones.iter().zip(&others) {
        assert_eq!((path, a.len()), (other, b.len()));
        let gap = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        // Matrices in blocks have empty weights.
        let gap = (gap / a.len().max(1) as f64).sqrt();
        // A step moves a weight by about the learning rate, 1e-3.
        assert!(gap < 1e-6, "{path}: {gap}");
    }
}

#[test]
fn options_out_of_range_are_refused_by_name() {
    let refused = |change: fn(&mut TrainOptions)| {
        let mut options = options();
        change(&mut options);
        match options.check().unwrap_err() {
            TrainError::Option { name, .. } => name,
            other => panic!("{other}"),
        }
    };
    assert_eq!(refused(|o| o.batch_size = 0), "batch_size");
    assert_eq!(refused(|o| o.steps = 0), "steps");
    assert_eq!(refused(|o| o.seq_len = 1), "seq_len");
    assert_eq!(refused(|o| o.lr = f64::NAN), "lr");
    assert_eq!(refused(|o| o.lr = 0.0), "lr");
    assert_eq!(refused(|o| o.lr_floor = 2.0), "lr_floor");
    assert_eq!(refused(|o| o.clip = Some(0.0)), "clip");
    assert_eq!(refused(|o| o.patience = Some(2)), "patience");
    assert_eq!(refused(|o| o.lora.rank = 0), "lora.rank");
    assert_eq!(refused(|o| o.galore.scale = -1.0), "galore.scale");
}

#[test]
fn adapters_start_at_the_model_and_only_they_train() {
    let scratch = tempfile::tempdir().unwrap();
    let options = TrainOptions { trainable: Trainable::Lora, lr: 1e-2, ..options() };
    let mut training = start(compressed(), options, scratch.path());
    let tokens = Tensor::<2, Int>::ones([1, 9], &device());
    let logits = |model: &Decoder| model.valid().forward(tokens.clone());
    let original = logits(&compressed());
    let tolerance = Tolerance::<f32>::rel_abs(1e-3, 1e-3);
    logits(training.model()).into_data().assert_approx_eq(&original.clone().into_data(), tolerance);

    let before = parameters(training.model());
    run(&mut training, usize::MAX).unwrap();
    let after = parameters(training.model());
    for ((path, old), (_, new)) in before.iter().zip(&after) {
        assert_eq!(old != new, path.contains(".lora."), "{path}");
    }
    let adapted = logits(training.model());
    assert!((adapted.clone() - original).abs().max().into_scalar::<f64>() > 0.01);
    let merged = logits(&training.model().clone().materialize());
    adapted.into_data().assert_approx_eq(&merged.into_data(), tolerance);
}

#[test]
fn galore_moves_projections_within_the_leading_directions_of_the_gradient() {
    let scratch = tempfile::tempdir().unwrap();
    let mut options = TrainOptions { trainable: Trainable::Galore, steps: 1, ..options() };
    options.galore = GaloreOptions { rank: 3, ..options.galore };
    let model = dense();
    let weight =
        |model: &Decoder| model.model.layers[0].mlp.up_proj.as_ref().unwrap().weight.val().inner();
    let before = weight(&model);
    let mut training = start(model, options, scratch.path());
    run(&mut training, usize::MAX).unwrap();
    let update = weight(training.model()) - before;
    let [rows, cols] = update.dims();
    let entries = update.into_data().iter::<f64>().collect();
    let values = singular_values(&Matrix::new(rows, cols, entries).unwrap()).unwrap();
    assert!(values[2] > 1e-6 && values[3] < 1e-3 * values[0], "{values:?}");
}
