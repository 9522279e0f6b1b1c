//! Work that ends early: a full disk, an impatient user.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Outcome, Sandbox};

/// Files may not grow beyond a few kilobytes; writing more fails as on a full disk.
const FULL_DISK: &str = "trap '' XFSZ; ulimit -f 8";

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
    fails_on_full_disk(&sandbox, "analyze model -o spectra.json", "spectra.json");
    fails_on_full_disk(&sandbox, "plan model --err 0.5 -o plan.json", "plan.json");
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
fn interrupt(mut command: Command, ready: impl Fn(&mut Child)) -> Outcome {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    ready(&mut child);
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    child.wait_with_output().unwrap().into()
}

fn assert_interrupted(outcome: &Outcome) {
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let errors = outcome.stderr.lines().filter(|line| line.starts_with("error: "));
    assert!(errors.eq(["error: interrupted"]), "{}", outcome.stderr);
}

/// Repeats the layers of the model, so that work on it takes long enough to be stopped.
fn deepen(sandbox: &Sandbox, layers: usize) {
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

#[test]
fn interrupted_compression_leaves_nothing_behind() {
    let sandbox = Sandbox::new();
    deepen(&sandbox, 200);
    let before = sandbox.contents();
    // The hidden directory that the output is written into shows that work has begun.
    let begun = || {
        let mut entries = sandbox.path(".").read_dir().unwrap();
        entries.any(|entry| entry.unwrap().file_name().to_string_lossy().starts_with(".welore-"))
    };
    let outcome = interrupt(sandbox.command("compress model --err 0.5 -o out"), |_| {
        let started = Instant::now();
        while !begun() {
            assert!(started.elapsed() < Duration::from_secs(30), "the work does not begin");
            sleep(Duration::from_millis(1));
        }
    });
    assert_interrupted(&outcome);
    assert_eq!(outcome.stdout, "");
    assert_eq!(sandbox.contents(), before);
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
