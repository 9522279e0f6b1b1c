//! Fine-tuning: exact gradients, frozen parts, and runs that resume where they stopped.

use std::num::NonZeroUsize;
use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, TensorData, Tolerance};
use serde_json::Value;
use welore_burn::compress::compress_module;
use welore_burn::data::{TokenRow, TokenRows};
use welore_burn::linalg::{Matrix, singular_values};
use welore_burn::model::Decoder;
use welore_burn::named::Named;
use welore_burn::plan::{PlanOptions, WeLore, make_plan};
use welore_burn::progress::Interrupted;
use welore_burn::spectrum::{MeasureOptions, measure_module};
use welore_burn::train::{
    Batch, ExecutionOptions, GaloreOptions, MemoryOptions, RunPlace, ScheduleKind, Score,
    StepReport, TrainError, TrainOptions, Trainable, Training, TrainingEvent, check_method,
    clip_to_norm, global_norm, loss_and_gradients, select_trainable,
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

fn open(dir: &Path, resume: bool) -> Training<Decoder> {
    Training::open(compressed(), options(), place(dir, resume)).unwrap()
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
    [TokenRow { tokens: &tokens[..24], given: 1 }, TokenRow { tokens: &tokens[24..41], given: 9 }]
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
fn a_resumed_run_takes_the_same_steps_as_one_never_stopped() {
    let (whole_dir, stopped_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut whole = open(whole_dir.path(), false);
    let reports = run(&mut whole, usize::MAX).unwrap();

    let mut first = open(stopped_dir.path(), false);
    assert!(matches!(run(&mut first, 3), Err(TrainError::Interrupted(_))));
    let mut second = open(stopped_dir.path(), true);
    assert_eq!(second.position().step, 3);
    let rest = run(&mut second, usize::MAX).unwrap();

    assert_same_steps(&reports[3..], &rest);
    assert_same_parameters(whole.model(), second.model());
    let metrics = std::fs::read_to_string(stopped_dir.path().join("metrics.jsonl")).unwrap();
    let steps: Vec<u64> = metrics
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [1, 2, 3, 4, 5, 6]);
}

#[test]
fn checkpoints_hold_only_what_trains_and_broken_ones_are_told() {
    let scratch = tempfile::tempdir().unwrap();
    let mut training = open(scratch.path(), false);
    run(&mut training, usize::MAX).unwrap();
    let checkpoints = scratch.path().join("checkpoints");
    let trainable = checkpoints.join("step-6/trainable.bpk");
    let size = std::fs::metadata(&trainable).unwrap().len();
    let payload = 4 * training.count().trainable;
    assert!((payload..payload + 20_000).contains(&size), "{size} bytes for {payload}");

    std::fs::write(&trainable, b"half a file").unwrap();
    let error = Training::open(compressed(), options(), place(scratch.path(), true)).unwrap_err();
    assert!(error.to_string().contains("trainable.bpk"), "{error}");
    let error = Training::open(compressed(), options(), place(scratch.path(), false)).unwrap_err();
    assert!(matches!(error, TrainError::RunExists { .. }), "{error}");
    // A run that was killed before its first checkpoint resumes from its start.
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(open(empty.path(), true).position().step, 0);
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_and_names_the_last_good_checkpoint() {
    let scratch = tempfile::tempdir().unwrap();
    let options = TrainOptions { lr: 1e30, warmup: 0, save_every: 1, clip: None, ..options() };
    let mut training = start(compressed(), options, scratch.path());
    let error = run(&mut training, usize::MAX).unwrap_err();
    let TrainError::NotFinite { step, checkpoint, .. } = &error else { panic!("{error}") };
    assert!(*step > 1);
    assert!(checkpoint.as_ref().unwrap().ends_with(format!("step-{}", step - 1)), "{error}");
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
fn every_training_method_resumes_exactly() {
    // GaLore chooses directions every other step; after the stop there are steps of both kinds.
    let (steps, stop) = if is_on_flex() { (6, 3) } else { (3, 1) };
    for &trainable in Trainable::all() {
        let mut options = TrainOptions { trainable, steps, ..options() };
        options.galore = GaloreOptions { rank: 4, refresh: 2, ..options.galore };
        let dirs = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut whole = start(compressed(), options.clone(), dirs.0.path());
        let reports = run(&mut whole, usize::MAX).unwrap();
        let mut first = start(compressed(), options.clone(), dirs.1.path());
        assert!(run(&mut first, stop).is_err());
        let mut second = Training::open(compressed(), options, place(dirs.1.path(), true)).unwrap();
        let rest = run(&mut second, usize::MAX).unwrap();
        assert_same_steps(&reports[stop..], &rest);
        assert_same_parameters(whole.model(), second.model());
    }
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

#[test]
fn run_without_progress_ends_when_patience_does_and_keeps_the_best() {
    let scratch = tempfile::tempdir().unwrap();
    let options =
        TrainOptions { steps: 50, eval_every: 1, patience: Some(2), save_every: 0, ..options() };
    let mut training = start(compressed(), options, scratch.path());
    let mut scores = [6.0, 5.0, 4.0, 4.5, 4.0, 1.0].into_iter();
    let evaluate = |_: &Decoder| Ok(Score::Perplexity(scores.next().unwrap()).into());
    let rows = story(32);
    training.run(&rows, one_worker(), evaluate, |_| Ok(())).unwrap();
    assert!(training.is_out_of_patience());
    assert_eq!(training.position().step, 4);
    assert_eq!(training.position().best, Some(Score::Perplexity(4.0)));
    let pointer = |name: &str| {
        let file = scratch.path().join("checkpoints").join(name);
        serde_json::from_slice::<Value>(&std::fs::read(file).unwrap()).unwrap()
    };
    assert_eq!(pointer("best.json")["directory"], "step-2");
    assert_eq!(pointer("last.json")["directory"], "step-4");
}

/// A run whose first evaluation after the start is the best. `meddle` gets its checkpoints once the
/// next one is made, after which another checkpoint is saved.
fn run_with_best(dir: &Path, meddle: impl Fn(&Path)) -> Result<(), TrainError> {
    let options = TrainOptions { eval_every: 2, save_every: 1, ..options() };
    let mut training = start(compressed(), options, dir);
    let mut evaluations = 0u32;
    let evaluate = |_: &Decoder| {
        evaluations += 1;
        if evaluations == 3 {
            meddle(&dir.join("checkpoints"));
        }
        let score = if evaluations == 1 { 100.0 } else { f64::from(evaluations) };
        Ok(Score::Perplexity(score).into())
    };
    training.run(&story(32), one_worker(), evaluate, |_| Ok(()))
}

#[test]
fn no_checkpoint_is_removed_unless_the_files_that_name_them_can_be_read() {
    type Meddle = fn(&Path);
    type IsMeant = fn(&TrainError) -> bool;
    let cases: [(Meddle, IsMeant); 4] = [
        (
            |best| std::fs::write(best, "{ half").unwrap(),
            |e| matches!(e, TrainError::Broken { .. }),
        ),
        (
            |best| {
                std::fs::remove_file(best).unwrap();
                std::fs::create_dir(best).unwrap();
            },
            |e| matches!(e, TrainError::Broken { .. }),
        ),
        (
            |best| {
                let text = std::fs::read_to_string(best).unwrap();
                std::fs::write(best, text.replace("tiny-llama", "another")).unwrap();
            },
            |e| matches!(e, TrainError::Foreign { .. }),
        ),
        (|best| std::fs::remove_file(best).unwrap(), |e| matches!(e, TrainError::Lost { .. })),
    ];
    for (meddle, is_expected) in cases {
        let scratch = tempfile::tempdir().unwrap();
        let best = scratch.path().join("checkpoints/best.json");
        let error = run_with_best(scratch.path(), |_| meddle(&best)).unwrap_err();
        assert!(is_expected(&error) && error.to_string().contains("best.json"), "{error}");
        let kept = |step: &str| scratch.path().join("checkpoints").join(step).is_dir();
        assert!(kept("step-2"), "the best one is gone after: {error}");
        assert!(kept("step-4"), "the last one is not saved after: {error}");
        // Nor does the run go on.
        let options = TrainOptions { eval_every: 2, save_every: 1, ..options() };
        let again = Training::open(compressed(), options, place(scratch.path(), true)).unwrap_err();
        assert_eq!(again.to_string(), error.to_string());
    }
}

#[test]
fn only_checkpoints_are_removed_among_checkpoints() {
    let scratch = tempfile::tempdir().unwrap();
    let foreign = ["notes.txt", "step-9", "step-1-copy/trainable.bpk", "step-1/notes.txt"];
    run_with_best(scratch.path(), |checkpoints| {
        for file in foreign {
            let path = checkpoints.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "mine").unwrap();
        }
        std::fs::write(checkpoints.join("step-1/optimizer.bpk"), "of a checkpoint").unwrap();
        std::fs::create_dir_all(scratch.path().join("elsewhere")).unwrap();
        std::fs::write(scratch.path().join("elsewhere/trainable.bpk"), "mine").unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink("../elsewhere", checkpoints.join("step-5")).unwrap();
    })
    .unwrap();
    let checkpoints = scratch.path().join("checkpoints");
    for file in foreign.map(|file| checkpoints.join(file)) {
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine", "{}", file.display());
    }
    assert!(scratch.path().join("elsewhere/trainable.bpk").exists());
    assert!(!checkpoints.join("step-1/optimizer.bpk").exists(), "checkpoints are removed");
    assert!(!checkpoints.join("step-4").exists(), "checkpoints are removed");
    assert!(checkpoints.join("step-2").is_dir() && checkpoints.join("step-6").is_dir());
}

/// A function of the model.
fn sum_of(model: &Decoder) -> f32 {
    parameters(model)[3].1.iter().sum()
}

#[test]
fn evaluation_that_a_stop_prevented_is_made_up_for() {
    let options = TrainOptions { eval_every: 2, save_every: 0, ..options() };
    let rows = story(32);
    let go = |training: &mut Training<Decoder>, stop_at: Option<usize>, fail: bool| {
        let evaluate = |model: &Decoder| match fail {
            true => Err(TrainError::Interrupted(Interrupted)),
            // Any function of the model.
            false => Ok(Score::Perplexity(f64::from(sum_of(model))).into()),
        };
        let observe = |event| match event {
            TrainingEvent::Step(report) if Some(report.step) == stop_at => Err(Interrupted),
            _ => Ok(()),
        };
        training.run(&rows, one_worker(), evaluate, observe)
    };
    // Of each line its step, loss and perplexity: one of the two.
    let lines = |dir: &Path| -> Vec<(u64, Option<f64>, Option<f64>)> {
        let text = std::fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines
            .map(|l| (l["step"].as_u64().unwrap(), l["loss"].as_f64(), l["perplexity"].as_f64()))
            .collect()
    };
    let (whole, stopped) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut training = start(compressed(), options.clone(), whole.path());
    go(&mut training, None, false).unwrap();

    // Stopped right before an evaluation, then in one.
    go(&mut start(compressed(), options.clone(), stopped.path()), Some(2), false).unwrap_err();
    let resume =
        || Training::open(compressed(), options.clone(), place(stopped.path(), true)).unwrap();
    go(&mut resume(), None, true).unwrap_err();
    let mut resumed = resume();
    assert_eq!(resumed.position().evaluated, 0);
    go(&mut resumed, None, false).unwrap();
    assert_eq!(lines(stopped.path())[0].0, 0, "the start is evaluated");
    let (got, expected) = (resumed.position(), training.position());
    assert_eq!((got.step, got.evaluated), (expected.step, expected.evaluated));
    let (got, expected) = (lines(stopped.path()), lines(whole.path()));
    assert_eq!(got.len(), expected.len(), "{got:?} {expected:?}");
    for (got, expected) in got.iter().zip(&expected) {
        assert_eq!(got.0, expected.0);
        assert_same_number(got.1, expected.1);
        assert_same_number(got.2, expected.2);
    }
}

#[test]
fn checkpoints_of_another_model_and_too_little_data_are_refused() {
    let scratch = tempfile::tempdir().unwrap();
    run(&mut open(scratch.path(), false), usize::MAX).unwrap();
    let other = RunPlace { origin: "another", ..place(scratch.path(), true) };
    let error = Training::open(compressed(), options(), other).unwrap_err();
    assert!(matches!(error, TrainError::Foreign { .. }), "{error}");
    let mut large = TrainOptions { trainable: Trainable::Lora, ..options() };
    large.lora.rank = 1_000_000_000;
    let error = select_trainable(compressed(), &large).unwrap_err();
    assert!(matches!(&error, TrainError::Option { name: "lora.rank", .. }), "{error}");
    let mut large = TrainOptions { trainable: Trainable::Galore, ..options() };
    large.galore.rank = 64;
    let error = check_method(&compressed(), &large).unwrap_err();
    assert!(matches!(&error, TrainError::Option { name: "galore.rank", .. }), "{error}");
    // A run of an earlier version that began so can be resumed.
    assert!(select_trainable(compressed(), &large).is_ok());
    large.galore.rank = 63;
    assert!(check_method(&compressed(), &large).is_ok());

    let short = TokenRows::windows(vec![1; 32 * 3], 32);
    let options = TrainOptions { batch_size: 4, ..options() };
    let scratch = tempfile::tempdir().unwrap();
    let error = start(compressed(), options, scratch.path()).check_rows(&short).unwrap_err();
    assert!(matches!(error, TrainError::TooFewRows { rows: 3, batch: 4 }), "{error}");
}
