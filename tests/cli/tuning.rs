//! Training that tells whether it helped: the score of the start, a second text, more steps, and
//! texts that spoil a model.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Outcome, Sandbox, killed};
use crate::training::{SHORT, metrics};

/// Options of a run that is evaluated, in few and short windows.
const EVALUATED: &str = "--eval-text story.txt --eval-seq-len 64 --eval-windows 4";

/// A run whose learning rate is far too high for a model that knows its text by heart.
const SPOILED: &str = "train model --trainable full --text story.txt -o run --seq-len 32 \
                       --batch-size 2 --steps 8 --lr 0.05 --warmup 1 --save-every 0";

fn perplexity(sandbox: &Sandbox, model: &str, options: &str) -> f64 {
    let line = format!("eval {model} --text story.txt {options} --json");
    sandbox.json(&line)["perplexity"].as_f64().unwrap()
}

fn evaluations(sandbox: &Sandbox, run: &str) -> Vec<Value> {
    let mut lines = metrics(sandbox, &format!("{run}/metrics.jsonl"));
    lines.retain(|line| line["perplexity"].is_number());
    lines
}

fn weights(sandbox: &Sandbox, run: &str) -> Vec<u8> {
    sandbox.read(&format!("{run}/model/model.safetensors"))
}

/// Examples of a task, each of them another one.
fn sums() -> String {
    let sum = |n: u32| json!({ "prompt": format!("{n} + 1 ="), "response": (n + 1).to_string() });
    (0..40).map(|n| format!("{}\n", sum(n))).collect()
}

#[test]
fn a_run_that_does_not_improve_the_model_says_so_and_can_fail() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.run(&format!("{SPOILED} {EVALUATED} --must-improve --json"));
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    let told = "error: the model never scored better than at the start, perplexity ";
    assert!(outcome.stderr.contains(told), "{outcome:?}");
    let result: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!((&result["improved"], &result["start"]), (&json!(false), &result["best"]));
    let lines = evaluations(&sandbox, "run");
    let steps: Vec<_> = lines.iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!((steps, &lines[0]["perplexity"]), (vec![0, 8], &result["start"]["perplexity"]));
    // Everything is written, and the model is the one that the run began with.
    let options = "--seq-len 64 --windows 4";
    let before = perplexity(&sandbox, "model", options);
    assert!((perplexity(&sandbox, "run/model", options) / before - 1.0).abs() < 1e-6);

    // The run remembers what was asked of it, and hears it again.
    for line in ["train --resume run", "train --resume run --must-improve"] {
        let again = sandbox.run(line);
        assert_eq!(again.code, Some(3), "{again:?}");
        let told = again.stdout;
        assert!(told.contains("no evaluation was better than that of the start"), "{told}");
    }
}

#[test]
fn a_run_can_be_made_to_improve_when_it_is_resumed() {
    let sandbox = Sandbox::new();
    sandbox.gives(&format!("{SPOILED} {EVALUATED}"));
    sandbox.gives("train --resume run");
    for line in ["train --resume run --must-improve", "train --resume run"] {
        assert_eq!(sandbox.run(line).code, Some(3), "{line}");
    }
    assert_eq!(sandbox.json_file("run/run.json")["must_improve"], true);
}

/// What is missing is a text, or how often.
#[test]
fn options_on_evaluations_name_the_one_that_is_missing() {
    let sandbox = Sandbox::new();
    sandbox.write("sums.jsonl", sums());
    let task = SHORT.replace("--text story.txt", "--task jsonl --data sums.jsonl");
    for option in ["--must-improve", "--eval-windows 2", "--watch-text story.txt", "--patience 2"] {
        for (line, missing) in [
            (SHORT.to_string(), "hint: give --eval-text FILE"),
            (format!("{SHORT} --eval-every 0"), "hint: give --eval-text FILE"),
            (format!("{SHORT} --eval-text story.txt --eval-every 0"), "--eval-every 0"),
            (task.clone(), "hint: give --eval-every N"),
        ] {
            let outcome = sandbox.run(&format!("{line} {option}"));
            let name = option.split(' ').next().unwrap();
            assert_eq!(outcome.code, Some(2), "{outcome:?}");
            let is_named = outcome.stderr.contains(name) || missing == "--eval-every 0";
            assert!(is_named && outcome.stderr.contains(missing), "{line} {option}: {outcome:?}");
        }
    }
}

#[test]
fn windows_are_by_default_no_longer_than_the_context() {
    let sandbox = Sandbox::new();
    let limit = |config: &mut Value| config["max_position_embeddings"] = 48.into();
    sandbox.edit_json("model/config.json", limit);
    let eval = sandbox.json("eval model --text story.txt --windows 2 --json");
    assert_eq!(eval["seq_len"], 48);
    let compare =
        "compare model --text story.txt --keep-params 0.9 --methods svd/energy --windows 2";
    assert_eq!(sandbox.json(&format!("{compare} --json"))["seq_len"], 48);
    let train = SHORT.replace("--seq-len 32 ", "").replace("--steps 8", "--steps 2");
    let dry = sandbox.json(&format!("{train} --dry-run --json"));
    assert_eq!(dry["settings"]["seq_len"], 48);
    sandbox.gives(&train);
    assert_eq!(sandbox.json_file("run/run.json")["settings"]["seq_len"], 48);
    // What was typed stands.
    for line in [
        format!("{train} --seq-len 49").replace("-o run", "-o other").as_str(),
        "eval model --text story.txt --seq-len 49",
        "compare model --text story.txt --seq-len 49",
    ] {
        sandbox.refuses(line, "48");
    }
    sandbox.write("sums.jsonl", sums());
    let task = train.replace("--text story.txt", "--task jsonl --data sums.jsonl");
    sandbox.gives(&task.replace("-o run", "-o task"));
    assert_eq!(sandbox.json_file("task/run.json")["settings"]["seq_len"], 48);
}

#[test]
fn a_run_that_improves_the_model_says_by_how_much() {
    let sandbox = Sandbox::new();
    let line = SHORT.replace("--steps 8", "--steps 40");
    let result = sandbox.json(&format!("{line} {EVALUATED} --must-improve --json"));
    assert_eq!(result["improved"], true);
    let of = |which: &str| result[which]["perplexity"].as_f64().unwrap();
    assert!(of("best") < of("start"), "{result}");
    let told = sandbox.gives("train --resume run").stdout;
    assert!(told.contains(" at the start"), "{told}");
}

#[test]
fn a_run_without_evaluations_cannot_be_made_to_improve() {
    let sandbox = Sandbox::new();
    sandbox.refuses(&format!("{SHORT} --must-improve"), "--must-improve: only with evaluations");
    sandbox.gives(SHORT);
    let line = "train --resume run --must-improve";
    sandbox.refuses(line, "--must-improve: only with evaluations");
    // A file of settings is for many runs.
    sandbox.write("settings.toml", "[train]\nmust-improve = true\n");
    sandbox.gives("train --resume run --config settings.toml");
}

#[test]
fn a_text_is_evaluated_in_training_as_it_is_by_eval() {
    let sandbox = Sandbox::new();
    let line = format!("{SHORT} --eval-text story.txt --eval-windows 2");
    for (run, ours, theirs) in [("run", "", ""), ("short", "--eval-seq-len 64", "--seq-len 64")] {
        sandbox.gives(&format!("{line} {ours}").replace("-o run", &format!("-o {run}")));
        let start = evaluations(&sandbox, run)[0]["perplexity"].as_f64().unwrap();
        let base = perplexity(&sandbox, &format!("{run}/base"), &format!("{theirs} --windows 2"));
        assert!((start / base - 1.0).abs() < 1e-4, "{run}: {start} for {base}");
    }
    assert_eq!(sandbox.json_file("run/run.json")["eval_seq_len"], 512);
    sandbox.gives("train --resume short --eval-seq-len 64");
    sandbox.refuses("train --resume run --eval-seq-len 64", "--eval-seq-len: not what");
    let line = line.replace("-o run", "-o other");
    sandbox.refuses(&format!("{line} --eval-seq-len 513"), "--eval-seq-len 513 is more than");
    sandbox.refuses(&format!("{line} --eval-seq-len 1"), "--eval-seq-len: a window needs");
}

#[test]
fn a_second_text_is_watched_and_decides_nothing() {
    let sandbox = Sandbox::new();
    sandbox.write("other.txt", "Two boats went out to sea, and only one came back. ".repeat(20));
    let line = format!("{SHORT} {EVALUATED} --eval-every 4");
    let outcome = sandbox.gives(&format!("{line} --watch-text other.txt --json"));
    assert!(outcome.stderr.contains("step 0: perplexity "), "{outcome:?}");
    assert!(outcome.stderr.contains("; watched text: perplexity "), "{outcome:?}");
    let result: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let lines = evaluations(&sandbox, "run");
    assert!(lines.len() == 3 && lines.iter().all(|line| line["watched_perplexity"].is_number()));
    let best = lines.iter().rfind(|line| line["best"] == true).unwrap();
    let watched = json!({
        "start": lines[0]["watched_perplexity"],
        "best": best["watched_perplexity"],
    });
    assert_eq!(result["watched"], watched);
    let told = sandbox.gives("train --resume run --report page.html").stdout;
    assert!(told.contains("watched text: perplexity "), "{told}");
    let page = String::from_utf8(sandbox.read("page.html")).unwrap();
    assert!(page.contains("\"watched perplexity\""));
    // Without it the run is the same.
    sandbox.gives(&line.replace("-o run", "-o alone"));
    assert!(weights(&sandbox, "run") == weights(&sandbox, "alone"));

    sandbox.write("short.txt", "Too short.");
    let short = format!("{line} --watch-text short.txt").replace("-o run", "-o other");
    sandbox.refuses(&short, "short.txt");
    sandbox.write("other.txt", "Another text altogether. ".repeat(40));
    sandbox.refuses("train --resume run", "other.txt is not what the run began with");
    sandbox.remove("other.txt");
    sandbox.refuses("train --resume run", "other.txt: the run began with this, and it is gone");
    sandbox.misused("train --resume run --watch-text story.txt", "--watch-text");
}

#[test]
fn dry_run_of_a_resumed_run_tells_what_is_left_of_it() {
    let sandbox = Sandbox::new();
    sandbox.gives(SHORT);
    sandbox.remove("run/tokens");
    let before = sandbox.contents();
    let told = sandbox.json("train --resume run --dry-run --json");
    assert_eq!((&told["step"], &told["steps_left"]), (&json!(8), &json!(0)));
    assert!(told["expected_seconds"].is_null(), "{told}");
    let longer = "train --resume run --steps 16 --dry-run";
    let told = sandbox.json(&format!("{longer} --json"));
    assert_eq!((&told["step"], &told["steps_left"]), (&json!(8), &json!(8)));
    assert!(told["extension"].as_str().unwrap().contains("from 8 to 16 steps"), "{told}");
    assert!(told["expected_seconds"].as_f64().unwrap() > 0.0, "{told}");
    let said = sandbox.gives(longer).stdout;
    assert!(said.starts_with("run: 8 steps left of 16, after step 8\n"), "{said}");
    assert!(said.contains("\nextending the run from 8 to 16 steps, with the cosine "), "{said}");
    assert!(said.ends_with("steps tried here\n"), "{said}");
    assert!(sandbox.contents() == before, "something was left behind");
    // What the run itself would refuse is refused.
    sandbox.refuses("train --resume run --dry-run --lr 1", "--lr");
    sandbox.refuses("train --resume run --dry-run --steps 4", "--steps 4");
    sandbox.misused("train --resume run --dry-run --report page.html", "--report");
}

#[test]
fn a_finished_run_is_extended_and_its_steps_stay() {
    let sandbox = Sandbox::new();
    sandbox.gives(&format!("{SHORT} --track-gradients 2"));
    let (before, summary) = (sandbox.read("run/metrics.jsonl"), sandbox.read("run/gradients.json"));
    let short = weights(&sandbox, "run");
    sandbox.refuses("train --resume run --steps 4", "--steps 4: the run has 8");
    sandbox.refuses("train --resume run --steps 16 --lr 1e-4", "--lr (the run has 0.003)");
    let outcome = sandbox.gives("train --resume run --steps 16");
    let told = "extending the run from 8 to 16 steps, with the cosine schedule of 16 steps: the \
                learning rate was 3.00e-4 in step 8 and is ";
    assert!(outcome.stderr.contains(told), "{}", outcome.stderr);
    assert!(sandbox.read("run/metrics.jsonl").starts_with(&before));
    assert_eq!(metrics(&sandbox, "run/metrics.jsonl").len(), 16);
    assert_ne!(sandbox.read("run/gradients.json"), summary);
    let run = sandbox.json_file("run/run.json");
    assert_eq!((&run["settings"]["steps"], &run["extended_from"]), (&json!(16), &json!([8])));
    let long = weights(&sandbox, "run");
    assert!(long != short);
    // It is a finished run of 16 steps now, in whatever directory.
    fs::rename(sandbox.path("run"), sandbox.path("moved")).unwrap();
    for line in ["train --resume moved", "train --resume moved --steps 16"] {
        let stderr = sandbox.gives(line).stderr;
        assert!(
            stderr.contains("resuming from step 16") && !stderr.contains("extending"),
            "{stderr}"
        );
    }
    sandbox.refuses("train --resume moved --steps 8", "--steps 8: the run has 16");
    // An extension of an extension does not say what the learning rate was: its last step may have
    // been taken before it was extended.
    let stderr = sandbox.gives("train --resume moved --steps 20").stderr;
    assert!(stderr.contains("of 20 steps: the learning rate is "), "{stderr}");
    assert!(stderr.contains(" in step 17") && !stderr.contains("rate was"), "{stderr}");
    assert_eq!(sandbox.json_file("moved/run.json")["extended_from"], json!([8, 16]));
    assert!(weights(&sandbox, "moved") != long);
}

#[test]
fn the_model_of_a_run_is_replaced_when_its_extension_is_complete() {
    let sandbox = Sandbox::new();
    sandbox.gives(SHORT);
    let (short, digest) = (weights(&sandbox, "run"), sandbox.read("run/model.digest"));
    sandbox.duplicate("run/model", "kept");
    sandbox.gives("train --resume run --steps 16");
    let long = weights(&sandbox, "run");
    assert!(long != short);
    // Nothing is done for a model that could not be replaced.
    let taken = sandbox.read("run/metrics.jsonl");
    let mut inside = sandbox.command("train --resume ../../run --steps 24");
    let message = Outcome::of(inside.current_dir(sandbox.path("run/model"))).complaint(2);
    assert!(message.contains("working directory"), "{message}");
    assert_eq!(sandbox.json_file("run/run.json")["settings"]["steps"], 16);
    assert!(sandbox.read("run/metrics.jsonl") == taken);
    // As a kill right before the model is written leaves it.
    fs::remove_dir_all(sandbox.path("run/model")).unwrap();
    fs::rename(sandbox.path("kept"), sandbox.path("run/model")).unwrap();
    sandbox.write("run/model.digest", &digest);
    sandbox.gives("train --resume run");
    assert!(weights(&sandbox, "run") == long);
    // And as one between the model and its digest does.
    sandbox.remove("run/model.digest");
    sandbox.gives("train --resume run");
    assert!(weights(&sandbox, "run") == long);
    // Another model is not replaced.
    sandbox.gives("compress model --err 0.3 -o run/model --force");
    sandbox.refuses("train --resume run", "run/model is not what this run wrote");
    sandbox.refuses("train --resume run --steps 24", "run/model is not what this run wrote");
}

#[test]
fn an_extension_that_was_killed_goes_on_to_the_same_model() {
    let sandbox = Sandbox::new();
    for run in ["run", "killed"] {
        sandbox.gives(&SHORT.replace("-o run", &format!("-o {run}")));
    }
    // A run of an earlier version did not note its model.
    sandbox.remove("killed/model.digest");
    let short = weights(&sandbox, "killed");
    sandbox.gives("train --resume run --steps 400");
    let steps = || {
        let metrics = fs::read(sandbox.path("killed/metrics.jsonl")).unwrap_or_default();
        metrics.iter().filter(|byte| **byte == b'\n').count()
    };
    for (line, enough) in [("train --resume killed --steps 400", 8), ("train --resume killed", 40)]
    {
        assert!(killed(sandbox.command(line), "a step", || steps() > enough), "{line} was over");
        assert!(weights(&sandbox, "killed") == short, "the model is replaced at the end");
    }
    let stderr = sandbox.gives("train --resume killed").stderr;
    assert!(stderr.contains("resuming from step") && !stderr.contains("extending"), "{stderr}");
    assert!(weights(&sandbox, "killed") == weights(&sandbox, "run"));
    let losses = |run: &str| -> Vec<Value> {
        let lines = metrics(&sandbox, &format!("{run}/metrics.jsonl"));
        lines.into_iter().map(|line| line["loss"].clone()).collect()
    };
    assert_eq!(losses("killed"), losses("run"));
}

#[test]
fn an_extension_whose_steps_could_not_matter_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.gives(&format!("{SHORT} {EVALUATED}"));
    sandbox.refuses("train --resume run --steps 12", "no evaluation comes after step 8");
    sandbox.gives("train --resume run --steps 16");
    // It began with one evaluation after its last step, and ends with one.
    sandbox.refuses("train --resume run --steps 28", "would be that of step 24");
    let hint = sandbox.run("train --resume run --steps 28").stderr;
    assert!(hint.contains("give --steps 24 or --steps 32"), "{hint}");
    // A run that has run out of patience takes no more steps.
    let line = SPOILED.replace("-o run", "-o spoiled").replace("--steps 8", "--steps 9");
    sandbox.gives(&format!("{line} {EVALUATED} --eval-every 2 --patience 2"));
    sandbox.refuses("train --resume spoiled --steps 20", "no longer improved");
}

#[test]
fn a_text_with_marks_in_place_of_words_is_told() {
    let sandbox = Sandbox::new();
    let story = String::from_utf8(sandbox.read("story.txt")).unwrap();
    sandbox.write("marked.txt", story + " A well @-@ known <unk> came to <unk> .");
    let marked = SHORT.replace("story.txt", "marked.txt");
    for line in [
        format!("{marked} --dry-run"),
        marked,
        "calibrate model --text marked.txt --calibration-seq-len 64 --calibration-windows 6 -o seen"
            .into(),
    ] {
        let stderr = sandbox.gives(&line).stderr;
        let told: Vec<&str> =
            stderr.lines().filter(|line| line.contains("marks such as `<unk>`")).collect();
        assert!(told.len() == 1 && told[0].starts_with("warning: marked.txt: 3 of "), "{stderr}");
        assert!(told[0].contains("use the original text"), "{stderr}");
    }
    assert!(!sandbox.gives(&SHORT.replace("-o run", "-o plain")).stderr.contains("marks"));
}
