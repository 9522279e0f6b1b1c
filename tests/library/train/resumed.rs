//! Runs that stop and go on, and the checkpoints that they go on from.

use std::path::Path;

use serde_json::Value;
use welore_burn::data::TokenRows;
use welore_burn::model::Decoder;
use welore_burn::named::Named;
use welore_burn::progress::Interrupted;
use welore_burn::train::{
    GaloreOptions, RunPlace, Score, TrainError, TrainOptions, Trainable, Training, TrainingEvent,
    check_method, select_trainable,
};

use super::{
    assert_same_number, assert_same_parameters, assert_same_steps, compressed, one_worker, options,
    parameters, place, run, start, story,
};
use crate::is_on_flex;

fn open(dir: &Path, resume: bool) -> Training<Decoder> {
    Training::open(compressed(), options(), place(dir, resume)).unwrap()
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
