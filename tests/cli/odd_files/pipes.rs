//! Pipes, devices and sparse files in the place of files.

use std::fs;
use std::time::{Duration, Instant};

use super::{EVAL, TRAIN};
use crate::support::{Outcome, Sandbox};

/// Runs a command that may wait forever.
fn run_for_a_while(sandbox: &Sandbox, line: &str) -> Outcome {
    use std::process::Stdio;

    let mut command = sandbox.command(line);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > Duration::from_secs(20) {
            child.kill().unwrap();
            panic!("`{line}` waits");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap().into()
}

fn make_pipe(sandbox: &Sandbox, name: &str) {
    let _ = fs::remove_file(sandbox.path(name));
    let made = std::process::Command::new("mkfifo").arg(sandbox.path(name)).status().unwrap();
    assert!(made.success());
}

#[test]
fn pipes_in_the_cache_of_spectra_are_not_waited_for() {
    const ANALYZE: &str = "analyze model --json";
    let sandbox = Sandbox::new();
    let first = sandbox.gives(ANALYZE).stdout;
    let pipe = sandbox.cached().remove(0);
    make_pipe(&sandbox, pipe.to_str().unwrap());
    let again = run_for_a_while(&sandbox, ANALYZE);
    assert_eq!((again.code, &again.stdout), (Some(0), &first), "{}", again.stderr);
    assert!(again.stderr.contains("27 of 28 matrices"), "{}", again.stderr);
    assert!(pipe.symlink_metadata().unwrap().is_file(), "a file has taken its place");
}

#[test]
fn pipes_in_a_model_directory_are_not_waited_for() {
    const COMPRESS: &str = "compress model --err 0.5 -o out";
    for (file, line, code) in [
        ("config.json", COMPRESS, 2),
        ("generation_config.json", COMPRESS, 2),
        ("tokenizer.json", COMPRESS, 2),
        ("tokenizer.json", EVAL, 2),
        ("model.safetensors", COMPRESS, 2),
        ("welore_plan.json", "inspect model", 2),
        ("LICENSE", COMPRESS, 2),
        ("notice.txt", "train model --trainable full", 2),
        ("other.safetensors", "train model --trainable full", 2),
        // A card of no use is left out.
        ("README.md", COMPRESS, 0),
    ] {
        let sandbox = Sandbox::new();
        make_pipe(&sandbox, &format!("model/{file}"));
        let line = if line.starts_with("train") { &format!("{line} {TRAIN}") } else { line };
        let outcome = run_for_a_while(&sandbox, line);
        match code {
            0 => assert_eq!(outcome.code, Some(0), "{file}: {outcome:?}"),
            _ => assert!(outcome.complaint(code).contains(file), "{file}: {outcome:?}"),
        }
        assert!(code == 0 || !sandbox.path("out").exists());
    }
}

#[test]
fn pipes_in_the_place_of_shards_are_not_waited_for() {
    let sandbox = Sandbox::new();
    sandbox.add("tiny-llama3", "sharded");
    for file in ["model-00002-of-00002.safetensors", "model.safetensors.index.json"] {
        make_pipe(&sandbox, &format!("sharded/{file}"));
        let message = run_for_a_while(&sandbox, "inspect sharded").complaint(2);
        assert!(message.contains("sharded/model"), "{message}");
    }
}

#[test]
fn a_text_may_come_from_a_pipe_but_not_from_a_device() {
    let sandbox = Sandbox::new();
    let whole = sandbox.gives(EVAL).stdout;
    let perplexity = |text: &str| text.split(" over").next().unwrap().to_string();
    let story = fs::File::open(sandbox.path("story.txt")).unwrap();
    let mut cat = std::process::Command::new("cat");
    let mut cat = cat.stdin(story).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut command = sandbox.command(&EVAL.replace("story.txt", "/dev/stdin"));
    let outcome = Outcome::of(command.stdin(cat.stdout.take().unwrap()));
    cat.wait().unwrap();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(perplexity(&outcome.stdout), perplexity(&whole));
    for device in ["/dev/zero", "/dev/null"] {
        sandbox.refuses(&EVAL.replace("story.txt", device), "is a character device");
    }
}

#[test]
fn devices_and_sparse_files_in_a_model_directory_are_not_read() {
    for file in ["config.json", "generation_config.json", "welore_plan.json", "LICENSE"] {
        let sandbox = Sandbox::new();
        let path = sandbox.path(&format!("model/{file}"));
        let _ = fs::remove_file(&path);
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        sandbox.refuses("compress model --err 0.5 -o out", file);
        fs::remove_file(&path).unwrap();
        fs::File::create(&path).unwrap().set_len(1 << 38).unwrap();
        // Not `refuses`, which reads everything.
        let message = sandbox.run("compress model --err 0.5 -o out").complaint(2);
        assert!(message.contains(file) && message.contains("is larger than"), "{message}");
        assert!(!sandbox.path("out").exists());
    }
}
