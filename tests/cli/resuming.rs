//! Resumed runs: where they resume, and what of a run's directory is checked first.

use std::fs;

use serde_json::Value;

use crate::support::{Sandbox, killed};
use crate::training::SHORT;

const RESUME: &str = "train --resume run";

/// A sandbox with a finished run.
fn finished() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.gives(SHORT);
    sandbox
}

#[test]
fn resumed_run_says_where_it_goes_on() {
    let sandbox = finished();
    let model = sandbox.read("run/model/model.safetensors");
    let says = |text: &str| {
        let stderr = sandbox.gives(RESUME).stderr;
        assert!(stderr.contains(text), "{stderr}");
    };
    says("resuming from step 8");
    fs::remove_dir_all(sandbox.path("run/checkpoints")).unwrap();
    fs::remove_dir_all(sandbox.path("run/model")).unwrap();
    says("no checkpoint yet: starting from the beginning");
    assert!(model == sandbox.read("run/model/model.safetensors"));
}

#[test]
fn checkpoints_that_nothing_names_are_not_trained_over() {
    let sandbox = finished();
    let pointer = sandbox.read("run/checkpoints/last.json");
    sandbox.remove("run/checkpoints/last.json");
    sandbox.refuses(RESUME, "last.json: no such file, although there are checkpoints");
    sandbox.write("run/checkpoints/last.json", pointer);
    sandbox.gives(RESUME);
}

#[test]
fn best_checkpoint_is_missed_before_the_end() {
    let sandbox = Sandbox::new();
    sandbox.gives(&format!("{SHORT} --eval-text story.txt --eval-every 4 --eval-windows 4"));
    sandbox.gives(RESUME);
    sandbox.remove("run/checkpoints/best.json");
    sandbox.refuses(RESUME, "best.json: no such file");
}

#[test]
fn checkpoints_stay_where_a_file_that_names_one_cannot_be_read() {
    let sandbox = finished();
    for name in ["last.json", "best.json"] {
        let file = format!("run/checkpoints/{name}");
        let unreadable = format!("{name}: not a readable checkpoint");
        let before = fs::read(sandbox.path(&file)).ok();
        // `refuses` checks that nothing is gone.
        for damaged in ["", "{ half", "{}"] {
            sandbox.write(&file, damaged);
            sandbox.refuses(RESUME, &unreadable);
            assert!(sandbox.run(RESUME).stderr.contains("hint: restore the original file"));
        }
        sandbox.remove(&file);
        fs::create_dir(sandbox.path(&file)).unwrap();
        sandbox.refuses(RESUME, &unreadable);
        fs::remove_dir(sandbox.path(&file)).unwrap();
        if let Some(content) = before {
            sandbox.write(&file, content);
        }
        sandbox.gives(RESUME);
    }
}

#[test]
fn files_of_a_checkpoint_must_be_those_that_were_saved() {
    let sandbox = finished();
    sandbox.gives(&SHORT.replace("-o run", "-o other").replace("--warmup 2", "--warmup 3"));
    for file in ["trainable.bpk", "optimizer.bpk"] {
        let path = format!("run/checkpoints/step-8/{file}");
        let saved = sandbox.read(&path);
        let mut flipped = saved.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let others = sandbox.read(&format!("other/checkpoints/step-8/{file}"));
        for wrong in [flipped, others] {
            sandbox.write(&path, wrong);
            sandbox.refuses(RESUME, &format!("{file}: not the file that was saved"));
        }
        sandbox.remove(&path);
        sandbox.refuses(RESUME, file);
        sandbox.write(&path, saved);
    }
    sandbox.gives(RESUME);
}

#[test]
fn position_must_be_one_that_the_run_can_be_at() {
    let sandbox = finished();
    let pointer = sandbox.read("run/checkpoints/last.json");
    type Edit = fn(&mut Value);
    let edits: [(Edit, &str); 6] = [
        (|pointer| pointer["position"]["step"] = 6.into(), "at step 6 and names `step-8`"),
        (|pointer| pointer["directory"] = "step-6".into(), "at step 8 and names `step-6`"),
        (|pointer| pointer["directory"] = "../../model".into(), "is not a checkpoint"),
        (|pointer| pointer["position"]["tokens"] = 1.into(), "it has 1 token, but 8 steps have"),
        (|pointer| pointer["position"]["evaluated"] = 4.into(), "evaluations"),
        (
            |pointer| {
                pointer["position"]["step"] = 99.into();
                pointer["directory"] = "step-99".into();
            },
            "step 99 of a run of 8",
        ),
    ];
    for (edit, named) in edits {
        sandbox.edit_json("run/checkpoints/last.json", edit);
        let message = sandbox.refuses(RESUME, named);
        assert!(message.contains("last.json"), "{message}");
        sandbox.write("run/checkpoints/last.json", &pointer);
    }
    sandbox.gives(RESUME);
}

#[test]
fn lost_metrics_are_told_and_not_needed() {
    let sandbox = finished();
    let metrics = String::from_utf8(sandbox.read("run/metrics.jsonl")).unwrap();
    let kept: String = metrics.split_inclusive('\n').skip(5).collect();
    sandbox.write("run/metrics.jsonl", kept);
    let stderr = sandbox.gives(RESUME).stderr;
    assert!(stderr.contains("metrics.jsonl lacks 5 of 8 steps"), "{stderr}");
    sandbox.remove("run/metrics.jsonl");
    let stderr = sandbox.gives(RESUME).stderr;
    assert!(stderr.contains("metrics.jsonl lacks 8 of 8 steps"), "{stderr}");
}

#[test]
fn whatever_is_in_the_place_of_the_model_is_kept() {
    let sandbox = finished();
    // A model in a run that is not finished.
    fs::rename(sandbox.path("run/checkpoints"), sandbox.path("checkpoints")).unwrap();
    sandbox.refuses(RESUME, "run/model is not what this run wrote");
    fs::rename(sandbox.path("checkpoints"), sandbox.path("run/checkpoints")).unwrap();
    // Something else in a run that is finished.
    fs::rename(sandbox.path("run/model"), sandbox.path("moved")).unwrap();
    fs::create_dir(sandbox.path("run/model")).unwrap();
    sandbox.write("run/model/note.txt", "mine");
    sandbox.refuses(RESUME, "run/model is not what this run wrote");
    sandbox.remove("run/model/note.txt");
    fs::remove_dir(sandbox.path("run/model")).unwrap();
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("../moved", sandbox.path("run/model")).unwrap();
        sandbox.refuses(RESUME, "run/model is not what this run wrote");
        sandbox.remove("run/model");
    }
    sandbox.gives(RESUME);
    assert!(sandbox.read("run/model/model.safetensors") == sandbox.read("moved/model.safetensors"));
}

#[test]
fn another_model_is_not_passed_off_as_that_of_the_run() {
    let sandbox = finished();
    let written = sandbox.read("run/model/model.safetensors");
    let digest = sandbox.read("run/model.digest");
    sandbox.gives("compress model --err 0.3 -o run/model --force");
    sandbox.refuses(RESUME, "run/model is not what this run wrote");
    fs::remove_dir_all(sandbox.path("run/model")).unwrap();
    sandbox.duplicate("model", "run/model");
    sandbox.refuses(RESUME, "run/model is not what this run wrote");
    // Out of the way, the run writes its own again.
    fs::remove_dir_all(sandbox.path("run/model")).unwrap();
    sandbox.gives(RESUME);
    assert!(sandbox.read("run/model/model.safetensors") == written);
    assert_eq!(sandbox.read("run/model.digest"), digest);
    // A score on its card does not make it another model.
    sandbox.gives("eval run/model --text story.txt --seq-len 64 --windows 1 --record");
    sandbox.gives(RESUME);
    // Runs of earlier versions do not say what they wrote.
    sandbox.remove("run/model.digest");
    sandbox.gives(RESUME);
}

#[test]
fn start_that_was_killed_can_be_made_again() {
    let sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.path("run/.welore-1.partial")).unwrap();
    sandbox.write("run/.welore-1.partial/config.json", "half");
    sandbox.write("run/.welore-2", "half");
    // As a full disk cuts it short.
    sandbox.write("run/lock", "a run of we");
    sandbox.refuses(RESUME, "run is not a run: it has no run.json");
    sandbox.write("run/note.txt", "mine");
    sandbox.refuses(SHORT, "run exists and is not empty");
    sandbox.remove("run/note.txt");
    sandbox.gives(SHORT);

    // What a kill in the middle of a checkpoint leaves behind is removed too.
    fs::create_dir(sandbox.path("run/checkpoints/.welore-3")).unwrap();
    sandbox.write("run/checkpoints/.welore-4", "half");
    sandbox.gives(RESUME);
    let left = sandbox.contents().into_keys();
    let left: Vec<_> = left.filter(|path| path.to_string_lossy().contains("/.welore-")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn start_that_is_killed_at_any_moment_can_be_made_again() {
    let sandbox = Sandbox::new();
    // Texts that are tokenized long enough for a kill to hit.
    sandbox.write("story.txt", sandbox.read("story.txt").repeat(20));
    let line = format!("{SHORT} --eval-text story.txt --eval-windows 2");
    sandbox.gives(&line.replace("-o run", "-o whole"));
    for newest in ["lock", "base", "tokens"] {
        let there = |name: &str| sandbox.path("run").join(name).exists();
        let inside = || there(newest) && !there("run.json");
        let hit = (0..10).any(|_| {
            let hit = killed(sandbox.command(&line), newest, inside) && inside();
            if !hit {
                fs::remove_dir_all(sandbox.path("run")).unwrap();
            }
            hit
        });
        assert!(hit, "no start was killed between {newest} and run.json");
        sandbox.refuses(RESUME, "run is not a run: it has no run.json");
        sandbox.gives(&line);
        let [model, whole] =
            ["run", "whole"].map(|run| sandbox.read(&format!("{run}/model/model.safetensors")));
        assert!(model == whole, "after a kill at {newest}");
        fs::remove_dir_all(sandbox.path("run")).unwrap();
    }
}

#[test]
fn start_is_made_again_only_where_nothing_else_is() {
    let sandbox = finished();
    let line = SHORT.replace("-o run", "-o killed");
    // What a killed start leaves behind.
    sandbox.duplicate("run/base", "killed/base");
    for file in ["lock", "tokens"] {
        sandbox.write(&format!("killed/{file}"), sandbox.read(&format!("run/{file}")));
    }
    for mine in ["note.txt", "run.json", "model.safetensors"] {
        sandbox.write(&format!("killed/{mine}"), "mine");
        sandbox.refuses(&line, "killed exists and is not empty");
        sandbox.remove(&format!("killed/{mine}"));
    }
    sandbox.gives(&line);
    let [model, whole] =
        ["killed", "run"].map(|run| sandbox.read(&format!("{run}/model/model.safetensors")));
    assert!(model == whole);
    // Without the lock of a run, these names mean nothing.
    sandbox.duplicate("run/base", "folder/base");
    sandbox.write("folder/tokens", "mine");
    sandbox.refuses(&SHORT.replace("-o run", "-o folder"), "folder exists and is not empty");
}

#[test]
fn settings_of_a_run_are_refused_where_they_are() {
    let sandbox = finished();
    sandbox.refuses(&format!("{RESUME} --lora-rank 8"), "--lora-rank: only for --trainable lora");
    sandbox.refuses(&format!("{RESUME} --never-grow"), "--never-grow: not what the run began with");
    sandbox.edit_json("run/run.json", |run| run["settings"]["seq_len"] = 600.into());
    sandbox.refuses(RESUME, "run.json: --seq-len 600 is more than");
}

#[cfg(unix)]
#[test]
fn link_to_nowhere_is_no_place_for_a_run() {
    let sandbox = Sandbox::new();
    std::os::unix::fs::symlink("nowhere", sandbox.path("link")).unwrap();
    for line in [SHORT.replace("-o run", "-o link"), "demo -o link".into()] {
        let message = sandbox.run(&line).complaint(2);
        assert!(message.contains("link is not a directory"), "{message}");
    }
}
