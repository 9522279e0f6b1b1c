//! What killed and failed work leaves behind: nothing, or work that is finished.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use tempfile::{TempDir, tempdir};
use welore_burn::checkpoint::Checkpoint;
use welore_burn::compress::{CompressError, Compressor};
use welore_burn::files::{FileError, OutputDir};
use welore_burn::plan::{PlanOptions, WeLore, make_plan};
use welore_burn::progress::{Interrupted, Progress};

use super::{make_model, model_in, names_in, replace};
use crate::{compress_into, fixture, tiny_spectra};

/// What a killed process leaves behind: its lock is gone, its files are not.
fn kill(output: OutputDir, home: &Path) {
    let (partial, aside) = (home.join(".out.welore-partial"), home.join("aside"));
    fs::rename(&partial, &aside).unwrap();
    drop(output);
    fs::rename(&aside, &partial).unwrap();
}

#[test]
fn what_a_killed_process_left_is_swept() {
    let home = tempdir().unwrap();
    let target = home.path().join("out");
    for resumable in [false, true] {
        let output = OutputDir::create(&target, true).unwrap();
        make_model(output.path(), "half");
        kill(output, home.path());
        assert_eq!(fs::read_dir(home.path().join(".out.welore-partial")).unwrap().count(), 3);
        let output = match resumable {
            false => OutputDir::create(&target, true).unwrap(),
            true => OutputDir::resumable(&target, true).unwrap(),
        };
        let busy = OutputDir::create(&target, true).unwrap_err();
        assert!(matches!(busy, FileError::OutputBusy { .. }), "{busy}");
        // What could be resumed stays until the work begins, which here it never does.
        let left = fs::read_dir(output.path()).unwrap().count();
        assert_eq!(left, if resumable { 2 } else { 0 });
        drop(output);
        assert_eq!(names_in(home.path()), Vec::<String>::new());
    }
}

#[test]
fn finished_work_outlives_other_output_that_is_not_committed() {
    let home = tempdir().unwrap();
    let (target, partial) = (home.path().join("out"), home.path().join(".out.welore-partial"));
    let journal = "{\"format\":\"welore-partial\",\"version\":1,\"job\":\"other\"}\n\"half\"\n";
    let assert_kept = || {
        let read = |name: &str| fs::read_to_string(partial.join(name)).unwrap();
        assert_eq!([read("model/half"), read("progress.jsonl")], ["hours of work", journal]);
    };
    // The target is free at first, and then replaced.
    for round in ["new", "newer"] {
        fs::create_dir_all(partial.join("model")).unwrap();
        fs::write(partial.join("model/half"), "hours of work").unwrap();
        fs::write(partial.join("progress.jsonl"), journal).unwrap();

        drop(OutputDir::create(&target, true).unwrap());
        assert_kept();
        let output = OutputDir::create(&target, true).unwrap();
        make_model(output.path(), "half");
        let busy = OutputDir::resumable(&target, true).unwrap_err();
        assert!(matches!(busy, FileError::OutputBusy { .. }), "{busy}");
        kill(output, home.path());
        assert_kept();
        let output = OutputDir::create(&target, true).unwrap();
        assert_eq!(fs::read_dir(output.path()).unwrap().count(), 0);
        drop(output);
        assert_eq!(names_in(&partial), ["lock", "model", "progress.jsonl"]);
        assert_kept();

        replace(&target, round).unwrap();
        assert_eq!(model_in(&target), round);
        assert_eq!(names_in(home.path()), ["out"]);
    }
}

/// Where nothing can be exchanged, a killed process may leave what it replaced.
#[test]
fn replaced_models_that_were_left_are_swept_and_nothing_else() {
    let home = tempdir().unwrap();
    let (target, partial) = (home.path().join("out"), home.path().join(".out.welore-partial"));
    let replaced = partial.join("replaced");
    let leave = || {
        fs::create_dir_all(&replaced).unwrap();
        let head = r#"{"format":"welore-partial","version":1,"job":"directory"}"#;
        fs::write(partial.join("progress.jsonl"), format!("{head}\n")).unwrap();
    };
    make_model(&target, "new");
    leave();
    make_model(&replaced, "old");
    replace(&target, "newer").unwrap();
    assert_eq!(model_in(&target), "newer");
    assert_eq!(names_in(home.path()), ["out"]);

    leave();
    fs::write(replaced.join("thesis.txt"), "mine").unwrap();
    let error = replace(&target, "newest").unwrap_err();
    let FileError::Doubled { kept, .. } = &error else { panic!("{error}") };
    assert!(kept.join("thesis.txt").is_file());
    assert_eq!(model_in(&target), "newer");
}

/// Writes to the weights after this many pieces.
struct Meddler<'a> {
    weights: &'a Path,
    after: usize,
}

impl Progress for Meddler<'_> {
    fn begin(&mut self, _what: &str, _total: usize) {}

    fn step(&mut self, _item: &str) -> Result<(), Interrupted> {
        self.after = self.after.saturating_sub(1);
        if self.after == 0 {
            touch(self.weights);
        }
        Ok(())
    }
}

fn touch(path: &Path) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() + Duration::from_secs(10)).unwrap();
}

fn copy_of_model() -> TempDir {
    let dir = tempdir().unwrap();
    for entry in fs::read_dir(fixture("tiny-llama")).unwrap().map(Result::unwrap) {
        fs::write(dir.path().join(entry.file_name()), fs::read(entry.path()).unwrap()).unwrap();
    }
    dir
}

#[test]
fn weights_that_change_are_not_committed_and_finished_work_outlives_the_error() {
    let plan = make_plan(&tiny_spectra(), &WeLore, &PlanOptions::new(0.6)).unwrap();
    let compressor = Compressor::new(&plan);
    let (model, home) = (copy_of_model(), tempdir().unwrap());
    let weights = model.path().join("model.safetensors");
    let (target, partial) = (home.path().join("out"), home.path().join(".out.welore-partial"));
    let fails = |after: usize| -> OutputDir {
        let checkpoint = Checkpoint::open(model.path()).unwrap();
        let output = OutputDir::resumable(&target, false).unwrap();
        if after == 0 {
            touch(&weights);
        }
        let mut meddler = Meddler { weights: &weights, after };
        let error = compressor.directory(&checkpoint, &output, &mut meddler).unwrap_err();
        assert!(matches!(error, CompressError::File(FileError::Changed { .. })), "{error}");
        output
    };
    // Nothing is finished yet.
    let output = fails(0);
    assert_eq!(output.keeps_work(), None);
    drop(output);
    assert_eq!(names_in(home.path()), Vec::<String>::new());

    let output = fails(3);
    let kept = output.keeps_work().expect("some is finished");
    assert_eq!(kept, partial.canonicalize().unwrap());
    drop(output);
    assert!(partial.join("progress.jsonl").is_file() && !target.exists());

    let checkpoint = Checkpoint::open(model.path()).unwrap();
    let output = OutputDir::resumable(&target, false).unwrap();
    compressor.directory(&checkpoint, &output, &mut ()).unwrap();
    output.commit().unwrap();
    let whole = home.path().join("whole");
    compress_into(&whole, &checkpoint, &compressor);
    let read = |dir: &Path| fs::read(dir.join("model.safetensors")).unwrap();
    assert!(read(&target) == read(&whole));
    assert_eq!(names_in(home.path()), ["out", "whole"]);
}
