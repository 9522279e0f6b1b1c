use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::Sandbox;

/// A short run on the story; 8 steps of 2 blocks.
const SHORT: &str = "train model --err 0.8 --text story.txt -o run --seq-len 32 --batch-size 2 \
                     --steps 8 --lr 3e-3 --warmup 2 --save-every 2";

fn metrics(sandbox: &Sandbox, file: &str) -> Vec<Value> {
    let text = String::from_utf8(sandbox.read(file)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn perplexity(sandbox: &Sandbox, model: &str) -> f64 {
    let line = format!("eval {model} --text story.txt --seq-len 32 --json");
    sandbox.json(&line)["perplexity"].as_f64().unwrap()
}

#[test]
fn compressing_and_tuning_in_one_call_brings_quality_back() {
    let sandbox = Sandbox::new();
    let result = sandbox.json(&format!("{SHORT} --steps 40 --json").replace("--steps 8 ", ""));
    assert_eq!(result["steps"], 40);
    assert!(result["trainable"].as_u64() < result["parameters"].as_u64());

    let lines = metrics(&sandbox, "run/metrics.jsonl");
    assert_eq!(lines.len(), 40);
    for key in ["step", "loss", "lr", "grad_norm", "tokens_per_second"] {
        assert!(lines.iter().all(|line| line[key].as_f64().is_some_and(|x| x > 0.0)), "{key}");
    }
    let (before, after) = (perplexity(&sandbox, "run/base"), perplexity(&sandbox, "run/model"));
    assert!(after < 0.8 * before, "{before} before, {after} after");
    let inspect =
        |model: &str| sandbox.json(&format!("inspect {model} --json"))["factored"].clone();
    assert_eq!(inspect("run/base"), inspect("run/model"));
}

#[test]
fn evaluations_are_told_and_the_best_one_is_kept() {
    let sandbox = Sandbox::new();
    let evaluated = "--eval-text story.txt --eval-every 4 --eval-blocks 4";
    let result = sandbox.json(&format!("{SHORT} {evaluated} --json"));
    let lines = metrics(&sandbox, "run/metrics.jsonl");
    let measured: Vec<f64> = lines.iter().filter_map(|line| line["perplexity"].as_f64()).collect();
    assert_eq!(measured.len(), 2);
    let best = measured.iter().copied().fold(f64::INFINITY, f64::min);
    assert_eq!(result["best_perplexity"].as_f64(), Some(best));
    assert!(sandbox.path("run/checkpoints/best.json").exists());
}

#[test]
fn run_that_was_killed_goes_on_to_the_same_model() {
    let sandbox = Sandbox::new();
    sandbox.gives(&SHORT.replace("--steps 8", "--steps 200"));
    let killed = SHORT.replace("--steps 8", "--steps 200").replace("-o run", "-o killed");
    let mut child =
        sandbox.command(&killed).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !sandbox.path("killed/checkpoints/last.json").exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();

    sandbox.gives("train --resume killed");
    let whole = sandbox.read("run/model/model.safetensors");
    assert!(whole == sandbox.read("killed/model/model.safetensors"), "the weights differ");
    let steps = |file| -> Vec<u64> {
        metrics(&sandbox, file).iter().map(|line| line["step"].as_u64().unwrap()).collect()
    };
    assert_eq!(steps("killed/metrics.jsonl"), (1..=200).collect::<Vec<_>>());
}

#[test]
fn finished_run_resumes_to_nothing_more() {
    let sandbox = Sandbox::new();
    sandbox.gives(SHORT);
    let before = sandbox.read("run/model/model.safetensors");
    sandbox.gives("train --resume run");
    assert!(before == sandbox.read("run/model/model.safetensors"));
}

#[test]
fn runs_that_cannot_start_are_refused_before_any_work() {
    let sandbox = Sandbox::new();
    sandbox.refuses(&SHORT.replace("--err 0.8", "--err 2"), "ERR 2");
    sandbox.refuses(&SHORT.replace("--lr 3e-3", "--lr=-1"), "--lr");
    sandbox.refuses(&SHORT.replace("--batch-size 2", "--batch-size 0"), "--batch-size");
    sandbox.refuses(&SHORT.replace("story.txt", "nowhere.txt"), "nowhere.txt");
    sandbox.refuses(&SHORT.replace("model", "nowhere"), "nowhere");
    sandbox.refuses(&format!("{SHORT} --eval-every 2"), "--eval-text");
    sandbox.refuses(&SHORT.replace("--seq-len 32", "--seq-len 513"), "--seq-len");
    sandbox.write("short.txt", "Too short.");
    sandbox.refuses(&SHORT.replace("story.txt", "short.txt"), "short.txt");
    sandbox.refuses("train --resume model", "run.json");
    sandbox.refuses(&SHORT.replace("-o run", "-o model"), "model exists");
    sandbox.misused("train model", "--text");
    sandbox.misused("train --resume run --text story.txt", "--text");
}

#[test]
fn existing_run_is_never_started_over() {
    let sandbox = Sandbox::new();
    sandbox.gives(SHORT);
    sandbox.refuses(SHORT, "run exists");
    sandbox.refuses(&SHORT.replace("--err 0.8", "--err 2"), "ERR 2");
}

#[test]
fn run_file_edited_to_impossible_settings_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.gives(SHORT);
    for (key, value) in [("seq_len", 0), ("batch_size", 0), ("batch_size", usize::MAX)] {
        sandbox.edit_json("run/run.json", |run| run["settings"][key] = value.into());
        sandbox.refuses("train --resume run", "run.json");
        sandbox.edit_json("run/run.json", |run| run["settings"][key] = 2.into());
    }
    sandbox.refuses(
        &SHORT.replace("--batch-size 2", &format!("--batch-size {}", u64::MAX)),
        "--batch-size",
    );
}

#[test]
fn dense_model_has_no_low_rank_components_to_train() {
    let sandbox = Sandbox::new();
    sandbox.refuses(&SHORT.replace("--err 0.8 ", ""), "nothing to train");
}
