//! Checkpoints as they are found: of models that are not known here, and under other names.

use safetensors::Dtype;
use serde_json::json;

use crate::support::{Sandbox, Tensor};

const WEIGHTS: &str = "model/model.safetensors";
const CONFIG: &str = "model/config.json";
const EMBEDDING: &str = "bert.embeddings.word_embeddings.weight";

/// A sandbox whose model has the names of BERT, and what else such checkpoints hold.
fn bert() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write(CONFIG, json!({ "model_type": "bert" }).to_string());
    sandbox.edit_tensors(WEIGHTS, |tensors| {
        let named = std::mem::take(tensors).into_iter().map(|(name, tensor)| {
            let name = name.replace("model.layers", "bert.encoder.layer");
            (name.replace("model.embed_tokens", "bert.embeddings.word_embeddings"), tensor)
        });
        tensors.extend(named);
        let square = tensors["bert.encoder.layer.0.self_attn.q_proj.weight"].clone();
        tensors.insert("bert.pooler.dense.weight".into(), square.clone());
        tensors.insert("cls.predictions.transform.dense.weight".into(), square);
        tensors.insert("bert.embeddings.position_ids".into(), Tensor::zeros(Dtype::I64, &[1, 8]));
    });
    sandbox
}

#[test]
fn weights_of_any_model_are_compressed_from_file_to_file() {
    let sandbox = bert();
    let linear = 4 * 7 + 1;
    let names = |line: &str| -> Vec<String> {
        let found = sandbox.json(line);
        let names = found["matrices"].as_array().unwrap().iter();
        names.map(|matrix| matrix["name"].as_str().unwrap().to_string()).collect()
    };
    let selected = names("analyze model --json");
    assert_eq!(selected.len(), linear);
    assert!(selected.contains(&"bert.pooler.dense".to_string()), "{selected:?}");
    assert_eq!(names("plan model --err 0.5 --json"), selected);
    let embedding = EMBEDDING.strip_suffix(".weight").unwrap();
    assert_eq!(names("analyze model --include word_embeddings --json"), [embedding]);

    let said = sandbox.gives("compress model --err 0.5 -o low").stderr;
    for told in ["`bert` is not supported", "29 linear layers", &format!("{embedding} (embedding)")]
    {
        assert!(said.contains(told), "{told}: {said}");
    }
    let (dense, low) = (sandbox.tensors(WEIGHTS), sandbox.tensors("low/model.safetensors"));
    assert!(low.keys().any(|name| name.ends_with(".V.weight")), "{:?}", low.keys());
    for copied in [EMBEDDING, "bert.embeddings.position_ids"] {
        assert_eq!(low[copied], dense[copied], "{copied}");
    }
    assert_eq!(sandbox.read("low/config.json"), sandbox.read(CONFIG));
    sandbox.gives("report --plan low -o page.html");
    sandbox.refuses("compress low --err 0.5 -o lower", "already factored");
    sandbox.gives("export low --dense -o dense");
    let merged = sandbox.tensors("dense/model.safetensors");
    assert!(merged.keys().eq(dense.keys()));
    sandbox.gives("compress model --keep-params 0.8 --no-calibration -o smaller");
    let said = sandbox.gives("inspect smaller").stdout;
    assert!(said.contains("29 linear layers") && said.contains("compressed: "), "{said}");
}

#[test]
fn a_configuration_is_not_needed_where_only_weights_are() {
    let sandbox = bert();
    for config in [Some("{}"), Some(r#"{"model_type": null, "dim": 8}"#), None] {
        match config {
            Some(text) => sandbox.write(CONFIG, text),
            None => sandbox.remove(CONFIG),
        }
        let found = sandbox.json("inspect model --json");
        assert!(found["cannot_run"].as_str().unwrap().contains("config.json"), "{found}");
        sandbox.gives("compress model --err 0.5 -o low --force");
    }
    assert!(!sandbox.path("low/config.json").exists());
    sandbox.gives("export low --dense -o dense");
}

#[test]
fn calibrating_a_model_that_cannot_be_run_says_what_works() {
    let sandbox = bert();
    for (options, hint) in [
        ("--keep-params 0.8", "--no-calibration"),
        ("--err 0.5 --calibrate story.txt", "--method svd"),
    ] {
        let line = format!("compress model {options} -o out");
        sandbox.refuses(&line, "model_type `bert` is not supported");
        let said = sandbox.run(&line).stderr;
        assert!(said.lines().nth(1).is_some_and(|line| line.contains(hint)), "{said}");
    }
}
