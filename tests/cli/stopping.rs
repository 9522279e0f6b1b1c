//! Work that ends early: a full disk, Ctrl-C, a killed process.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

pub use crate::support::wait_until;
use crate::support::{Outcome, Sandbox, copy_files, killed};
use crate::training::{SHORT, has_checkpoint};

/// Limits files to a few kilobytes; writing more fails as on a full disk.
const FULL_DISK: &str = "ulimit -f 8";

fn fails_on_full_disk(sandbox: &Sandbox, line: &str, named: &str) {
    let before = sandbox.contents();
    let outcome = Outcome::of(&mut sandbox.command_after(FULL_DISK, line));
    let message = outcome.complaint(1);
    assert!(message.contains(named), "`{line}` does not name `{named}`: {message}");
    assert!(outcome.stderr.contains("not enough space"), "{}", outcome.stderr);
    assert_eq!(sandbox.contents(), before, "`{line}` left something behind");
}

#[test]
fn full_disk_leaves_nothing_half_written() {
    let sandbox = Sandbox::new();
    sandbox.gives("compress model --err 0.5 -o low");
    fails_on_full_disk(&sandbox, "compress model --err 0.5 -o out", "out");
    fails_on_full_disk(&sandbox, "export low --dense -o out", "out");
    fails_on_full_disk(&sandbox, "export low --gguf out.gguf", "out.gguf");
    fails_on_full_disk(&sandbox, "analyze model -o spectra.json", "spectra.json");
    fails_on_full_disk(&sandbox, "plan model --err 0.5 -o plan.json", "plan.json");
    fails_on_full_disk(&sandbox, &SHORT.replace("-o run", "-o new/run"), "new/run");
}

#[test]
fn full_disk_leaves_what_was_to_be_replaced() {
    let sandbox = Sandbox::new();
    sandbox.gives("compress model --err 0.5 -o low");
    sandbox.gives("analyze model -o spectra.json");
    fails_on_full_disk(&sandbox, "compress model --err 0.3 -o low --force", "low");
    fails_on_full_disk(&sandbox, "analyze model -o spectra.json", "spectra.json");
}

/// Starts a command and presses Ctrl-C once `ready` says so.
pub fn interrupt(mut command: Command, ready: impl Fn(&mut Child)) -> Outcome {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    ready(&mut child);
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    child.wait_with_output().unwrap().into()
}

pub fn assert_interrupted(outcome: &Outcome) {
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let errors = outcome.stderr.lines().filter(|line| line.starts_with("error: "));
    assert!(errors.eq(["error: interrupted"]), "{}", outcome.stderr);
}

/// Repeats a layer of the model, so that work on it takes long enough to be stopped.
pub fn deepen(sandbox: &Sandbox, layers: usize) {
    sandbox.edit_tensors("model/model.safetensors", |tensors| {
        let first: Vec<_> = tensors
            .iter()
            .filter_map(|(name, tensor)| {
                Some((name.strip_prefix("model.layers.0.")?.to_string(), tensor.clone()))
            })
            .collect();
        for layer in 4..layers {
            for (rest, tensor) in &first {
                tensors.insert(format!("model.layers.{layer}.{rest}"), tensor.clone());
            }
        }
    });
    sandbox.edit_json("model/config.json", |config| config["num_hidden_layers"] = json!(layers));
}

/// Makes all tensors of the model differ, so that none is known from another.
fn diversify(sandbox: &Sandbox) {
    sandbox.edit_tensors("model/model.safetensors", |tensors| {
        for (index, tensor) in tensors.values_mut().enumerate() {
            // The mantissas of two bf16 numbers.
            tensor.data[0] ^= (index & 0x7f) as u8;
            tensor.data[2] ^= ((index >> 7) & 0x7f) as u8;
        }
    });
}

/// The unfinished output, beside the place of the finished one.
pub const PARTIAL: &str = ".out.welore-partial";

/// The number of matrices that are factored, according to the journal of `out`.
pub fn factored(sandbox: &Sandbox) -> usize {
    let journal = fs::read_to_string(sandbox.path(PARTIAL).join("progress.jsonl"));
    journal.unwrap_or_default().matches("\"relative_error\":0.").count()
}

/// A sandbox with a deep model, compressed into `whole` like [`COMPRESS`] without interruption.
fn with_whole() -> Sandbox {
    let sandbox = Sandbox::new();
    deepen(&sandbox, 200);
    sandbox.gives("compress model --err 0.5 --shard-size 5MB -o whole");
    sandbox
}

const COMPRESS: &str = "compress model --err 0.5 --shard-size 5MB -o out";

/// Runs [`COMPRESS`] and kills it when this many matrices are factored.
fn kill_at(sandbox: &Sandbox, matrices: usize) {
    kill_line_at(sandbox, COMPRESS, matrices);
}

/// Runs a command that writes `out`, and kills it when this many matrices are factored.
pub fn kill_line_at(sandbox: &Sandbox, line: &str, matrices: usize) {
    kill_when(sandbox, line, "the work", || factored(sandbox) >= matrices);
}

/// Runs a command that writes `out`, and kills it when `inside` says so. If it is done before the
/// kill, it is tried again, from what was there before.
pub fn kill_when(sandbox: &Sandbox, line: &str, what: &str, inside: impl Fn() -> bool) {
    let [partial, out] = [PARTIAL, "out"].map(|name| sandbox.path(name));
    let before = tempfile::tempdir().unwrap();
    let was_there = partial.exists();
    if was_there {
        copy_files(&partial.join("model"), &before.path().join("model"));
        fs::copy(partial.join("progress.jsonl"), before.path().join("progress.jsonl")).unwrap();
    }
    for _ in 0..10 {
        if killed(sandbox.command(line), what, &inside) && !out.exists() && inside() {
            return;
        }
        for left in [&out, &partial].into_iter().filter(|path| path.exists()) {
            fs::remove_dir_all(left).unwrap();
        }
        if was_there {
            copy_files(&before.path().join("model"), &partial.join("model"));
            fs::copy(before.path().join("progress.jsonl"), partial.join("progress.jsonl")).unwrap();
        }
    }
    panic!("`{line}` was never killed in time");
}

/// The files of a directory, by name.
pub fn files_of(sandbox: &Sandbox, dir: &str) -> BTreeMap<OsString, Vec<u8>> {
    let entries = fs::read_dir(sandbox.path(dir)).unwrap().map(Result::unwrap);
    entries.map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap())).collect()
}

/// Checks that `out` is byte for byte what an uninterrupted command writes, with nothing left
/// beside it.
pub fn assert_whole(sandbox: &Sandbox) {
    let [out, whole] = ["out", "whole"].map(|dir| files_of(sandbox, dir));
    assert!(out.len() > 4, "there are shards: {:?}", out.keys());
    assert!(out.keys().eq(whole.keys()), "{:?}", out.keys());
    for (name, content) in &out {
        assert!(*content == whole[name], "{name:?} differs");
    }
    assert!(!sandbox.path(PARTIAL).exists());
}

#[test]
fn compression_that_is_interrupted_while_it_measures_leaves_nothing_behind() {
    let sandbox = Sandbox::new();
    deepen(&sandbox, 200);
    let before = sandbox.contents();
    let outcome = interrupt(sandbox.command(&format!("{COMPRESS} --no-cache")), |_| {
        wait_until("the work", || sandbox.path(PARTIAL).exists());
    });
    assert_interrupted(&outcome);
    assert_eq!(outcome.stdout, "");
    assert_eq!(sandbox.contents(), before);
}

#[test]
fn dry_run_that_is_interrupted_while_it_tries_leaves_nothing_behind() {
    let sandbox = Sandbox::new();
    deepen(&sandbox, 200);
    let place = tempfile::tempdir().unwrap();
    let entries = || fs::read_dir(place.path()).unwrap().count();
    let has_made = |dir: &str, start: &str| {
        let scratches = fs::read_dir(place.path()).unwrap().flatten();
        let dirs = scratches.filter_map(|scratch| fs::read_dir(scratch.path().join(dir)).ok());
        dirs.flatten().flatten().any(|made| made.file_name().to_string_lossy().starts_with(start))
    };
    let (train, before) = (SHORT.replace("--err 0.8", "--trainable full"), sandbox.contents());
    // Both files are made after the model is loaded, right before what is timed.
    for (line, dir, made) in [
        (train.as_str(), "run", "metrics.jsonl"),
        ("calibrate model --text story.txt -o seen", "", ".calibration."),
    ] {
        let mut command = sandbox.command(&format!("{line} --dry-run --json"));
        command.env("TMPDIR", place.path());
        let outcome = interrupt(command, |_| wait_until("the work", || has_made(dir, made)));
        assert_interrupted(&outcome);
        assert_eq!(outcome.stdout, "");
        assert_eq!(entries(), 0, "{line}");
        assert_eq!(sandbox.contents(), before, "{line}");
    }
}

#[test]
fn interrupted_analysis_goes_on_where_it_stopped() {
    let sandbox = Sandbox::new();
    deepen(&sandbox, 100);
    diversify(&sandbox);
    let line = "analyze model -o spectra.json --jobs 1";
    let outcome = interrupt(sandbox.command(line), |_| {
        wait_until("a spectrum", || !sandbox.cached().is_empty());
    });
    assert_interrupted(&outcome);
    assert!(outcome.stderr.contains("run the same command again"), "{}", outcome.stderr);
    let known = sandbox.cached().len();
    assert!((1..700).contains(&known), "{known} matrices were measured");
    let again = sandbox.gives(line).stderr;
    assert!(again.contains(&format!("{known} of 700 matrices w")), "{again}");
    let spectra = sandbox.read("spectra.json");
    sandbox.gives(&format!("{line} --no-cache"));
    assert!(sandbox.read("spectra.json") == spectra);
}

#[test]
fn interrupted_compression_goes_on_where_it_stopped() {
    let sandbox = with_whole();
    let before = sandbox.contents();
    let outcome = interrupt(sandbox.command(COMPRESS), |_| {
        wait_until("the work", || factored(&sandbox) >= 3);
    });
    assert_interrupted(&outcome);
    assert_eq!(outcome.stdout, "");
    assert!(outcome.stderr.contains("the same command continues from them"), "{}", outcome.stderr);
    let partial = sandbox.path(PARTIAL);
    let mut now = sandbox.contents();
    now.retain(|path, _| !path.starts_with(&partial));
    assert_eq!(now, before, "only the hidden directory is left");

    let again = sandbox.gives(COMPRESS);
    assert!(again.stderr.contains("matrices were compressed before"), "{}", again.stderr);
    assert_whole(&sandbox);
}

#[test]
fn killed_compression_goes_on_where_it_stopped_and_trusts_no_damaged_file() {
    let sandbox = with_whole();
    kill_at(&sandbox, 3);
    // As after a power cut: data that never reached the disk, and a truncated line.
    let model = sandbox.path(PARTIAL).join("model");
    for entry in fs::read_dir(model).unwrap().take(2) {
        let path = entry.unwrap().path();
        let mut content = fs::read(&path).unwrap();
        let half = content.len() / 2;
        content[..half].fill(0);
        fs::write(&path, content).unwrap();
    }
    let journal = sandbox.path(PARTIAL).join("progress.jsonl");
    let text = fs::read(&journal).unwrap();
    fs::write(&journal, &text[..text.len() - 7]).unwrap();
    kill_at(&sandbox, factored(&sandbox) + 20);
    sandbox.gives(COMPRESS);
    assert_whole(&sandbox);
}

#[cfg(target_os = "linux")]
#[test]
fn weights_that_are_truncated_while_they_are_read_are_an_error() {
    let sandbox = Sandbox::new();
    deepen(&sandbox, 200);
    let weights = sandbox.path("model/model.safetensors");
    let weights = fs::File::options().write(true).open(weights).unwrap();
    let mut command = sandbox.command(COMPRESS);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the work", || factored(&sandbox) >= 3);
    weights.set_len(4096).unwrap();
    let outcome: Outcome = child.wait_with_output().unwrap().into();
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stderr.contains("error: "), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("while it was read"), "{}", outcome.stderr);
    assert!(!sandbox.path("out").exists());
}

#[test]
fn refused_commands_keep_the_finished_work_of_a_killed_one() {
    let sandbox = with_whole();
    kill_at(&sandbox, 3);
    let known = factored(&sandbox);
    let message = sandbox.run("export model --dense -o out").complaint(2);
    assert!(message.contains("dense already"), "{message}");
    assert_eq!(factored(&sandbox), known);
    let again = sandbox.gives(COMPRESS);
    assert!(again.stderr.contains("matrices were compressed before"), "{}", again.stderr);
    assert_whole(&sandbox);
}

#[test]
fn inputs_are_not_taken_from_what_a_killed_command_left() {
    let sandbox = Sandbox::new();
    let head = r#"{"format":"welore-partial","version":1,"job":"other"}"#;
    let left = format!("{PARTIAL}/progress.jsonl");
    fs::create_dir_all(sandbox.path(PARTIAL).join("model")).unwrap();
    sandbox.write(&left, format!("{head}\n"));
    for line in [
        format!("compress model --err 0.5 --calibrate {left} -o out"),
        format!("compress model --err 0.5 --calibrate {left} -o out --dry-run"),
        format!("calibrate model --text {left} -o out"),
    ] {
        let outcome = sandbox.run(&line);
        assert_eq!(outcome.code, Some(2), "{line}: {outcome:?}");
        assert!(outcome.stderr.contains("is left of an unfinished out"), "{line}: {outcome:?}");
        assert!(sandbox.path(&left).is_file(), "{line}");
    }
}

#[test]
fn other_work_on_the_same_output_begins_anew() {
    let sandbox = with_whole();
    for (line, other) in [
        ("compress model --err 0.3 -o out", "compress model --err 0.3 -o fresh"),
        ("compress model --err 0.5 -o out --force", "compress model --err 0.5 -o fresh --force"),
    ] {
        if !sandbox.path("out").exists() {
            kill_at(&sandbox, 3);
        }
        let outcome = sandbox.gives(line);
        assert!(!outcome.stderr.contains("compressed before"), "{}", outcome.stderr);
        sandbox.gives(other);
        assert!(files_of(&sandbox, "out") == files_of(&sandbox, "fresh"), "{line}");
        assert!(!sandbox.path(PARTIAL).exists());
    }
}

#[test]
fn unfinished_output_survives_a_refusal_and_another_process() {
    let sandbox = with_whole();
    kill_at(&sandbox, 3);
    sandbox.refuses("compress model --err 0.999 -o out", "ERR 0.999");
    let lock = fs::File::options().append(true).open(sandbox.path(PARTIAL).join("lock")).unwrap();
    lock.lock().unwrap();
    sandbox.refuses(COMPRESS, "out: another process");
    drop(lock);
    sandbox.gives(COMPRESS);
    assert_whole(&sandbox);
}

#[test]
fn what_only_has_the_name_of_an_unfinished_output_stays() {
    let make: [fn(&Path); 3] = [
        |partial| fs::write(partial, "mine").unwrap(),
        |partial| {
            fs::create_dir(partial).unwrap();
            fs::write(partial.join("thesis.txt"), "years").unwrap();
        },
        |partial| {
            fs::create_dir_all(partial.join("model")).unwrap();
            fs::write(partial.join("model/weights"), "mine").unwrap();
        },
    ];
    for make in make {
        let sandbox = Sandbox::new();
        make(&sandbox.path(PARTIAL));
        let before = sandbox.contents();
        let outcome = sandbox.run("compress model --err 0.5 -o out");
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        assert!(outcome.stderr.contains("is in the way"), "{}", outcome.stderr);
        assert_eq!(sandbox.contents(), before);
    }
}

#[test]
fn interrupted_generation_is_not_a_success() {
    let sandbox = Sandbox::new();
    sandbox.edit_json("model/config.json", |config| {
        config["max_position_embeddings"] = json!(1_000_000);
        config["eos_token_id"] = Value::Null;
    });
    let line = "generate model --prompt Mia --max-new-tokens 100000";
    let outcome = interrupt(sandbox.command(line), |child| {
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
    });
    assert_interrupted(&outcome);
}

#[test]
fn interrupted_training_ends_after_its_step_and_can_go_on() {
    let sandbox = Sandbox::new();
    let line = SHORT.replace("--steps 8", "--steps 100000");
    let outcome = interrupt(sandbox.command(&line), |_| {
        wait_until("a checkpoint", || has_checkpoint(&sandbox, "run"));
    });
    assert_interrupted(&outcome);
    assert!(outcome.stderr.contains("stopping after this step;"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("--resume run"), "{}", outcome.stderr);
}

/// Ctrl-C reaches both the demo and the command that it runs.
#[test]
fn interrupted_demo_says_so_once() {
    use std::os::unix::process::CommandExt;

    let sandbox = Sandbox::new();
    std::fs::create_dir_all(sandbox.path("kept/dense")).unwrap();
    for file in ["welore-demo", "spectra.json", "dense/config.json"] {
        sandbox.write(&format!("kept/{file}"), "of an earlier demo");
    }
    let mut command = sandbox.command("demo -o kept --force --verbose");
    command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut stderr = String::new();
    // The first command that the demo runs has loaded the model, and evaluates it for seconds.
    while !stderr.contains("bytes loaded") {
        assert_ne!(said.read_line(&mut stderr).unwrap(), 0, "{stderr}");
    }
    let group = format!("-{}", child.id());
    assert!(Command::new("kill").args(["-INT", "--", &group]).status().unwrap().success());
    said.read_to_string(&mut stderr).unwrap();
    let outcome = Outcome { stderr, ..child.wait_with_output().unwrap().into() };
    assert!(outcome.stderr.contains("$ welore-cli eval"), "{}", outcome.stderr);
    assert!(!outcome.stderr.contains("$ welore-cli analyze"), "{}", outcome.stderr);
    assert_interrupted(&outcome);
    assert_eq!(outcome.stderr.matches("stopping").count(), 1, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("stopping; press"), "{}", outcome.stderr);
    assert_ne!(sandbox.read("kept/dense/config.json"), b"of an earlier demo");
}
