//! LoRA adapters on the command line: what `train` writes, and what `--adapter` adds to a model.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Sandbox, Tensor, killed};
use crate::training::SHORT;

/// A few steps of LoRA.
const TUNED: &str = "train model --trainable lora --lora-rank 2 --text story.txt -o run --seq-len 32 \
                     --batch-size 2 --steps 6 --lr 3e-3 --warmup 2 --save-every 2";

fn perplexity(sandbox: &Sandbox, what: &str) -> f64 {
    let line = format!("eval {what} --text story.txt --seq-len 64 --windows 4 --json");
    sandbox.json(&line)["perplexity"].as_f64().unwrap()
}

fn assert_close(one: f64, other: f64, most: f64) {
    assert!((one / other - 1.0).abs() < most, "{one} and {other}");
}

#[test]
fn an_adapter_is_written_beside_its_model_and_computes_the_same() {
    let sandbox = Sandbox::new();
    let told = sandbox.gives(TUNED).stdout;
    assert!(told.contains("the adapter is in run/adapter"), "{told}");
    let config = sandbox.json_file("run/adapter/adapter_config.json");
    assert_eq!((&config["peft_type"], &config["r"]), (&json!("LORA"), &json!(2)));
    let base = config["base_model_name_or_path"].as_str().unwrap();
    assert!(base.ends_with("/model"), "{base}");
    let kinds =
        json!(["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]);
    assert_eq!(config["target_modules"], kinds);
    let tensors = sandbox.tensors("run/adapter/adapter_model.safetensors");
    assert_eq!(tensors.len(), 4 * 7 * 2);
    assert!(tensors.values().all(|tensor| tensor.dtype == safetensors::Dtype::F32));

    // The merged model is in bf16, the adapter is not.
    let (plain, merged) = (perplexity(&sandbox, "model"), perplexity(&sandbox, "run/model"));
    let adapted = perplexity(&sandbox, "model --adapter run/adapter");
    assert_close(adapted, merged, 0.01);
    assert!((adapted / plain - 1.0).abs() > 1e-4, "it does something: {adapted} {plain}");
    sandbox.gives("export model --adapter run/adapter --dense --dtype f32 -o whole");
    assert_close(perplexity(&sandbox, "whole"), adapted, 1e-5);
    let line = "generate model --adapter run/adapter --prompt Mia --max-new-tokens 4 --json";
    let generated = sandbox.json(line);
    assert_eq!(generated["adapter"], "run/adapter");
    let line = "generate whole --prompt Mia --max-new-tokens 4 --json";
    assert_eq!(generated["ids"], sandbox.json(line)["ids"]);
}

#[test]
fn a_run_that_was_stopped_writes_the_same_adapter() {
    let sandbox = Sandbox::new();
    sandbox.gives(TUNED);
    let whole = sandbox.read("run/adapter/adapter_model.safetensors");
    let other = TUNED.replace("-o run", "-o stopped");
    let begun = sandbox.path("stopped/checkpoints/last.json");
    let hit = killed(sandbox.command(&other), "a checkpoint", || {
        fs::read_to_string(&begun).is_ok_and(|text| text.contains("step-"))
    });
    // If it was finished before, its model is there.
    if hit && !sandbox.path("stopped/model").is_dir() {
        sandbox.gives("train --resume stopped");
    }
    assert_eq!(sandbox.read("stopped/adapter/adapter_model.safetensors"), whole);
    assert!(sandbox.json("train --resume stopped --json")["adapter"].is_string());
}

/// It belongs to the dense model, since the factors are multiplied together before they train.
#[test]
fn an_adapter_of_a_compressed_model_says_what_it_belongs_to() {
    let sandbox = Sandbox::new();
    sandbox.gives("compress model --err 0.8 -o low");
    let told = sandbox.gives(&TUNED.replace("train model", "train low")).stderr;
    assert!(told.contains("note: the adapter belongs to the dense model"), "{told}");
    assert!(told.contains("low --dense"), "{told}");
    let config = sandbox.json_file("run/adapter/adapter_config.json");
    assert_eq!(config["base_model_name_or_path"], Value::Null);
    // Beside the factors it computes the same.
    let merged = perplexity(&sandbox, "run/model");
    assert_close(perplexity(&sandbox, "low --adapter run/adapter"), merged, 0.01);
    sandbox.gives("export low --adapter run/adapter --dense --dtype f32 -o whole");
    assert!(!sandbox.path("whole/welore_plan.json").exists());
    let whole = perplexity(&sandbox, "whole");
    assert_close(perplexity(&sandbox, "low --adapter run/adapter --dtype f32"), whole, 1e-4);
}

#[test]
fn training_starts_from_the_model_with_its_adapter() {
    let sandbox = Sandbox::new();
    sandbox.gives(TUNED);
    let line = "train model --adapter run/adapter --trainable full --text story.txt -o more \
                --seq-len 32 --batch-size 2 --steps 2 --save-every 0";
    let told = sandbox.gives(&format!("{line} --dry-run")).stdout;
    assert!(told.contains("would train"), "{told}");
    let told = sandbox.gives(line).stderr;
    assert!(told.contains("run/adapter is added to the model"), "{told}");
    let merged = perplexity(&sandbox, "run/model");
    assert_close(perplexity(&sandbox, "more/base"), merged, 1e-3);
    assert_eq!(sandbox.json_file("more/run.json")["base"], "base");
    assert!(!sandbox.path("more/adapter").exists());
    // The sum is dense, so it has no factors to train.
    let line = line.replace("--trainable full", "--trainable lrc").replace("-o more", "-o again");
    sandbox.refuses(&line, "leaves nothing to train");
}

#[test]
fn adapters_that_do_not_fit_are_refused_before_anything_is_made() {
    let sandbox = Sandbox::new();
    sandbox.gives(TUNED);
    let lines = |adapter: &str| {
        [
            format!("eval model --text story.txt --adapter {adapter}"),
            format!("generate model --prompt Mia --adapter {adapter}"),
            format!("export model --adapter {adapter} --dense -o out"),
            format!("export model --adapter {adapter} --gguf-lora out.gguf"),
            format!("train model --adapter {adapter} --trainable full --text story.txt -o more"),
        ]
    };
    for line in lines("nowhere") {
        sandbox.refuses(&line, "nowhere/adapter_config.json: no such file");
    }
    sandbox.duplicate("run/adapter", "dora");
    sandbox.edit_json("dora/adapter_config.json", |config| config["use_dora"] = true.into());
    sandbox.duplicate("run/adapter", "other");
    sandbox.edit_tensors("other/adapter_model.safetensors", |tensors| {
        let add =
            |tensors: &mut std::collections::BTreeMap<String, Tensor>, part, shape: &[usize]| {
                let name = format!("base_model.model.model.layers.9.mlp.up_proj.{part}.weight");
                tensors.insert(name, Tensor::zeros(safetensors::Dtype::F32, shape));
            };
        add(tensors, "lora_A", &[2, 64]);
        add(tensors, "lora_B", &[160, 2]);
    });
    sandbox.duplicate("run/adapter", "wide");
    sandbox.edit_tensors("wide/adapter_model.safetensors", |tensors| {
        let name = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight";
        tensors.insert(name.into(), Tensor::zeros(safetensors::Dtype::F32, &[2, 65]));
    });
    for (adapter, named) in [
        ("dora", "DoRA"),
        ("other", "`model.layers.9.mlp.up_proj`, which is no matrix of this model"),
        ("wide", "[160, 65], but the model's has [160, 64]"),
    ] {
        for line in lines(adapter) {
            sandbox.refuses(&line, named);
        }
    }
    // Of a model whose names begin otherwise, a matrix may have two.
    sandbox.duplicate("model", "wrapped");
    sandbox.edit_tensors("wrapped/model.safetensors", |tensors| {
        let all = std::mem::take(tensors).into_iter();
        *tensors = all.map(|(name, tensor)| (format!("module.{name}"), tensor)).collect();
    });
    sandbox.gives("eval wrapped --text story.txt --seq-len 64 --windows 1 --adapter run/adapter");
    sandbox.duplicate("run/adapter", "twice");
    sandbox.edit_tensors("twice/adapter_model.safetensors", |tensors| {
        for (part, shape) in [("lora_A", [2, 64]), ("lora_B", [160, 2])] {
            let name = format!("base_model.model.module.model.layers.0.mlp.up_proj.{part}.weight");
            tensors.insert(name, Tensor::zeros(safetensors::Dtype::F32, &shape));
        }
    });
    sandbox.refuses("-q eval wrapped --text story.txt --adapter twice", "twice, by two names");
    for line in ["--adapter run/adapter --record", "--adapter run/adapter --save-logits seen"] {
        sandbox.misused(&format!("eval model --text story.txt {line}"), "--adapter");
    }
}

/// An adapter that is given as a model is told where it goes.
#[test]
fn an_adapter_is_no_model() {
    let sandbox = Sandbox::new();
    sandbox.gives(TUNED);
    let outcome = sandbox.run("eval run/adapter --text story.txt");
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    assert!(outcome.stderr.contains("--adapter"), "{outcome:?}");
}

#[test]
fn other_methods_write_no_adapter() {
    let sandbox = Sandbox::new();
    let result = sandbox.json(&format!("{SHORT} --json"));
    assert_eq!(result["adapter"], Value::Null);
    assert!(!sandbox.path("run/adapter").exists());
}

#[test]
fn adapters_are_written_for_llama_cpp() {
    let sandbox = Sandbox::new();
    sandbox.gives(TUNED);
    let line = "export model --adapter run/adapter --gguf-lora tuned.gguf --json";
    let before = sandbox.json(&format!("{line} --dry-run"));
    assert!(!sandbox.path("tuned.gguf").exists());
    let told = sandbox.json(line);
    assert_eq!(told["bytes"], before["bytes"]);
    assert_eq!(told["bytes"], sandbox.read("tuned.gguf").len());
    assert_eq!((&told["architecture"], &told["types"]["f32"]), (&json!("llama"), &json!(56)));
}
