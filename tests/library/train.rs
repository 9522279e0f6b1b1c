//! Fine-tuning: exact gradients, frozen parts, and runs that go on where they stopped.

use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, TensorData};
use serde_json::Value;
use welore_burn::data::{TextTokenizer, TokenBlocks, read_text};
use welore_burn::llama::{Llama, load_llama};
use welore_burn::plan::{PlanOptions, WeLore, make_plan};
use welore_burn::progress::Interrupted;
use welore_burn::spectrum::{Selection, measure_module};
use welore_burn::surgery::apply_plan;
use welore_burn::train::{
    ScheduleKind, StepReport, TrainError, TrainSettings, Trainable, Training, TrainingEvent,
    clip_to_norm, global_norm, loss_and_gradients, select_trainable,
};

use crate::{device, fixture};

/// tiny-llama with more than half of its ranks gone.
fn compressed() -> Llama {
    compressed_at(0.6)
}

fn compressed_at(err: f64) -> Llama {
    let model = load_llama(fixture("tiny-llama"), &device().autodiff(), &mut ()).unwrap().model;
    let spectra = measure_module(&model, &Selection::projections(), &mut ()).unwrap();
    let plan = make_plan(&spectra, &WeLore, &PlanOptions::new(err)).unwrap();
    apply_plan(model, &plan, &mut ()).unwrap().0
}

fn story(seq_len: usize) -> TokenBlocks {
    let tokenizer = TextTokenizer::open(fixture("tiny-llama")).unwrap();
    let tokens = tokenizer.encode(&read_text(fixture("story.txt")).unwrap()).unwrap();
    TokenBlocks::new(tokens, seq_len)
}

fn settings() -> TrainSettings {
    TrainSettings {
        seq_len: 32,
        batch_size: 2,
        steps: 6,
        lr: 1e-3,
        schedule: ScheduleKind::Cosine,
        warmup: 2,
        clip: Some(1.0),
        save_every: 2,
        seed: 5,
        ..TrainSettings::default()
    }
}

fn run(training: &mut Training<Llama>, stop_after: usize) -> Result<Vec<StepReport>, TrainError> {
    let mut reports = Vec::new();
    let observe = |event| {
        if let TrainingEvent::Step(report) = event {
            reports.push(report);
        }
        if reports.len() == stop_after { Err(Interrupted) } else { Ok(()) }
    };
    let outcome =
        training.run(&story(32), &device().autodiff(), |_| unreachable!("no evaluation"), observe);
    outcome.map(|()| reports)
}

fn open(dir: &Path, resume: bool) -> Training<Llama> {
    Training::open(compressed(), settings(), dir, resume).unwrap()
}

/// Every parameter by path, with its values.
fn parameters(module: &impl Module) -> Vec<(String, Vec<f32>)> {
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

#[test]
fn loss_in_pieces_has_the_gradients_of_the_whole() {
    let (model, _, _) = select_trainable(compressed(), Trainable::Full).unwrap();
    let device = device().autodiff();
    let ids: Vec<i32> = (0..48).map(|i| (i * 37 + 11) % 384).collect();
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(ids, [2, 24]), &device);

    let logits = model.forward(tokens.clone()).narrow(1, 0, 23).reshape([46, 384]);
    let targets = tokens.clone().narrow(1, 1, 23).reshape([46, 1]);
    let whole = log_softmax(logits, 1).gather(1, targets).mean().neg();
    let expected = whole.clone().into_scalar::<f64>();
    let reference = GradientsParams::from_grads(whole.mul_scalar(0.5).backward(), &model);

    let (loss, gradients) = loss_and_gradients(&model, tokens, 0.5);
    assert!((loss.into_scalar::<f64>() - expected).abs() < 1e-5);
    let (a, b) = (global_norm(&model, &gradients), global_norm(&model, &reference));
    assert!((a / b - 1.0).abs() < 1e-4, "{a} against {b}");
    // The tied embedding gets gradients from both ends, so it tells most.
    let id = model.model.embed_tokens.weight.id;
    let gap = gradients.get::<2>(id).unwrap() - reference.get::<2>(id).unwrap();
    assert!(gap.abs().max().into_scalar::<f64>() < 1e-5 * b);
}

#[test]
fn clipping_scales_all_gradients_to_the_norm() {
    let (model, _, _) = select_trainable(compressed(), Trainable::Lrc).unwrap();
    let tokens = Tensor::<2, Int>::ones([1, 8], &device().autodiff());
    let (_, gradients) = loss_and_gradients(&model, tokens, 1.0);
    let norm = global_norm(&model, &gradients);
    let clipped = clip_to_norm(&model, gradients, norm, norm / 3.0);
    assert!((global_norm(&model, &clipped) / norm - 1.0 / 3.0).abs() < 1e-5);
    let untouched = clip_to_norm(&model, clipped, norm / 3.0, norm);
    assert!((global_norm(&model, &untouched) / norm - 1.0 / 3.0).abs() < 1e-5);
}

#[test]
fn only_the_chosen_part_moves() {
    for trainable in [Trainable::Lrc, Trainable::Nlrc, Trainable::Full] {
        let scratch = tempfile::tempdir().unwrap();
        let settings = TrainSettings { trainable, ..settings() };
        let mut training = Training::open(compressed(), settings, scratch.path(), false).unwrap();
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
                Trainable::Full => true,
            };
            assert_eq!(old != new, expected, "{trainable:?}: {path}");
            moved += if expected { new.len() as u64 } else { 0 };
        }
        assert_eq!(moved, training.count().trainable);
    }
}

#[test]
fn a_model_without_factors_has_no_lrc_to_train() {
    let model = load_llama(fixture("tiny-llama"), &device().autodiff(), &mut ()).unwrap().model;
    let error = select_trainable(model, Trainable::Lrc).unwrap_err();
    assert!(matches!(error, TrainError::NothingTrainable("lrc")));
}

#[test]
fn training_lowers_the_loss() {
    let scratch = tempfile::tempdir().unwrap();
    let settings = TrainSettings { steps: 40, lr: 3e-3, ..settings() };
    let mut training =
        Training::open(compressed_at(0.85), settings, scratch.path(), false).unwrap();
    let losses: Vec<f64> =
        run(&mut training, usize::MAX).unwrap().iter().map(|report| report.loss).collect();
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    assert!(mean(&losses[30..]) < 0.7 * mean(&losses[..5]), "{losses:?}");
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

    for (a, b) in reports[3..].iter().zip(&rest) {
        assert_eq!((a.step, a.loss, a.lr, a.grad_norm), (b.step, b.loss, b.lr, b.grad_norm));
    }
    assert_eq!(parameters(whole.model()), parameters(second.model()));
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
    let error = Training::open(compressed(), settings(), scratch.path(), true).unwrap_err();
    assert!(error.to_string().contains("trainable.bpk"), "{error}");
    let empty = tempfile::tempdir().unwrap();
    let error = Training::open(compressed(), settings(), empty.path(), true).unwrap_err();
    assert!(matches!(error, TrainError::NoCheckpoint { .. }), "{error}");
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_and_names_the_last_good_checkpoint() {
    let scratch = tempfile::tempdir().unwrap();
    let settings = TrainSettings { lr: 1e30, warmup: 0, save_every: 1, clip: None, ..settings() };
    let mut training = Training::open(compressed(), settings, scratch.path(), false).unwrap();
    let error = run(&mut training, usize::MAX).unwrap_err();
    let TrainError::NotFinite { step, checkpoint, .. } = &error else { panic!("{error}") };
    assert!(*step > 1);
    assert!(checkpoint.as_ref().unwrap().ends_with(format!("step-{}", step - 1)), "{error}");
}

#[test]
fn settings_out_of_range_are_refused_by_option() {
    let refused = |change: fn(&mut TrainSettings)| {
        let mut settings = settings();
        change(&mut settings);
        settings.check().unwrap_err().to_string()
    };
    assert!(refused(|s| s.batch_size = 0).starts_with("--batch-size"));
    assert!(refused(|s| s.steps = 0).starts_with("--steps"));
    assert!(refused(|s| s.seq_len = 1).starts_with("--seq-len"));
    assert!(refused(|s| s.lr = f64::NAN).starts_with("--lr"));
    assert!(refused(|s| s.lr_floor = 2.0).starts_with("--lr-floor"));
    assert!(refused(|s| s.clip = Some(0.0)).starts_with("--clip"));
}
