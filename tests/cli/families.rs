//! Families whose files name or join matrices in ways of their own, from a model to a tuned, exported
//! one.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::Sandbox;

const EVAL: &str = "--text story.txt --seq-len 64 --windows 4 --json";
const CALIBRATE: &str = "--calibration-seq-len 64 --calibration-windows 4 --gradient-windows 2";

/// A sandbox with a fixture as `other`. Its tokens are letters and marks.
fn sandbox(fixture: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.add(fixture, "other");
    let tokens = ('a'..='z').chain('A'..='Z').chain(".,!?'\"-:;()".chars()).map(String::from);
    let tokens = ["<|endoftext|>".to_string()].into_iter().chain(tokens);
    let vocabulary: Value = tokens.zip(0..).map(|(token, id)| (token, json!(id))).collect();
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": { "type": "WhitespaceSplit" },
        "post_processor": null,
        "decoder": null,
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": vocabulary,
            "merges": [],
        },
    });
    sandbox.write("other/tokenizer.json", tokenizer.to_string());
    sandbox
}

fn names(matrices: &Value) -> BTreeSet<String> {
    let matrices = matrices.as_array().unwrap().iter();
    matrices.map(|matrix| matrix["name"].as_str().unwrap().to_string()).collect()
}

/// Goes the whole way with a model of these matrices in each of its two layers.
fn goes_the_whole_way(fixture: &str, layers: &str, matrices: [&str; 4]) {
    let sandbox = sandbox(fixture);
    let of_layer = |layer: usize| matrices.map(|matrix| format!("{layers}.{layer}.{matrix}"));
    let all: BTreeSet<String> = (0..2).flat_map(of_layer).collect();
    let spectra = sandbox.json("analyze other --json");
    assert_eq!(names(&spectra["matrices"]), all);

    sandbox.gives(&format!("calibrate other --text story.txt {CALIBRATE} -o seen"));
    sandbox.gives("compress other --calibration seen --keep-params 0.6 -o low");
    let plan = sandbox.json_file("low/welore_plan.json");
    assert_eq!(names(&plan["matrices"]), all);
    let low = sandbox.json("inspect low --json");
    assert_eq!(low["parameters"], plan["totals"]["parameters_after"]);
    let factored = names(&low["factored"]);
    assert!(!factored.is_empty() && factored.is_subset(&all), "{factored:?}");

    let perplexity =
        |model: &str| sandbox.json(&format!("eval {model} {EVAL}"))["perplexity"].as_f64().unwrap();
    let before = perplexity("low");
    sandbox.gives(
        "train low --text story.txt --seq-len 64 --batch-size 2 --steps 4 --lr 3e-3 --warmup 0 \
         -o run",
    );
    let tuned = perplexity("run/model");
    assert!(tuned < before, "{tuned} for {before}");
    sandbox.gives("export run/model --dense -o dense");
    let layout = |model: &str| -> Vec<_> {
        let tensors = sandbox.tensors(&format!("{model}/model.safetensors"));
        tensors.into_iter().map(|(name, tensor)| (name, tensor.dtype, tensor.shape)).collect()
    };
    assert_eq!(layout("dense"), layout("other"));
    assert_eq!(sandbox.json_file("dense/config.json"), sandbox.json_file("other/config.json"));
    let exported = perplexity("dense");
    assert!((exported / tuned - 1.0).abs() < 1e-3, "{exported} for {tuned}");

    // There is no gate of its own whose rows could go.
    let channels = "compress other --forms channels --calibration seen --keep-params 0.9 -o out";
    sandbox.refuses(channels, "no MLP with gate, up and down projections");
}

#[test]
fn joined_matrices_go_the_whole_way_under_their_names() {
    let matrices = ["self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"];
    goes_the_whole_way("tiny-phi3", "model.layers", matrices);
}

#[test]
fn gpt_neox_goes_the_whole_way_under_its_own_names() {
    let matrices =
        ["attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"];
    goes_the_whole_way("tiny-neox", "gpt_neox.layers", matrices);
}

#[test]
fn gpt_2_goes_the_whole_way_with_weights_as_its_files_have_them() {
    goes_the_whole_way(
        "tiny-gpt2",
        "transformer.h",
        ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"],
    );
}

#[test]
fn experts_are_counted() {
    for fixture in ["tiny-gpt-oss", "tiny-mixtral"] {
        let sandbox = sandbox(fixture);
        let shown = sandbox.gives("inspect other").stdout;
        assert!(shown.contains("MLP size 16 (4 experts, 2 for each token)"), "{shown}");
    }
}
