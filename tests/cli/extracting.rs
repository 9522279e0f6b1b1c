//! `extract` and `repair`: adapters of what two models differ by.

use safetensors::Dtype;
use serde_json::Value;

use crate::support::{Sandbox, Tensors};

const TEXT: &str = "--text story.txt --seq-len 48 --windows 2";
const Q: &str = "model.layers.1.self_attn.q_proj";
const DOWN: &str = "model.layers.2.mlp.down_proj";

/// Adds a product of two vectors to a matrix of f32: its difference has rank 1.
fn tune(tensors: &mut Tensors, matrix: &str, by: f32) {
    let tensor = tensors.get_mut(&format!("{matrix}.weight")).unwrap();
    assert_eq!(tensor.dtype, Dtype::F32);
    let columns = tensor.shape[1];
    let (entries, _) = tensor.data.as_chunks_mut::<4>();
    for (place, entry) in entries.iter_mut().enumerate() {
        let (row, column) = ((place / columns) as f32, (place % columns) as f32);
        let sum = f32::from_le_bytes(*entry) + by * (row * 0.7).sin() * (column * 0.3).cos();
        *entry = sum.to_le_bytes();
    }
}

/// A sandbox with `wide`, which is the model in f32, and `tuned`, in which two matrices differ.
fn tuned() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.gives("export model --dtype f32 -o wide");
    sandbox.duplicate("wide", "tuned");
    sandbox.edit_tensors("tuned/model.safetensors", |tensors| {
        tune(tensors, Q, 0.05);
        tune(tensors, DOWN, 0.02);
    });
    sandbox
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is not a number"))
}

#[test]
fn an_adapter_of_the_rank_of_the_difference_is_the_tuned_model() {
    let sandbox = tuned();
    let line = "extract tuned --base wide --rank 1 -o adapter --gguf adapter.gguf";
    let dry = sandbox.json(&format!("{line} --dry-run --json"));
    assert!(!sandbox.path("adapter").exists() && !sandbox.path("adapter.gguf").exists());
    let told = sandbox.json(&format!("{line} {TEXT} --json"));
    for field in ["parameters", "bytes", "relative_error", "norm", "same", "not_covered"] {
        assert_eq!(told[field], dry[field], "{field}");
    }
    let names: Vec<&str> =
        told["matrices"].as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap()).collect();
    assert_eq!((names, &told["same"], &told["norm"]), (vec![Q, DOWN], &26.into(), &"svd".into()));
    // 64 x 64 and 64 x 160.
    assert_eq!(told["parameters"], 64 + 64 + 64 + 160);
    assert_eq!(told["not_covered"], Value::Array(Vec::new()));
    assert!(number(&told["relative_error"]) < 1e-5, "{told}");
    let [before, after] =
        ["before", "after"].map(|at| number(&told["divergence"][at]["kl"]["value"]));
    assert!(before > 1e-4 && after.abs() < 1e-9 * before.max(1.0), "{before} and {after}");

    let config = sandbox.json_file("adapter/adapter_config.json");
    let base = config["base_model_name_or_path"].as_str().unwrap();
    assert!(config["r"] == 1 && base.starts_with('/') && base.ends_with("/wide"), "{config}");
    let tensors = sandbox.tensors("adapter/adapter_model.safetensors");
    assert_eq!(tensors.len(), 4);
    let down = &tensors[&format!("base_model.model.{DOWN}.lora_A.weight")];
    assert_eq!((down.dtype, &down.shape[..]), (Dtype::F32, &[1, 160][..]));
    assert!(sandbox.read("adapter.gguf").starts_with(b"GGUF"));
    let eval =
        |model: &str| number(&sandbox.json(&format!("eval {model} {TEXT} --json"))["perplexity"]);
    let (added, tuned) = (eval("wide --adapter adapter"), eval("tuned"));
    assert!((added / tuned - 1.0).abs() < 1e-5, "{added} for {tuned}");

    // It is replaced only if that is asked for.
    sandbox.refuses(line, "adapter");
    let shown = sandbox.gives(&format!("{line} --force")).stdout;
    assert!(shown.contains("wrote adapter: 352 parameters, 1.4 kB"), "{shown}");
    assert!(shown.contains("wrote adapter.gguf for llama.cpp's --lora"), "{shown}");
}

#[test]
fn ranks_meet_what_is_asked_for() {
    let sandbox = tuned();
    // Rank 1 of the first matrix takes 128 parameters, of the second 224.
    for (goal, [least, most]) in [
        ("--err 0.1", [352, 352]),
        ("--err 10%", [352, 352]),
        ("--max-params 351", [128, 351]),
        ("--max-params 352", [352, 352]),
        ("--max-bytes 600", [128, 128]),
        ("--max-bytes 1408", [352, 352]),
    ] {
        let line = format!("extract tuned --base wide {goal} -o adapter --dry-run --json");
        let given = sandbox.json(&line)["parameters"].as_u64().unwrap();
        assert!((least..=most).contains(&given), "{goal}: {given}");
    }
    for (goal, named) in [
        ("--max-params 127", "the smallest takes 128"),
        ("--max-bytes 500", "the smallest takes 512"),
        ("--err 1", "relative error of 1"),
        ("--err 20", "relative error of 20"),
    ] {
        sandbox.refuses(&format!("extract tuned --base wide {goal} -o adapter"), named);
    }
    sandbox.misused("extract tuned --base wide -o adapter", "--rank");
    sandbox.misused("extract tuned --base wide -o adapter --rank 2 --err 0.1", "--err");
}

#[test]
fn what_the_adapter_does_not_change_is_named() {
    let sandbox = tuned();
    sandbox.edit_tensors("tuned/model.safetensors", |tensors| {
        let norm = tensors.get_mut("model.norm.weight").unwrap();
        let (entries, _) = norm.data.as_chunks_mut::<4>();
        entries.iter_mut().for_each(|x| *x = (1.5 * f32::from_le_bytes(*x)).to_le_bytes());
    });
    let outcome = sandbox.gives("extract tuned --base wide --rank 2 -o adapter");
    let warning =
        "warning: 1 tensor differs that the adapter does not change: model.norm.weight (50.0%)";
    assert!(outcome.stderr.contains(warning), "{outcome:?}");
    assert!(outcome.stderr.contains("26 matrices of the selection do not differ"), "{outcome:?}");
    let line = "extract tuned --base wide --rank 2 -o other --include q_proj --json";
    let told = sandbox.json(line);
    let others = told["not_covered"].as_array().unwrap();
    let tensors: Vec<&str> = others.iter().map(|of| of["tensor"].as_str().unwrap()).collect();
    assert_eq!(tensors, [format!("{DOWN}.weight").as_str(), "model.norm.weight"]);
}

#[test]
fn models_that_are_not_versions_of_one_are_refused() {
    let sandbox = tuned();
    sandbox.add("tiny-qwen2", "other");
    for (line, named) in [
        // The directory would be written first, and the file could not be.
        (
            "extract tuned --base wide --rank 2 -o adapter --gguf adapter",
            "--gguf adapter: the adapter's directory would be adapter",
        ),
        ("extract wide --base ./wide --rank 2 -o adapter", "the same model"),
        ("extract model --base wide --rank 2 -o adapter", "do not differ in any selected matrix"),
        ("extract other --base wide --rank 2 -o adapter", "qwen2"),
        ("extract nowhere --base wide --rank 2 -o adapter", "nowhere"),
        ("extract tuned --base wide --rank 2 -o wide --force", "wide"),
        ("extract tuned --base wide --rank 2 -o adapter --gguf story.txt", "story.txt"),
        ("extract tuned --base wide --rank 2 -o adapter --calibration story.txt", "calibration"),
        ("repair tuned --source wide --rank 2 -o adapter --include nosuch", "`nosuch`"),
        (
            "extract tuned --base wide --rank 2 -o adapter --include embed_tokens",
            "`model.embed_tokens` belongs to no linear layer",
        ),
        ("repair tuned --source wide --rank 2 -o adapter --text nowhere.txt", "nowhere.txt"),
    ] {
        sandbox.refuses(line, named);
    }
    sandbox.misused("extract tuned --base wide --rank 2 -o adapter --windows 3", "--text");
    // What only some of the matrices are known to.
    sandbox.gives(
        "calibrate wide --text story.txt --calibration-seq-len 64 --calibration-windows 4 \
         --gradient-windows 4 -o seen",
    );
    let line = "repair tuned --source wide --rank 2 -o adapter --calibration seen --no-types";
    sandbox.gives(&format!("{line} --force"));
    let line = "extract tuned --base model --rank 2 -o adapter2 --calibration seen";
    sandbox.refuses(line, "the calibration was made for another model");
}

/// `low` stands for a quantized model: it was made from `model`, and what it lost is known.
#[test]
fn a_repaired_model_is_nearer_and_at_full_rank_it_is_the_source() {
    let sandbox = Sandbox::new();
    sandbox.gives("compress model --err 0.5 -o low");
    let full = format!("repair low --source model --rank 64 -o full {TEXT} --json");
    let told = sandbox.json(&full);
    let kl = |told: &Value, at: &str| number(&told["divergence"][at]["kl"]["value"]);
    let (before, full) = (kl(&told, "before"), kl(&told, "after"));
    assert!(before > 1e-4 && full.abs() < 1e-6, "{before} and {full}");
    // PEFT would not find the matrices of a factored model.
    let config = sandbox.json_file("full/adapter_config.json");
    assert_eq!(config["base_model_name_or_path"], Value::Null);
    let few = sandbox.json(&format!("repair low --source model --rank 8 -o few {TEXT} --json"));
    assert_eq!(few["divergence"]["before"], told["divergence"]["before"]);
    let after = kl(&few, "after");
    assert!(full < after && after < before, "{full}, {after}, {before}");
}

#[test]
fn a_file_in_types_is_repaired_in_the_norm_of_a_calibration() {
    let sandbox = Sandbox::new();
    sandbox.gives(
        "calibrate model --text story.txt --calibration-seq-len 64 --calibration-windows 8 \
         --gradient-windows 8 -o seen",
    );
    sandbox.gives(
        "compress model --for llama.cpp --calibration seen --types q4_0 --max-bytes 140000 \
         --no-measure -o small.gguf",
    );
    let line = "repair small.gguf --source model --max-bytes 60kB -o repair --gguf repair.gguf";
    let plain = sandbox.json(&format!("{line} --json"));
    assert!(plain["bytes"].as_u64().unwrap() <= 60_000, "{plain}");
    // Neither kind of file for llama.cpp replaces the other.
    let other = "repair small.gguf --source model --rank 1 -o other --gguf small.gguf";
    sandbox.refuses(other, "small.gguf");
    std::fs::copy(sandbox.path("small.gguf"), sandbox.path("kept.gguf")).unwrap();
    sandbox.refuses(
        "repair small.gguf --source model --rank 1 -o other --gguf kept.gguf",
        "kept.gguf exists and is not a GGUF file of an adapter",
    );
    sandbox.refuses("export model --gguf repair.gguf", "exists and is not a GGUF file");
    sandbox.refuses("eval repair.gguf --text story.txt", "a GGUF file of an adapter");
    assert_eq!((&plain["loss"], &plain["norm"]), (&Value::Null, &"svd".into()));
    let next = plain["larger_types"]["matrices"].as_array().unwrap();
    let next = next.iter().find(|matrix| matrix["name"] == Q).unwrap();
    // 64 inputs in 2 blocks of 18 bytes, and of 20 in q4_1, for 64 outputs.
    assert_eq!((&next["next_type"], &next["more_bytes"]), (&"q4_1".into(), &256.into()));

    let told = sandbox.json(&format!("{line} --force --calibration seen {TEXT} --json"));
    assert_eq!(told["norm"], "two-sided");
    let losses = ["before", "after"].map(|at| number(&told["loss"][at]));
    assert!(losses[1] < losses[0] && losses[1] > 0.0, "{told}");
    let kl = ["before", "after"].map(|at| number(&told["divergence"][at]["kl"]["value"]));
    assert!(kl[1] < kl[0], "{told}");
    let types = &told["larger_types"];
    assert_eq!(number(&types["loss_with_adapter"]), losses[1]);
    assert!(number(&types["loss_with_types"]) < losses[0], "{types}");
    let shown = sandbox.gives(&format!("{line} --force --calibration seen")).stdout;
    assert!(shown.contains("the same bytes spent on larger types would leave"), "{shown}");
    let config = sandbox.json_file("repair/adapter_config.json");
    assert_eq!(config["base_model_name_or_path"], Value::Null);
}
