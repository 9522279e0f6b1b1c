//! What compressed directories carry for transformers, and dense ones do not.

use serde_json::{Value, json};

use crate::support::Sandbox;

const CODE: &str = "modeling_welore.py";
const OURS: &str = include_str!("../../welore-burn/src/checkpoint/modeling_welore.py");
const TRAIN: &str = "--text story.txt --seq-len 32 --batch-size 1 --steps 1";

fn config(sandbox: &Sandbox, dir: &str) -> Value {
    sandbox.json_file(&format!("{dir}/config.json"))
}

/// Checks that a directory has the code, and a `config.json` that states the rank and form of every
/// matrix that is not dense, and is its base's otherwise.
fn assert_carries_code(sandbox: &Sandbox, dir: &str) {
    let found = config(sandbox, dir);
    assert_eq!(found["model_type"], "welore_llama", "{dir}");
    assert_eq!(found["architectures"], json!(["WeLoreForCausalLM"]), "{dir}");
    assert_eq!(found["auto_map"]["AutoConfig"], "modeling_welore.WeLoreConfig", "{dir}");
    let class = &found["auto_map"]["AutoModelForCausalLM"];
    assert_eq!(class, "modeling_welore.WeLoreForCausalLM", "{dir}");
    let base = json!({ "model_type": "llama", "architectures": ["LlamaForCausalLM"] });
    assert_eq!(found["welore"]["base"], base, "{dir}");
    assert_eq!(found["hidden_size"], config(sandbox, "model")["hidden_size"], "{dir}");
    assert_eq!(sandbox.read(&format!("{dir}/{CODE}")), OURS.as_bytes(), "{dir}");

    let plan = sandbox.plan_of(dir);
    let mut stated = json!({ "factors": {}, "pivots": {} });
    for matrix in plan["matrices"].as_array().unwrap() {
        let form = &matrix["form"];
        let kind = match form["kind"].as_str().unwrap() {
            "dense" => continue,
            "pivot" => "pivots",
            kind => kind,
        };
        stated[kind][matrix["name"].as_str().unwrap()] = form["rank"].clone();
    }
    let count = |form: &str| stated[form].as_object().unwrap().len();
    assert!(count("factors") + count("pivots") > 0, "{dir}");
    for form in ["factors", "pivots"] {
        assert_eq!(found["welore"][form], stated[form], "{dir}");
    }
}

fn assert_dense(sandbox: &Sandbox, dir: &str) {
    assert_eq!(config(sandbox, dir), config(sandbox, "model"), "{dir}");
    assert!(!sandbox.path(&format!("{dir}/{CODE}")).exists(), "{dir}");
}

#[test]
fn every_command_that_writes_a_compressed_directory_writes_the_code() {
    let sandbox = Sandbox::new();
    sandbox.gives("compress model --err 0.5 --storage factors -o low");
    sandbox.gives("compress model --keep-params 0.7 --no-calibration --storage pivot -o pivot");
    sandbox.gives("export pivot --dtype f32 -o wide");
    sandbox.gives(&format!("train low {TRAIN} -o run"));
    sandbox.gives(&format!("train model --err 0.5 {TRAIN} -o two"));
    for dir in ["low", "pivot", "wide", "run/model", "two/base", "two/model"] {
        assert_carries_code(&sandbox, dir);
    }
    assert_eq!(config(&sandbox, "wide")["dtype"], "float32");
}

#[test]
fn dense_results_have_the_configuration_of_the_base_and_no_code() {
    let sandbox = Sandbox::new();
    sandbox.gives("compress model --err 0.5 -o low");
    sandbox.gives("export low --dense -o dense");
    sandbox.gives(&format!("train low --trainable lora {TRAIN} -o run"));
    for dir in ["dense", "run/model"] {
        assert_dense(&sandbox, dir);
    }
}

#[test]
fn directories_of_earlier_versions_become_such_directories() {
    let sandbox = Sandbox::new();
    sandbox.add("earlier/model", "model");
    sandbox.add("earlier/low", "low");
    assert_eq!(config(&sandbox, "low")["model_type"], "llama");
    sandbox.gives("export low --dtype f32 -o wide");
    assert_carries_code(&sandbox, "wide");
    let card = String::from_utf8(sandbox.read("wide/README.md")).unwrap();
    assert!(card.contains("trust_remote_code=True") && !card.contains("class LowRank"), "{card}");
    // Also in the type that it has, once.
    sandbox.gives("export low --dtype bf16 -o same");
    assert_carries_code(&sandbox, "same");
    sandbox.refuses("export same --dtype bf16 -o other", "BF16 already");
    sandbox.gives("export low --dense -o dense");
    assert_eq!(config(&sandbox, "dense"), config(&sandbox, "low"));
}

#[test]
fn what_transformers_has_no_layers_for_has_no_code_and_does_not_pass_for_a_dense_model() {
    let sandbox = Sandbox::new();
    sandbox.gives(
        "calibrate model --text story.txt --calibration-seq-len 64 --calibration-windows 4 \
         --gradient-windows 2 -o seen",
    );
    sandbox.gives(
        "compress model --for welore --calibration seen --max-bytes 140000 --no-measure -o low",
    );
    let found = config(&sandbox, "low");
    assert_eq!(found["model_type"], "welore_llama");
    assert_eq!((&found["auto_map"], &found["welore"]["factors"]), (&Value::Null, &Value::Null));
    assert!(!sandbox.path("low").join(CODE).exists());
    let card = String::from_utf8(sandbox.read("low/README.md")).unwrap();
    assert!(card.contains("transformers refuses it"), "{card}");
    sandbox.gives("export low --dense -o dense");
    assert_dense(&sandbox, "dense");
}

#[test]
fn code_of_strangers_is_neither_copied_nor_named() {
    let sandbox = Sandbox::new();
    sandbox.write(&format!("model/{CODE}"), "import os");
    sandbox.write("model/configuration_own.py", "import os");
    sandbox.edit_json("model/config.json", |config| {
        config["auto_map"] = json!({
            "AutoConfig": "configuration_own.OwnConfig",
            "AutoModelForCausalLM": "org/name--modeling_own.OwnModel",
        });
    });
    let tokenizer = json!({ "auto_map": { "AutoTokenizer": ["tokenization_own.Own", null] } });
    sandbox.write("model/tokenizer_config.json", tokenizer.to_string());
    sandbox.gives("compress model --err 0.5 -o low");
    assert_eq!(sandbox.read(&format!("low/{CODE}")), OURS.as_bytes());
    assert!(!sandbox.path("low/configuration_own.py").exists());
    let classes = config(&sandbox, "low")["auto_map"].clone();
    let is_ours = |class: &Value| class.as_str().unwrap().starts_with("modeling_welore.WeLore");
    assert!(classes.as_object().unwrap().values().all(is_ours), "{classes}");
    assert_eq!(sandbox.json_file("low/tokenizer_config.json"), json!({}));
    // What names a repository of the Hub still names it.
    sandbox.gives("export low --dense -o dense");
    let kept = json!({ "AutoModelForCausalLM": "org/name--modeling_own.OwnModel" });
    assert_eq!(config(&sandbox, "dense")["auto_map"], kept);
    assert!(!sandbox.path("dense").join(CODE).exists());
}

#[test]
fn a_directory_that_transformers_saved_again_is_read_and_merged() {
    let sandbox = Sandbox::new();
    sandbox.gives("compress model --err 0.5 -o low");
    let eval = |dir: &str| {
        let line = format!("eval {dir} --text story.txt --seq-len 32 --windows 2 --json");
        sandbox.json(&line)["perplexity"].clone()
    };
    let before = eval("low");
    // It has no plan, and other fields.
    sandbox.remove("low/welore_plan.json");
    sandbox.edit_json("low/config.json", |config| {
        config["transformers_version"] = "5.24.0".into();
        config["use_cache"] = false.into();
    });
    assert_eq!(eval("low"), before);
    sandbox.gives("export low --dense -o dense");
    let dense = config(&sandbox, "dense");
    assert_eq!((&dense["model_type"], &dense["use_cache"]), (&json!("llama"), &json!(false)));
    assert_eq!((&dense["auto_map"], &dense["welore"]), (&Value::Null, &Value::Null));
}

#[test]
fn a_directory_that_lost_its_base_says_so_and_what_helps() {
    let sandbox = Sandbox::new();
    sandbox.gives("compress model --err 0.5 -o low");
    let whole = config(&sandbox, "low");
    for (own, problem) in [
        (json!(null), "is missing"),
        (json!({}), "is missing"),
        (json!({ "base": "llama" }), "is no object"),
        (json!({ "base": { "architectures": ["LlamaForCausalLM"] } }), "another `model_type`"),
        (json!({ "base": { "model_type": "welore_llama" } }), "another `model_type`"),
    ] {
        let mut broken = whole.clone();
        broken["welore"] = own;
        sandbox.write("low/config.json", broken.to_string());
        for line in [
            "inspect low",
            "eval low --text story.txt --seq-len 32 --windows 2",
            "export low --dense -o dense",
            &format!("train low {TRAIN} -o run"),
        ] {
            let message = sandbox.refuses(line, "low/config.json");
            let told = message.contains("`welore_llama`") && message.contains("`welore.base`");
            assert!(told && message.contains(problem), "{line}: {message}");
            let said = sandbox.run(line).stderr;
            let hint = said.lines().nth(1).unwrap_or_default();
            assert!(hint.contains("compress the model again"), "{line}: {said}");
        }
    }
}
