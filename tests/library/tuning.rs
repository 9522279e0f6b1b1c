//! Runs that help: the start is evaluated and may be the best, and a run can be extended.

use std::path::{Path, PathBuf};

use serde_json::Value;
use welore_burn::model::Decoder;
use welore_burn::progress::Interrupted;
use welore_burn::train::{
    Evaluated, RUN_FILE, RunFile, RunSource, Schedule, Score, TrainError, TrainOptions, Trainable,
    Training, TrainingEvent,
};

use crate::train::{
    assert_same_parameters, assert_same_steps, compressed, one_worker, options, parameters, place,
    run, start, story,
};

/// Runs that are evaluated every other step.
fn evaluated() -> TrainOptions {
    TrainOptions { eval_every: 2, save_every: 0, ..options() }
}

fn resume(options: TrainOptions, dir: &Path) -> Training<Decoder> {
    Training::open(compressed(), options, place(dir, true)).unwrap()
}

/// Goes on with a run whose evaluations give these scores, until the step `stop_at`. Returns the
/// steps after which it was evaluated.
fn go(training: &mut Training<Decoder>, scores: &[f64], stop_at: Option<usize>) -> Vec<usize> {
    let mut scores = scores.iter();
    let evaluate = |_: &Decoder| {
        let score = Score::Perplexity(*scores.next().expect("a score for each evaluation"));
        Ok(Evaluated { score, watched: Some(10.0 * score.value()) })
    };
    let mut steps = Vec::new();
    let observe = |event| match event {
        TrainingEvent::Step(report) if Some(report.step) == stop_at => Err(Interrupted),
        TrainingEvent::Evaluation { step, .. } => {
            steps.push(step);
            Ok(())
        }
        TrainingEvent::Step(_) => Ok(()),
    };
    let outcome = training.run(&story(32), one_worker(), evaluate, observe);
    assert_eq!(outcome.is_ok(), stop_at.is_none(), "{outcome:?}");
    steps
}

/// The lines of a run's metrics that are evaluations.
fn evaluations(dir: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["perplexity"].is_number()).collect()
}

fn steps_of(lines: &[Value]) -> Vec<u64> {
    lines.iter().map(|line| line["step"].as_u64().unwrap()).collect()
}

#[test]
fn the_start_can_be_the_best_and_is_then_the_result() {
    for trainable in [Trainable::Lrc, Trainable::Full] {
        let scratch = tempfile::tempdir().unwrap();
        let options = TrainOptions { trainable, ..evaluated() };
        let mut training = start(compressed(), options.clone(), scratch.path());
        let before = parameters(training.model());
        assert_eq!(go(&mut training, &[1.5, 3.0, 2.0, 4.0], None), [0, 2, 4, 6]);
        let position = training.position();
        assert_eq!((position.step, position.has_improved()), (6, Some(false)));
        assert_eq!(position.start, position.best);
        assert_eq!((position.watched_start, position.watched_best), (Some(15.0), Some(15.0)));
        assert_ne!(parameters(training.model()), before, "it was trained");
        assert_eq!(parameters(&training.result().unwrap()), before);

        let lines = evaluations(scratch.path());
        let bests: Vec<bool> = lines.iter().map(|line| line["best"] == true).collect();
        assert_eq!((steps_of(&lines), bests), (vec![0, 2, 4, 6], vec![true, false, false, false]));
        assert_eq!(lines[2]["watched_perplexity"], 20.0);
        let best = std::fs::read(scratch.path().join("checkpoints/best.json")).unwrap();
        let best: Value = serde_json::from_slice(&best).unwrap();
        assert_eq!(best["directory"], "step-0");
        // So it is for the same run when it is opened again.
        let again = resume(options, scratch.path());
        assert_eq!(parameters(&again.result().unwrap()), before);
    }
}

#[test]
fn a_run_that_gets_better_says_so() {
    let scratch = tempfile::tempdir().unwrap();
    let mut training = start(compressed(), evaluated(), scratch.path());
    go(&mut training, &[4.0, 3.0, 3.5, 3.5], None);
    let position = training.position();
    assert_eq!(position.has_improved(), Some(true));
    assert_eq!(position.start, Some(Score::Perplexity(4.0)));
    assert_eq!((position.watched_start, position.watched_best), (Some(40.0), Some(30.0)));
}

#[test]
fn the_start_is_evaluated_once_however_often_the_run_is_stopped() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    let mut training = start(compressed(), evaluated(), dir);
    let stopped = |_: &Decoder| Err(TrainError::Interrupted(Interrupted));
    training.run(&story(32), one_worker(), stopped, |_| Ok(())).unwrap_err();
    let mut training = resume(evaluated(), dir);
    assert_eq!((training.position().step, training.position().start), (0, None));
    assert_eq!(go(&mut training, &[4.0], Some(1)), [0]);
    let mut training = resume(evaluated(), dir);
    assert_eq!(go(&mut training, &[3.0], Some(3)), [2]);
    let mut training = resume(evaluated(), dir);
    assert_eq!(go(&mut training, &[2.0, 1.0], None), [4, 6]);
    assert_eq!(steps_of(&evaluations(dir)), [0, 2, 4, 6]);
}

#[test]
fn evaluation_of_the_start_before_a_kill_is_not_there_twice() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    drop(start(compressed(), evaluated(), dir));
    // Killed before its first checkpoint.
    std::fs::write(dir.join("metrics.jsonl"), "{\"step\":0,\"perplexity\":9.0}\n").unwrap();
    go(&mut resume(evaluated(), dir), &[4.0, 3.0, 2.0, 1.0], None);
    assert_eq!(steps_of(&evaluations(dir)), [0, 2, 4, 6]);
}

#[test]
fn a_run_without_an_evaluation_in_its_steps_is_not_judged_by_its_start() {
    let scratch = tempfile::tempdir().unwrap();
    let options = TrainOptions { eval_every: 9, ..options() };
    let mut training = start(compressed(), options, scratch.path());
    run(&mut training, usize::MAX).unwrap();
    assert_eq!((training.position().best, training.position().has_improved()), (None, None));
    assert_same_parameters(&training.result().unwrap(), training.model());
}

#[test]
fn runs_of_earlier_versions_go_on_without_a_score_of_the_start() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    go(&mut start(compressed(), evaluated(), dir), &[4.0, 3.0], Some(3));
    for name in ["last.json", "best.json"] {
        let file = dir.join("checkpoints").join(name);
        let mut pointer: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let position = pointer["position"].as_object_mut().unwrap();
        for field in ["start", "watched_start", "watched_best"] {
            assert!(position.remove(field).is_some());
        }
        std::fs::write(&file, pointer.to_string()).unwrap();
    }
    let mut training = resume(evaluated(), dir);
    assert_eq!(go(&mut training, &[2.0, 1.0], None), [4, 6]);
    assert_eq!(training.position().has_improved(), None);
    assert_eq!(training.position().best, Some(Score::Perplexity(1.0)));
}

#[test]
fn an_extended_run_keeps_its_steps_and_goes_on_with_the_longer_schedule() {
    let (whole_dir, stopped_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let long = TrainOptions { steps: 10, ..options() };
    let first = run(&mut start(compressed(), options(), whole_dir.path()), usize::MAX).unwrap();
    let mut whole = resume(long.clone(), whole_dir.path());
    assert_eq!((whole.position().step, whole.is_done()), (6, false));
    let rest = run(&mut whole, usize::MAX).unwrap();
    assert_eq!(rest.iter().map(|report| report.step).collect::<Vec<_>>(), [7, 8, 9, 10]);
    let schedule = Schedule::from(&long);
    assert!(rest.iter().all(|report| report.lr == schedule.rate(report.step - 1)));
    // What was taken stays, although the longer schedule had other rates there.
    let text = std::fs::read_to_string(whole_dir.path().join("metrics.jsonl")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(steps_of(&lines), (1..=10).collect::<Vec<u64>>());
    for (line, report) in lines.iter().zip(&first) {
        assert_eq!(
            (line["loss"].as_f64(), line["lr"].as_f64()),
            (Some(report.loss), Some(report.lr))
        );
    }

    // An extension that is stopped takes the same steps.
    run(&mut start(compressed(), options(), stopped_dir.path()), usize::MAX).unwrap();
    run(&mut resume(long.clone(), stopped_dir.path()), 2).unwrap_err();
    let mut stopped = resume(long, stopped_dir.path());
    assert_eq!(stopped.position().step, 8);
    assert_same_steps(&rest[2..], &run(&mut stopped, usize::MAX).unwrap());
    assert_same_parameters(whole.model(), stopped.model());
}

/// A run that begins with `RUN/base`, in a directory that has a path through `..`.
fn run_file(dir: &Path) -> (PathBuf, RunFile) {
    let whole = dir.canonicalize().unwrap();
    let (base, data) = (whole.join("base"), RunSource::Text("story.txt".into()));
    let run = RunFile::new(base, "model".into(), data, "text".into(), options());
    (whole.join("..").join(whole.file_name().unwrap()), run)
}

#[test]
fn an_extended_run_is_still_the_same_run() {
    let scratch = tempfile::tempdir().unwrap();
    let (dir, run) = run_file(scratch.path());
    let longer = run.extended(8).unwrap().extended(12).unwrap();
    assert_eq!((longer.options.steps, longer.is_extended()), (12, true));
    assert_eq!(longer.identity(), run.identity());
    let mut other = run.clone();
    other.options.steps = 12;
    assert_ne!(other.identity(), run.identity(), "a run of 12 steps from its beginning");
    for steps in [5, 6] {
        let error = run.extended(steps).unwrap_err();
        assert!(matches!(error, TrainError::Option { name: "steps", .. }), "{error}");
    }
    // What is read and written again has its base in the directory, whatever path that has.
    longer.write(&dir).unwrap();
    let read = RunFile::read(&dir).unwrap();
    assert_eq!((&read.extended_from, read.identity()), (&vec![6, 8], run.identity()));
    read.write(&dir).unwrap();
    let file: Value = serde_json::from_slice(&std::fs::read(dir.join(RUN_FILE)).unwrap()).unwrap();
    assert_eq!(file["base"], "base");
}

#[test]
fn windows_of_evaluations_are_those_of_training_in_earlier_runs_and_part_of_later_ones() {
    let scratch = tempfile::tempdir().unwrap();
    let (_, run) = run_file(scratch.path());
    assert_eq!(run.eval_window(), run.options.seq_len);
    let mut other = run.clone();
    other.eval_seq_len = Some(512);
    assert_eq!(other.eval_window(), 512);
    assert_ne!(other.identity(), run.identity());
    // A text that is only watched decides no step.
    let mut watching = run.clone();
    watching.watch_digest = Some("another".into());
    assert_eq!(watching.identity(), run.identity());
    other.eval_seq_len = Some(1);
    assert!(matches!(other.check(), Err(TrainError::Option { name: "eval_seq_len", .. })));
}
