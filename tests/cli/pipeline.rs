//! From a model to a smaller one, command by command, compared with PyTorch's figures.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::support::{Sandbox, expected};

const BLOCKS: &str = "--text story.txt --seq-len 64 --windows 8";

/// A sandbox in which `model` was compressed into `low`, through `spectra.json` and `plan.json`.
fn compressed() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.gives("analyze model -o spectra.json");
    sandbox.gives("plan spectra.json --err 0.5 -o plan.json");
    sandbox.gives("compress model --plan plan.json -o low");
    sandbox
}

/// PyTorch's results at the ERR and the min_ratio that [`compressed`] uses: the ranks of all
/// matrices, and the figures of the factored model.
fn expected_at_half() -> (BTreeMap<String, u64>, Value) {
    let figures = expected();
    let runs = figures["compress"].as_array().unwrap();
    let run = runs.iter().find(|run| run["err"] == 0.5).unwrap();
    let factored = run["factored"].as_array().unwrap();
    let factored = factored.iter().find(|run| run["min_ratio"] == 0.5).unwrap();
    let ranks = run["ranks"].as_object().unwrap();
    let ranks = ranks.iter().map(|(name, rank)| (name.clone(), rank.as_u64().unwrap()));
    (ranks.collect(), factored.clone())
}

fn ranks(matrices: &Value) -> BTreeMap<String, u64> {
    let matrices = matrices.as_array().unwrap();
    matrices.iter().map(|matrix| (name_of(matrix), matrix["rank"].as_u64().unwrap())).collect()
}

fn name_of(matrix: &Value) -> String {
    matrix["name"].as_str().unwrap().into()
}

fn sorted_names(names: &Value) -> Vec<String> {
    let mut names: Vec<String> = names.as_array().unwrap().iter().map(text).collect();
    names.sort();
    names
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().into()
}

fn assert_close(actual: &Value, expected: &Value, relative: f64) {
    let (actual, expected) = (actual.as_f64().unwrap(), expected.as_f64().unwrap());
    assert!((actual / expected - 1.0).abs() < relative, "{actual} for {expected}");
}

#[test]
fn plan_has_the_expected_ranks_and_parameters() {
    let sandbox = compressed();
    let (expected_ranks, figures) = expected_at_half();
    let plan = sandbox.json_file("plan.json");
    assert_eq!(ranks(&plan["matrices"]), expected_ranks);
    assert_eq!(plan["totals"]["parameters_before"], expected()["params"]);
    assert_eq!(plan["totals"]["parameters_after"], figures["params"]);
}

#[test]
fn compressed_model_has_the_expected_factors_parameters_and_perplexity() {
    let sandbox = compressed();
    let (planned, figures) = expected_at_half();
    let low = sandbox.json("inspect low --json");
    assert_eq!(low["parameters"], figures["params"]);
    let stored = ranks(&low["factored"]);
    assert_eq!(stored.keys().cloned().collect::<Vec<_>>(), sorted_names(&figures["matrices"]));
    assert!(stored.iter().all(|(name, rank)| planned[name] == *rank), "{stored:?}");

    let measured = sandbox.json(&format!("eval low {BLOCKS} --json"));
    assert_close(&measured["perplexity"], &figures["perplexity"], 0.01);
    assert_eq!(measured["parameters"], figures["params"]);
    assert_eq!(measured["tokens"], 8 * 63);
}

#[test]
fn dense_model_has_the_expected_perplexity() {
    let sandbox = Sandbox::new();
    let figures = expected();
    // [`BLOCKS`] has the settings that PyTorch had.
    assert_eq!(figures["perplexity"]["seq_len"], 64);
    assert_eq!(figures["perplexity"]["blocks"], 8);
    let measured = sandbox.json(&format!("eval model {BLOCKS} --json"));
    assert_close(&measured["perplexity"], &figures["perplexity"]["value"], 0.001);
    assert_eq!(measured["parameters"], figures["params"]);
}

#[test]
fn exported_model_is_a_plain_dense_one_that_predicts_like_the_compressed_one() {
    let sandbox = compressed();
    sandbox.gives("export low --dense -o dense");
    let layout = |model: &str| -> Vec<_> {
        let tensors = sandbox.tensors(&format!("{model}/model.safetensors"));
        tensors.into_iter().map(|(name, tensor)| (name, tensor.dtype, tensor.shape)).collect()
    };
    assert_eq!(layout("dense"), layout("model"));
    assert!(!sandbox.path("dense/welore_plan.json").exists());
    assert_eq!(sandbox.json_file("dense/config.json"), sandbox.json_file("model/config.json"));

    let perplexity =
        |model: &str| sandbox.json(&format!("eval {model} {BLOCKS} --json"))["perplexity"].clone();
    // The product is rounded to bfloat16 once more.
    assert_close(&perplexity("dense"), &perplexity("low"), 0.001);
}

#[test]
fn plan_of_a_model_is_the_plan_of_its_spectra() {
    let sandbox = compressed();
    let from_model = sandbox.json("plan model --err 0.5 --json");
    let from_spectra = sandbox.json("plan spectra.json --err 0.5 --json");
    assert_eq!(from_model, from_spectra);
    assert_eq!(from_model, sandbox.json_file("plan.json"));
}

#[test]
fn compressing_to_an_err_writes_what_compressing_by_its_plan_writes() {
    let sandbox = compressed();
    sandbox.gives("compress model --err 0.5 -o direct");
    for file in ["model.safetensors", "welore_plan.json", "config.json", "tokenizer.json"] {
        let [direct, planned] = ["direct", "low"].map(|dir| sandbox.read(&format!("{dir}/{file}")));
        assert!(direct == planned, "{file} differs");
    }
}

#[test]
fn compressed_directory_carries_its_plan() {
    let sandbox = compressed();
    assert_eq!(sandbox.plan_of("low"), sandbox.json_file("plan.json"));
    let low = sandbox.json("inspect low --json");
    assert_eq!(low["plan"]["policy"], "welore");
    assert_eq!(low["plan"]["target"]["err"], 0.5);
}

#[test]
fn err_may_be_that_of_the_factored_matrices() {
    let sandbox = Sandbox::new();
    sandbox.gives("compress model --err-applied 0.3 -o low");
    let plan = sandbox.json("plan model --err-applied 0.3 --json");
    assert_eq!(plan, sandbox.plan_of("low"));
    assert_eq!(plan["target"], serde_json::json!({ "err_applied": 0.3 }));
    let applied = plan["totals"]["err_applied"].as_f64().unwrap();
    assert!((0.3..0.35).contains(&applied) && plan["totals"]["err"].as_f64().unwrap() > applied);
    sandbox.write("settings.toml", "[plan]\nerr-applied = 0.2\n");
    let plan = |options: &str| {
        sandbox.json(&format!("plan model --config settings.toml --json {options}"))
    };
    assert_eq!(plan("")["target"]["err_applied"], 0.2);
    assert_eq!(plan("--err 0.4")["target"], serde_json::json!({ "err": 0.4 }));
}

#[test]
fn plan_has_the_documented_fields() {
    let sandbox = Sandbox::new();
    let plan = sandbox.json("plan model --err 0.5 --json");
    let has = |value: &Value, fields: &str| {
        let found: BTreeSet<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        let documented: BTreeSet<&str> = fields.split_whitespace().collect();
        assert_eq!(found, documented);
    };
    has(
        &plan,
        "format version source policy unit target threshold min_ratio rank_multiple never_grow \
         min_saving totals matrices",
    );
    has(
        &plan["totals"],
        "err err_applied keep_params matrices lrcs growing parameters_before parameters_after bytes_before \
         bytes_after energy_lost expected_speed",
    );
    has(
        &plan["matrices"][0],
        "name shape full_rank rank reduction form grows parameters_before parameters_after dtype \
         digest",
    );
    assert_eq!(plan["format"], "welore-plan");
    assert_eq!(plan["version"], 3);
}

#[test]
fn plan_tells_every_matrix_with_its_shape_its_rank_and_its_class() {
    let sandbox = compressed();
    let tensors = sandbox.tensors("model/model.safetensors");
    let plan = sandbox.json_file("plan.json");
    let matrices = plan["matrices"].as_array().unwrap();
    let projections = tensors.keys().filter(|name| name.ends_with("_proj.weight")).count();
    assert_eq!(matrices.len(), projections);
    for matrix in matrices {
        let shape = &tensors[&format!("{}.weight", name_of(matrix))].shape;
        assert_eq!(matrix["shape"], serde_json::json!(shape), "[out, in], as stored: {matrix}");
        let full_rank = *shape.iter().min().unwrap();
        assert_eq!(matrix["full_rank"], full_rank, "{matrix}");
        let rank = matrix["rank"].as_u64().unwrap() as usize;
        assert!((1..=full_rank).contains(&rank), "{matrix}");
        let loses_half = (full_rank - rank) * 2 >= full_rank;
        let form = match loses_half {
            true => serde_json::json!({ "kind": "factors", "rank": rank }),
            false => serde_json::json!({ "kind": "dense" }),
        };
        assert_eq!(matrix["form"], form, "{matrix}");
    }
}

#[test]
fn patterns_pick_matrices_of_a_model_and_of_spectra_alike() {
    let sandbox = compressed();
    for source in ["model", "spectra.json"] {
        let plan = sandbox.json(&format!(
            "plan {source} --err 0.3 --include q_proj,k_proj --exclude *.layers.0.* --json"
        ));
        let names: Vec<String> = plan["matrices"].as_array().unwrap().iter().map(name_of).collect();
        let wanted = |name: &str| {
            (name.ends_with("q_proj") || name.ends_with("k_proj")) && !name.contains("layers.0")
        };
        assert!(names.len() == 6 && names.iter().all(|name| wanted(name)), "{names:?}");
    }
}

#[test]
fn other_architectures_and_shards_go_the_same_road() {
    for fixture in ["tiny-llama3", "tiny-qwen2", "tiny-mistral"] {
        let sandbox = Sandbox::new();
        sandbox.add(fixture, "other");
        sandbox.gives("compress other --err 0.4 --min-ratio 0 -o low");
        sandbox.gives("export low --dense -o dense");
        let [other, low, dense] = ["other", "low", "dense"]
            .map(|model: &str| sandbox.json(&format!("inspect {model} --json")));
        assert_ne!(low["parameters"], other["parameters"], "{fixture}");
        for field in ["parameters", "bytes", "tensors", "dtypes", "config"] {
            assert_eq!(dense[field], other[field], "{field} of {fixture}");
        }
    }
}

/// A compressed model holds its plan.
#[test]
fn the_plan_of_a_compressed_model_is_carried_out_again() {
    let sandbox = Sandbox::new();
    sandbox.gives("compress model --err 0.5 -o low");
    sandbox.gives("compress model --plan low -o again");
    let weights = |dir: &str| sandbox.read(&format!("{dir}/model.safetensors"));
    assert!(weights("low") == weights("again"));
    let tuned = "--text story.txt --seq-len 32 --batch-size 1 --steps 1 --warmup 0 -o run";
    sandbox.gives(&format!("train model --plan low {tuned}"));
    assert!(weights("low") == weights("run/base"));
    let row =
        sandbox.json("compare model --text story.txt --seq-len 64 --windows 1 --plan low --json");
    assert_eq!(row["rows"].as_array().unwrap().len(), 2);
    sandbox.refuses("compress model --plan model -o out", "model: this directory has no plan");
    sandbox.refuses("compress model --plan low -o low --force", "low");
}
