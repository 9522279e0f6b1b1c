//! Models of the Hugging Face Hub: fetched completely or not at all, and only once.

mod trust;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use crate::hub_server::{COMMIT, HubServer, Mood, sha256};
use crate::support::{Outcome, Sandbox};
use crate::training::SHORT;

const INSPECT: &str = "inspect org/name --json";
const WEIGHTS: &str = "model.safetensors";

fn run(server: &HubServer, sandbox: &Sandbox, line: &str) -> Outcome {
    Outcome::of(&mut server.command(sandbox, line))
}

fn gives(server: &HubServer, sandbox: &Sandbox, line: &str) -> Outcome {
    let outcome = run(server, sandbox, line);
    assert_eq!(outcome.code, Some(0), "`{line}` says: {}", outcome.stderr);
    outcome
}

/// A path in the model's part of the cache.
fn cached(sandbox: &Sandbox, name: &str) -> PathBuf {
    sandbox.hub_home().join("hub/models--org--name").join(name)
}

fn snapshot(sandbox: &Sandbox, file: &str) -> PathBuf {
    cached(sandbox, "snapshots").join(COMMIT).join(file)
}

/// Checks that the cache has the weights of tiny-llama, byte for byte.
fn assert_whole(sandbox: &Sandbox) {
    let weights = fs::read(snapshot(sandbox, WEIGHTS)).unwrap();
    assert!(weights == sandbox.read("model/model.safetensors"), "{} bytes", weights.len());
}

/// How many bytes of the weights an unfinished command has left.
fn part(sandbox: &Sandbox) -> u64 {
    let name = format!("{}.part", sha256(&sandbox.read("model/model.safetensors")));
    cached(sandbox, "blobs").join(name).metadata().map_or(0, |part| part.len())
}

#[test]
fn model_is_fetched_once() {
    let (sandbox, server) = (Sandbox::new(), HubServer::of("tiny-llama"));
    let inspected = sandbox.gives("inspect model --json").stdout;
    let first = gives(&server, &sandbox, INSPECT);
    assert_eq!(first.stdout, inspected);
    assert!(first.stderr.starts_with("fetched 3 files of org/name, 412.0 kB"), "{first:?}");
    assert_whole(&sandbox);
    assert_eq!(server.downloads().len(), 1);

    let again = gives(&server, &sandbox, INSPECT);
    assert_eq!((again.stdout, again.stderr.as_str()), (inspected, ""));
    assert_eq!(server.downloads().len(), 1);
    let asked = server.requests();
    assert_eq!(asked.iter().filter(|request| request.path.contains("/resolve/")).count(), 3);
}

#[test]
fn every_command_takes_an_id() {
    let (sandbox, server) = (Sandbox::new(), HubServer::of("tiny-llama"));
    for line in [
        "analyze org/name -o spectra.json",
        "calibrate org/name --text story.txt --calibration-seq-len 64 --calibration-windows 4 \
         --gradient-windows 2 --too-little shrink -o seen",
        "plan org/name --err 0.5 -o plan.json",
        "compress org/name --err 0.5 -o low",
        "eval org/name --text story.txt --seq-len 64 --windows 1",
        "generate org/name --prompt Mia --max-new-tokens 2",
    ] {
        gives(&server, &sandbox, line);
    }
    for line in ["inspect low", "inspect model"] {
        sandbox.gives(line);
    }
    let message = run(&server, &sandbox, "export org/name --dense -o dense").complaint(2);
    assert!(message.contains("org/name: no matrix is compressed"), "{message}");
    assert_eq!(server.downloads().len(), 1);
}

#[test]
fn shards_are_fetched_by_their_index() {
    let (sandbox, server) = (Sandbox::new(), HubServer::of("tiny-llama3"));
    sandbox.add("tiny-llama3", "sharded");
    let fetched = gives(&server, &sandbox, INSPECT);
    assert_eq!(fetched.stdout, sandbox.gives("inspect sharded --json").stdout);
    assert_eq!(server.downloads().len(), 2);
}

#[test]
fn cached_model_needs_no_network() {
    let (sandbox, server) = (Sandbox::new(), HubServer::of("tiny-llama"));
    let inspected = gives(&server, &sandbox, INSPECT).stdout;
    let mut online = server.command(&sandbox, INSPECT);
    drop(server);
    assert_eq!(sandbox.gives(INSPECT).stdout, inspected);
    let named = format!("inspect org/name@{COMMIT} --json");
    assert_eq!(sandbox.gives(&named).stdout, inspected);
    let online = Outcome::of(&mut online);
    assert_eq!(online.stdout, inspected);
    assert!(online.stderr.starts_with("warning: http://127.0.0.1:"), "{online:?}");
}

#[test]
fn offline_says_what_is_not_cached() {
    let sandbox = Sandbox::new();
    for value in ["1", "true", "ON"] {
        let outcome = Outcome::of(sandbox.command(INSPECT).env("HF_HUB_OFFLINE", value));
        assert!(outcome.complaint(2).contains("org/name: not in the cache"), "{outcome:?}");
        assert!(outcome.stderr.contains("unset HF_HUB_OFFLINE"), "{outcome:?}");
    }
    // An incomplete model does not count.
    let server = HubServer::of("tiny-llama");
    gives(&server, &sandbox, INSPECT);
    fs::remove_file(snapshot(&sandbox, WEIGHTS)).unwrap();
    assert!(sandbox.run(INSPECT).complaint(2).contains("or incomplete"));
}

#[test]
fn no_network_is_told_in_one_line() {
    let (sandbox, server) = (Sandbox::new(), HubServer::of("tiny-llama"));
    let mut command = server.command(&sandbox, INSPECT);
    drop(server);
    let message = Outcome::of(&mut command).complaint(1);
    assert!(message.contains("http://127.0.0.1:"), "{message}");
}

#[test]
fn broken_connection_is_gone_on_with() {
    let (sandbox, server) = (Sandbox::new(), HubServer::of("tiny-llama"));
    server.set(Mood::Breaking(100_000));
    gives(&server, &sandbox, INSPECT);
    let starts: Vec<_> = server.downloads().iter().map(|request| request.start).collect();
    assert_eq!(starts, [None, Some(100_000)]);
    assert_whole(&sandbox);
}

#[test]
fn server_without_ranges_sends_all_of_it_again() {
    let (sandbox, server) = (Sandbox::new(), HubServer::of("tiny-llama"));
    let blobs = cached(&sandbox, "blobs");
    fs::create_dir_all(&blobs).unwrap();
    let weights = sandbox.read("model/model.safetensors");
    fs::write(blobs.join(format!("{}.part", sha256(&weights))), &weights[..5000]).unwrap();
    server.set(Mood::Forgetful);
    gives(&server, &sandbox, INSPECT);
    assert_eq!(server.downloads()[0].start, Some(5000));
    assert_whole(&sandbox);
}

#[test]
fn part_that_is_of_something_else_is_not_kept() {
    for length in [5000, 398_328, 500_000] {
        let (sandbox, server) = (Sandbox::new(), HubServer::of("tiny-llama"));
        let blobs = cached(&sandbox, "blobs");
        fs::create_dir_all(&blobs).unwrap();
        let name = format!("{}.part", sha256(&sandbox.read("model/model.safetensors")));
        fs::write(blobs.join(name), vec![7; length]).unwrap();
        gives(&server, &sandbox, INSPECT);
        assert_whole(&sandbox);
    }
}

#[cfg(unix)]
mod stopped {
    use std::cell::Cell;
    use std::process::Stdio;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::stopping::{assert_interrupted, interrupt, wait_until};

    #[test]
    fn killed_download_goes_on_where_it_stopped() {
        let (sandbox, server) = (Sandbox::new(), HubServer::of("tiny-llama"));
        server.set(Mood::Slow);
        let mut command = server.command(&sandbox, INSPECT);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_until("a part", || part(&sandbox) > 0);
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success());
        let there = part(&sandbox);
        server.set(Mood::Fair);
        gives(&server, &sandbox, INSPECT);
        assert_eq!(server.downloads().last().unwrap().start, Some(there));
        assert_whole(&sandbox);
    }

    #[test]
    fn ctrl_c_does_not_wait_for_a_list_of_files() {
        for mood in [Mood::Dripping, Mood::Silent] {
            let (sandbox, server) = (Sandbox::new(), HubServer::of("tiny-llama"));
            server.set(mood);
            let pressed = Cell::new(Instant::now());
            let outcome = interrupt(server.command(&sandbox, INSPECT), |_| {
                wait_until("a request", || !server.requests().is_empty());
                pressed.set(Instant::now());
            });
            assert_interrupted(&outcome);
            let waited = pressed.get().elapsed();
            assert!(waited < Duration::from_secs(2), "{mood:?}: {waited:?}");
        }
    }

    #[test]
    fn interrupted_download_goes_on_where_it_stopped() {
        let (sandbox, server) = (Sandbox::new(), HubServer::of("tiny-llama"));
        server.set(Mood::Slow);
        let outcome = interrupt(server.command(&sandbox, INSPECT), |_| {
            wait_until("a part", || part(&sandbox) > 0);
        });
        assert_interrupted(&outcome);
        assert!(outcome.stderr.contains("run the same command again to continue"), "{outcome:?}");
        assert_eq!(outcome.stdout, "");
        let there = part(&sandbox);
        server.set(Mood::Fair);
        gives(&server, &sandbox, INSPECT);
        assert_eq!(server.downloads().last().unwrap().start, Some(there));
        assert_whole(&sandbox);
    }
}

#[test]
fn file_that_another_process_fetches_is_left_to_it() {
    let (sandbox, server) = (Sandbox::new(), HubServer::of("tiny-llama"));
    fs::create_dir_all(cached(&sandbox, "blobs")).unwrap();
    let name = format!("blobs/{}.lock", sha256(&sandbox.read("model/model.safetensors")));
    let lock = fs::File::create(cached(&sandbox, &name)).unwrap();
    lock.lock().unwrap();
    let message = run(&server, &sandbox, INSPECT).complaint(1);
    assert!(message.contains("another process is fetching model.safetensors"), "{message}");
    drop(lock);
    gives(&server, &sandbox, INSPECT);
}

#[test]
fn damaged_weights_are_refused_and_not_kept() {
    let (sandbox, server) = (Sandbox::new(), HubServer::of("tiny-llama"));
    server.set(Mood::Lying);
    let outcome = run(&server, &sandbox, INSPECT);
    let message = outcome.complaint(1);
    let expected = sha256(&sandbox.read("model/model.safetensors"));
    for text in ["org/name: model.safetensors is damaged", "sha256", &expected] {
        assert!(message.contains(text), "{message}");
    }
    let blobs = fs::read_dir(cached(&sandbox, "blobs")).unwrap();
    let names = blobs.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let left: Vec<_> = names.filter(|name| name.starts_with(&expected)).collect();
    assert!(left.iter().all(|name| name.ends_with(".lock")), "{left:?}");
    assert!(!snapshot(&sandbox, WEIGHTS).exists());

    server.set(Mood::Fair);
    gives(&server, &sandbox, INSPECT);
    assert_whole(&sandbox);
}

#[test]
fn file_that_is_listed_and_not_there_is_named() {
    let (sandbox, server) = (Sandbox::new(), HubServer::of("tiny-llama"));
    for mood in [Mood::Lost, Mood::Closed(404)] {
        server.set(mood);
        let message = run(&server, &sandbox, INSPECT).complaint(2);
        assert!(message.contains("org/name: model.safetensors is missing"), "{message}");
    }
    // A refusal of another server is not one of the Hub.
    server.set(Mood::Closed(403));
    let outcome = run(&server, &sandbox, INSPECT);
    let message = outcome.complaint(1);
    assert!(message.contains("http://localhost:") && message.contains("403"), "{message}");
    assert!(!outcome.stderr.contains("HF_TOKEN"), "{outcome:?}");
    server.set(Mood::Fair);
    gives(&server, &sandbox, INSPECT);
    assert_whole(&sandbox);
}

#[test]
fn more_than_a_file_is_not_kept() {
    let (sandbox, server) = (Sandbox::new(), HubServer::of("tiny-llama"));
    server.set(Mood::Overlong);
    gives(&server, &sandbox, INSPECT);
    assert_whole(&sandbox);
}

#[test]
fn revision_is_asked_for() {
    let (sandbox, server) = (Sandbox::new(), HubServer::of("tiny-llama"));
    for (line, path) in [
        ("inspect org/name@v1.0", "/api/models/org/name/revision/v1.0?blobs=true"),
        ("inspect org/name@refs/pr/1", "/api/models/org/name/revision/refs%2Fpr%2F1?blobs=true"),
    ] {
        gives(&server, &sandbox, line);
        assert!(server.requests().iter().any(|request| request.path == path), "{line}");
        sandbox.gives(line);
    }
    let message = run(&server, &sandbox, "inspect org/name@missing").complaint(2);
    assert!(message.contains("org/name@missing: no such"), "{message}");
    assert!(sandbox.run(INSPECT).complaint(2).contains("org/name"), "main was not asked for");
}

#[test]
fn repositories_without_safetensors_say_what_they_have() {
    for (file, named, hint) in [
        ("pytorch_model.bin", "only pickled weights (pytorch_model.bin)", "pickles can run code"),
        ("name-Q8_0.gguf", "only GGUF (name-Q8_0.gguf)", "/org/name/resolve/"),
        ("name-00001-of-00002.gguf", "only GGUF (name-0", "and the other parts"),
        ("notes.md", "has no model.safetensors", ""),
    ] {
        let (sandbox, server) = (Sandbox::new(), HubServer::of("tiny-llama"));
        server.remove(WEIGHTS);
        server.put(file, "content");
        let outcome = run(&server, &sandbox, INSPECT);
        let message = outcome.complaint(2);
        assert!(message.contains(named), "{message}");
        assert!(outcome.stderr.contains(hint), "{outcome:?}");
        assert_eq!(server.requests().len(), 1, "nothing is fetched");
    }
}

#[test]
fn what_is_no_id_is_asked_of_nobody() {
    let server = HubServer::new(BTreeMap::new());
    let sandbox = Sandbox::new();
    for model in ["modle", "./org/name", "runs/model/last", "out/spectra.json", "org/name@"] {
        let outcome = run(&server, &sandbox, &format!("inspect {model}"));
        let message = outcome.complaint(2);
        assert!(message.contains(&format!("{model}: no such model directory")), "{message}");
        assert!(
            outcome.stderr.contains("hint: MODEL is a directory, a .gguf file, or"),
            "{outcome:?}"
        );
    }
    sandbox.duplicate("model", "org/name");
    gives(&server, &sandbox, INSPECT);
    assert_eq!(server.requests().len(), 0);
}

#[test]
fn nothing_is_written_into_the_cache() {
    let (sandbox, server) = (Sandbox::new(), HubServer::of("tiny-llama"));
    gives(&server, &sandbox, INSPECT);
    let cache = cached(&sandbox, "snapshots");
    for line in [
        format!("compress org/name --err 0.5 --force -o {}", cache.join(COMMIT).display()),
        format!("compress model --err 0.5 --force -o {}", cache.join("new").display()),
        format!("analyze model -o {}", cache.join("spectra.json").display()),
        SHORT.replace("-o run", &format!("-o {}", cache.join("run").display())),
    ] {
        let message = sandbox.run(&line).complaint(2);
        assert!(message.contains("in the cache of the Hugging Face Hub"), "{message}");
    }
    let entries = fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(entries.collect::<Vec<_>>(), [COMMIT]);
    assert_whole(&sandbox);
}

#[test]
fn run_goes_on_from_the_cache_without_the_hub() {
    let (sandbox, server) = (Sandbox::new(), HubServer::of("tiny-llama"));
    let line = "train org/name --trainable full --text story.txt -o run --seq-len 32 \
                --batch-size 2 --steps 2 --warmup 1 --save-every 1";
    gives(&server, &sandbox, line);
    drop(server);
    fs::remove_dir_all(sandbox.path("run/model")).unwrap();
    let resumed = sandbox.gives("train --resume run");
    assert!(resumed.stderr.contains("resuming from step 2"), "{resumed:?}");
    let base = sandbox.json_file("run/run.json")["base"].clone();
    assert!(base.as_str().is_some_and(|base| base.ends_with(COMMIT)), "{base}");
}

#[test]
fn training_from_scratch_fetches_no_weights() {
    let (sandbox, server) = (Sandbox::new(), HubServer::of("tiny-llama"));
    let line = "train org/name --from-scratch --text story.txt -o run --seq-len 32 \
                --batch-size 2 --steps 1 --warmup 0";
    gives(&server, &sandbox, line);
    assert_eq!(server.downloads().len(), 0);
    assert!(sandbox.json("inspect run/model --json")["parameters"].as_u64() > Some(0));
}
