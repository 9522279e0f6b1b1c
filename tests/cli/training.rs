use std::process::Stdio;

use safetensors::Dtype;
use serde_json::Value;

use crate::support::{Sandbox, killed, wait_until};

/// A short run on the story; 8 steps of 2 windows.
pub const SHORT: &str = "train model --err 0.8 --text story.txt -o run --seq-len 32 --batch-size 2 \
                     --steps 8 --lr 3e-3 --warmup 2 --save-every 2";

/// The lines of a file of JSON lines.
pub fn metrics(sandbox: &Sandbox, file: &str) -> Vec<Value> {
    let text = String::from_utf8(sandbox.read(file)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn perplexity(sandbox: &Sandbox, model: &str) -> f64 {
    let line = format!("eval {model} --text story.txt --seq-len 32 --json");
    sandbox.json(&line)["perplexity"].as_f64().unwrap()
}

/// Whether a run has saved a checkpoint.
pub fn has_checkpoint(sandbox: &Sandbox, run: &str) -> bool {
    let pointer = std::fs::read_to_string(sandbox.path(run).join("checkpoints/last.json"));
    pointer.is_ok_and(|text| text.contains("step-"))
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
    let evaluated = "--eval-text story.txt --eval-every 4 --eval-windows 4";
    let result = sandbox.json(&format!("{SHORT} {evaluated} --json"));
    let lines = metrics(&sandbox, "run/metrics.jsonl");
    let measured: Vec<f64> = lines.iter().filter_map(|line| line["perplexity"].as_f64()).collect();
    assert_eq!(measured.len(), 3, "the start, and twice later");
    let best = measured.iter().copied().fold(f64::INFINITY, f64::min);
    assert_eq!(result["best"]["perplexity"].as_f64(), Some(best));
    assert!(sandbox.path("run/checkpoints/best.json").exists());
}

#[test]
fn run_that_was_killed_again_and_again_goes_on_to_the_same_model() {
    let sandbox = Sandbox::new();
    let whole = SHORT.replace("--steps 8", "--steps 400");
    sandbox.gives(&whole);
    let first = whole.replace("-o run", "-o killed");
    let steps = || {
        let metrics = std::fs::read(sandbox.path("killed/metrics.jsonl")).unwrap_or_default();
        metrics.iter().filter(|byte| **byte == b'\n').count()
    };
    // Each kill comes after more steps, on a checkpoint or between two.
    for kill in 0..5 {
        let line = if kill == 0 { &first } else { "train --resume killed" };
        let enough = steps() + 7 * kill;
        let inside = || has_checkpoint(&sandbox, "killed") && steps() > enough;
        let hit = killed(sandbox.command(line), "a step", inside);
        assert!(hit, "the run was over before it could be killed");
    }
    let resumed = sandbox.gives("train --resume killed").stderr;
    assert!(resumed.contains("resuming from step"), "{resumed}");
    let model = sandbox.read("run/model/model.safetensors");
    assert!(model == sandbox.read("killed/model/model.safetensors"), "the weights differ");
    let losses = |file| -> Vec<(u64, Value)> {
        let lines = metrics(&sandbox, file).into_iter();
        lines.map(|line| (line["step"].as_u64().unwrap(), line["loss"].clone())).collect()
    };
    assert_eq!(losses("killed/metrics.jsonl"), losses("run/metrics.jsonl"));
}

#[test]
fn run_can_be_moved_but_not_worked_on_twice_at_once() {
    let sandbox = Sandbox::new();
    let mut child = sandbox
        .command(&SHORT.replace("--steps 8", "--steps 100000"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("a checkpoint", || has_checkpoint(&sandbox, "run"));
    let outcome = sandbox.run("train --resume run");
    assert!(child.try_wait().unwrap().is_none(), "the other process has ended");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    assert!(outcome.stderr.contains("another process"), "{outcome:?}");

    sandbox.edit_json("run/run.json", |run| run["settings"]["lr"] = 1.into());
    // Not `refuses`, because unfinished files of the killed process are removed.
    let message = sandbox.run("train --resume run").complaint(2);
    assert!(message.contains("made by another run"), "{message}");
    sandbox.write("run/run.json", "{}");
    sandbox.refuses("train --resume run", "run.json: not the file of a run");

    sandbox.gives(&SHORT.replace("-o run", "-o first"));
    std::fs::rename(sandbox.path("first"), sandbox.path("second")).unwrap();
    sandbox.gives("train --resume second");
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
    sandbox.refuses(&format!("{SHORT} --eval-every 2"), "--eval-every: there is nothing to eval");
    sandbox.refuses(&SHORT.replace("--seq-len 32", "--seq-len 513"), "--seq-len");
    sandbox.write("short.txt", "Too short.");
    sandbox.refuses(&SHORT.replace("story.txt", "short.txt"), "short.txt");
    sandbox.refuses(&SHORT.replace("--batch-size 2", "--batch-size 2000"), "one step takes 2000");
    sandbox.refuses(&SHORT.replace("--text story.txt", ""), "nothing to train on");
    sandbox.refuses(&format!("{SHORT} --patience 2"), "--patience");
    sandbox.refuses("train --resume model", "run.json");
    sandbox.refuses(&SHORT.replace("-o run", "-o model"), "model exists");
    sandbox.refuses(&format!("{SHORT} --eval-text short.txt"), "short.txt");
    sandbox.refuses(
        &SHORT.replace("--err 0.8", "--never-grow --include q_proj"),
        "--never-grow, --include: only with a target",
    );
    sandbox.refuses(&SHORT.replace("--lr 3e-3", "--lr 0"), "--lr");
    sandbox.refuses(&SHORT.replace("--warmup 2", "--warmup 9"), "--warmup: 9 steps");
    sandbox.refuses(
        &SHORT.replace("--steps 8", "--epochs 0.1").replace("--warmup 2", "--warmup 999"),
        "--warmup: 999 steps",
    );
    for (option, of) in [("--lora-rank 4", "lora"), ("--galore-scale 1", "galore")] {
        sandbox.refuses(&format!("{SHORT} {option}"), &format!("only for --trainable {of}"));
    }
    sandbox.refuses(
        &SHORT.replace("-o run", "-o new/parents/run").replace("--seq-len 32", "--seq-len 600"),
        "--seq-len",
    );
    assert!(!sandbox.path("new").exists());
    std::fs::create_dir(sandbox.path("empty")).unwrap();
    sandbox.refuses(
        &SHORT.replace("-o run", "-o empty").replace("--batch-size 2", "--batch-size 2000"),
        "2000",
    );
    assert_eq!(sandbox.path("empty").read_dir().unwrap().count(), 0);
    sandbox.write("file", "mine");
    sandbox.refuses(&SHORT.replace("-o run", "-o file"), "file is not a directory");
    sandbox.misused("train model", "--output");
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

#[test]
fn resumed_run_cannot_be_another_run() {
    let sandbox = Sandbox::new();
    sandbox.gives(SHORT);
    sandbox.refuses(
        "train --resume run --lr 1e-4 --batch-size 2 --recompute",
        "--lr (the run has 0.003), --recompute",
    );
    sandbox.gives("train --resume run --lr 3e-3 --batch-size 2");
    sandbox.misused("train --resume run --epochs 2", "--epochs");

    // Another model in place of the base, and checkpoints of another run.
    sandbox.gives(&SHORT.replace("-o run", "-o other").replace("--err 0.8", "--err 0.7"));
    std::fs::rename(sandbox.path("run/base"), sandbox.path("kept")).unwrap();
    std::fs::rename(sandbox.path("other/base"), sandbox.path("run/base")).unwrap();
    sandbox.refuses("train --resume run", "not the model that the run began with");
    std::fs::remove_dir_all(sandbox.path("run/base")).unwrap();
    std::fs::rename(sandbox.path("kept"), sandbox.path("run/base")).unwrap();
    std::fs::remove_dir_all(sandbox.path("run/checkpoints")).unwrap();
    std::fs::rename(sandbox.path("other/checkpoints"), sandbox.path("run/checkpoints")).unwrap();
    sandbox.refuses("train --resume run", "made by another run");
}

#[test]
fn text_is_tokenized_once_and_a_run_goes_on_without_it() {
    let sandbox = Sandbox::new();
    sandbox.gives(SHORT);
    let before = sandbox.read("run/model/model.safetensors");
    std::fs::remove_file(sandbox.path("story.txt")).unwrap();
    sandbox.gives("train --resume run");
    assert!(before == sandbox.read("run/model/model.safetensors"));
    // Without the tokens the text is needed, and must be unchanged.
    sandbox.write("run/tokens", "broken");
    sandbox.refuses("train --resume run", "story.txt");
    sandbox.write("story.txt", "Another story altogether. ".repeat(200).as_str());
    sandbox.refuses("train --resume run", "not what the run began with");
}

#[test]
fn epochs_count_rows_and_documents_are_kept_apart() {
    let sandbox = Sandbox::new();
    let documents: String =
        (0..30).map(|i| format!("{{\"text\": \"Once there were {i} dogs.\"}}\n")).collect();
    sandbox.write("documents.jsonl", &documents);
    let line = SHORT.replace("story.txt", "documents.jsonl").replace("--steps 8", "--epochs 2");
    let result = sandbox.json(&format!("{line} --json"));
    let run: Value = serde_json::from_slice(&sandbox.read("run/run.json")).unwrap();
    assert_eq!(result["steps"], run["settings"]["steps"]);
    let log = String::from_utf8(sandbox.read("run/train.log")).unwrap();
    let rows: f64 = log
        .split(" windows of up to 32 tokens")
        .next()
        .unwrap()
        .rsplit(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(result["steps"].as_f64().unwrap(), (2.0 * rows / 2.0).ceil());
    assert_eq!(log.lines().filter(|line| line.contains(" loss ")).count() as f64, rows);

    sandbox.write("documents.jsonl", "{\"text\": \"fine\"}\n{\"words\": 1}\n");
    sandbox.refuses(&line.replace("-o run", "-o other"), "documents.jsonl: line 2");
    assert!(!sandbox.path("other").exists());
}

#[test]
fn configuration_alone_is_trained_from_random_weights() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("bare")).unwrap();
    for file in ["config.json", "tokenizer.json"] {
        sandbox.write(&format!("bare/{file}"), sandbox.read(&format!("model/{file}")));
    }
    let line = "train bare --from-scratch --text story.txt -o run --seq-len 32 --batch-size 4 \
                --steps 60 --lr 1e-2 --warmup 5 --save-every 0";
    let result = sandbox.json(&format!("{line} --json"));
    assert_eq!(result["trainable"], result["parameters"]);
    let (before, after) = (perplexity(&sandbox, "run/base"), perplexity(&sandbox, "run/model"));
    assert!((300.0..450.0).contains(&before), "random is near the vocabulary of 384: {before}");
    assert!(after < 0.4 * before, "{before} before, {after} after");
    sandbox
        .gives(&line.replace("-o run", "-o again").replace("train bare", "train bare/config.json"));
    assert!(
        sandbox.read("run/model/model.safetensors")
            == sandbox.read("again/model/model.safetensors")
    );
    sandbox
        .refuses(&line.replace("train bare", "train nowhere").replace("-o run", "-o x"), "nowhere");
    sandbox.misused(&format!("{line} --err 0.5"), "--err");
}

#[test]
fn every_tensor_keeps_the_type_that_it_had() {
    let sandbox = Sandbox::new();
    // Norms and one projection in f32, as in mixed checkpoints; the rest in bf16.
    let mixed = ["model.norm.weight", "model.layers.1.mlp.up_proj.weight"];
    sandbox.edit_tensors("model/model.safetensors", |tensors| {
        for name in mixed {
            let tensor = tensors.get_mut(name).unwrap();
            *tensor = tensor.in_f32();
        }
    });
    let before = sandbox.tensors("model/model.safetensors");
    let types = |dir: &str| -> Vec<_> {
        let tensors = sandbox.tensors(&format!("{dir}/model.safetensors"));
        tensors.into_iter().map(|(name, tensor)| (name, tensor.dtype)).collect()
    };
    let line = SHORT.replace("--err 0.8", "--trainable full");
    sandbox.gives(&line);
    let expected: Vec<_> = before.into_iter().map(|(name, tensor)| (name, tensor.dtype)).collect();
    assert_eq!(types("run/model"), expected);
    // Factors have the type of their matrix, and so has a weight merged with adapters.
    sandbox
        .gives(&SHORT.replace("-o run", "-o low").replace("--err 0.8", "--err 0.8 --min-ratio 0"));
    let of = |dir: &str, tensor: &str| {
        types(dir).into_iter().find(|(name, _)| name == tensor).map(|(_, dtype)| dtype)
    };
    assert_eq!(of("low/model", "model.layers.1.mlp.up_proj.U.weight"), Some(Dtype::F32));
    assert_eq!(of("low/model", "model.layers.0.mlp.up_proj.U.weight"), Some(Dtype::BF16));
    sandbox
        .gives("train low/model --trainable lora --text story.txt -o lora --seq-len 32 --steps 2");
    assert_eq!(of("lora/model", "model.layers.1.mlp.up_proj.weight"), Some(Dtype::F32));
    assert_eq!(of("lora/model", "model.layers.0.mlp.up_proj.weight"), Some(Dtype::BF16));
}

#[test]
fn adapters_and_projected_gradients_train_too() {
    let sandbox = Sandbox::new();
    for trainable in ["lora", "galore", "nlrc", "full"] {
        let line = SHORT
            .replace("-o run", &format!("-o {trainable}"))
            .replace("--err 0.8", "--err 0.6")
            .replace("--lr 3e-3", "--lr 5e-4")
            .replace("--steps 8", "--steps 24");
        let rank = if trainable == "galore" { "--galore-rank 4" } else { "" };
        let outcome = sandbox.gives(&format!("{line} --trainable {trainable} {rank} --json"));
        let result: Value = serde_json::from_str(&outcome.stdout).unwrap();
        assert_eq!(result["steps"], 24);
        assert_eq!(outcome.stderr.contains("resulting model is dense"), trainable == "lora");
        let (before, after) = (
            perplexity(&sandbox, &format!("{trainable}/base")),
            perplexity(&sandbox, &format!("{trainable}/model")),
        );
        assert!(after < before, "{trainable}: {before} before, {after} after");
        let inspect = sandbox.json(&format!("inspect {trainable}/model --json"));
        let factored = inspect["factored"].as_array().map_or(0, Vec::len);
        assert_eq!(factored == 0, trainable == "lora", "a sum with an adapter is dense");
    }
}

/// A task that can be learned: the response is the second word of the prompt.
fn echo(sandbox: &Sandbox) {
    let words = ["dog", "sun", "tree"];
    let lines: String = (0..120)
        .map(|i| {
            let word = words[i % 3];
            format!("{{\"prompt\": \"Say {word} {i}:\", \"response\": \" {word}\"}}\n")
        })
        .collect();
    sandbox.write("echo.jsonl", &lines);
}

#[test]
fn task_is_learned_and_scored() {
    let sandbox = Sandbox::new();
    echo(&sandbox);
    let eval =
        |model: &str| sandbox.json(&format!("eval {model} --task jsonl --data echo.jsonl --json"));
    let before = eval("model");
    assert!(before["accuracy"].as_f64().unwrap() < 0.2, "{before}");
    let line = "train model --trainable full --task jsonl --data echo.jsonl -o run --steps 150 \
                --lr 3e-3 --warmup 5 --eval-every 75 --eval-windows 8 --save-every 0 --json";
    let result = sandbox.json(line);
    let after = eval("run/model");
    assert!(after["accuracy"].as_f64().unwrap() > 0.8, "{after}");
    assert!(result["best"]["accuracy"].as_f64().unwrap() > 0.5, "{result}");
    assert_eq!(
        after["right"].as_u64(),
        after["answers"].as_array().map(|answers| {
            answers.iter().filter(|answer| answer["right"] == true).count() as u64
        })
    );
}

#[test]
fn wrong_task_files_are_told_with_their_line() {
    let sandbox = Sandbox::new();
    sandbox.write("bad.jsonl", "{\"prompt\": \"a\", \"response\": \"b\"}\n{\"prompt\": \"c\"}\n");
    for command in ["eval model", "train model --trainable full -o run"] {
        sandbox.refuses(&format!("{command} --task jsonl --data bad.jsonl"), "bad.jsonl: line 2");
        sandbox.refuses(&format!("{command} --task svamp --data bad.jsonl"), "bad.jsonl");
        sandbox.refuses(&format!("{command} --task boolq --data nowhere"), "nowhere");
        sandbox.misused(&format!("{command} --task boolq"), "--data");
    }
    sandbox.misused("eval model --task jsonl --data bad.jsonl --seq-len 64", "--seq-len");
    assert!(!sandbox.path("run").exists());
}
