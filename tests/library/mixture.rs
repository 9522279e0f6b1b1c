//! Mixtures of experts: how files have them, and what is measured of experts.

use std::fs;

use burn::tensor::FloatDType;
use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize_to_file};
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};
use welore_burn::checkpoint::Remark;
use welore_burn::gguf::{GgufOptions, export_gguf};
use welore_burn::model::{LanguageModel, open_model, open_weights};

use crate::{checkpoint, device, expected, fixture, floats, ids};

/// The tensors of a fixture of four experts, with those of all experts of a layer in one, as
/// transformers 5 has them in memory.
fn stacked(name: &str) -> TempDir {
    let checkpoint = checkpoint(name);
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for tensor in checkpoint.names() {
        let (meta, bytes) = checkpoint.raw(tensor).unwrap();
        // Mixtral's names are those of others there.
        let tensor = tensor.replace("block_sparse_moe", "mlp");
        let tensor = [("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")]
            .iter()
            .fold(tensor, |tensor, (from, to)| {
                tensor.replace(&format!(".{from}."), &format!(".{to}."))
            });
        tensors.push((tensor, meta.shape.clone(), bytes.to_vec()));
    }
    let find = |name: &str| tensors.iter().find(|(known, ..)| known == name);
    let mut stacks = Vec::new();
    for layer in (0..3).map(|layer| format!("model.layers.{layer}.mlp.experts")) {
        let part = |expert: usize, field: &str| find(&format!("{layer}.{expert}.{field}.weight"));
        let Some((_, shape, _)) = part(0, "gate_proj") else { continue };
        let (width, hidden) = (shape[0], shape[1]);
        let bytes_of = |expert, field| part(expert, field).unwrap().2.clone();
        let both = (0..4).flat_map(|n| [bytes_of(n, "gate_proj"), bytes_of(n, "up_proj")].concat());
        let down = (0..4).flat_map(|n| bytes_of(n, "down_proj"));
        let shape = vec![4, 2 * width, hidden];
        stacks.push((format!("{layer}.gate_up_proj"), shape, both.collect::<Vec<u8>>()));
        let shape = vec![4, hidden, width];
        stacks.push((format!("{layer}.down_proj"), shape, down.collect::<Vec<u8>>()));
    }
    assert!(!stacks.is_empty());
    tensors.retain(|(name, ..)| !name.contains(".experts."));
    tensors.extend(stacks);
    let dir = tempdir().unwrap();
    let views = tensors.iter().map(|(name, shape, data)| {
        (name.clone(), TensorView::new(Dtype::F32, shape.clone(), data).unwrap())
    });
    serialize_to_file(views, None, &dir.path().join("model.safetensors")).unwrap();
    fs::copy(fixture(name).join("config.json"), dir.path().join("config.json")).unwrap();
    dir
}

#[test]
fn experts_in_one_tensor_are_matrices_of_their_own() {
    for (name, tensors) in [("tiny-mixtral", 4), ("tiny-qwen3-moe", 2)] {
        let dir = stacked(name);
        let opened = open_model(dir.path(), &device()).unwrap();
        assert_eq!(opened.checkpoint.remarks(), [Remark::Unstacked { tensors }], "{name}");
        // Names, types and contents are those of files with a matrix for each.
        let other = checkpoint(name);
        assert!(opened.checkpoint.names().eq(other.names()), "{name}");
        for tensor in other.names() {
            let found = opened.checkpoint.digest(tensor).unwrap();
            assert_eq!(found, other.digest(tensor).unwrap(), "{name}: {tensor}");
        }
        let loaded = opened.load(FloatDType::F32, |_| false, &mut ()).unwrap();
        let tokens = ids(&expected(name)["input"]);
        let tokens = burn::tensor::TensorData::new(tokens, [1, 24]).convert::<i32>();
        let logits = loaded.model.forward(burn::tensor::Tensor::from_data(tokens, &device()));
        let last = logits.narrow(1, 23, 1).into_data();
        for (got, want) in last.iter::<f64>().zip(floats(&expected(name)["last_logits"])) {
            assert!((got - want).abs() < 1e-3, "{name}: {got} for {want}");
        }
    }
}

#[test]
fn stacks_of_other_shapes_stay_as_they_are() {
    // gpt-oss has them transposed.
    let dir = tempdir().unwrap();
    let data = vec![0u8; 4 * 2 * 4 * 12];
    let views = [
        ("model.layers.0.mlp.experts.gate_up_proj", vec![2, 4, 12]),
        ("model.layers.0.mlp.experts.down_proj", vec![2, 6, 4]),
    ]
    .map(|(name, shape)| {
        let bytes = 4 * shape.iter().product::<usize>();
        (name.to_string(), TensorView::new(Dtype::F32, shape, &data[..bytes]).unwrap())
    });
    serialize_to_file(views, None, &dir.path().join("model.safetensors")).unwrap();
    let checkpoint = open_weights(dir.path()).unwrap();
    assert_eq!((checkpoint.names().count(), checkpoint.remarks()), (2, &[][..]));
}

/// A copy of a fixture, with some fields of its `config.json` changed.
fn changed(name: &str, fields: Value) -> TempDir {
    let dir = tempdir().unwrap();
    let copy = |file: &str| fs::copy(fixture(name).join(file), dir.path().join(file)).unwrap();
    copy("model.safetensors");
    let path = dir.path().join("config.json");
    let text = fs::read_to_string(fixture(name).join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    fs::write(path, config.to_string()).unwrap();
    dir
}

#[test]
fn more_experts_than_there_are_tensors_for_are_refused_before_they_are_built() {
    let dir = changed("tiny-mixtral", json!({ "num_local_experts": 4096 }));
    let error = open_model(dir.path(), &device()).unwrap_err().to_string();
    assert!(error.contains("model.layers.0.block_sparse_moe.experts.4.w2.weight"), "{error}");
}

#[test]
fn matrices_of_experts_are_compressed_and_routers_are_not() {
    let names = |name: &str| -> Vec<String> {
        let model = open_model(fixture(name), &device()).unwrap().into_skeleton();
        model.matrices().into_iter().map(|matrix| matrix.name.to_string()).collect()
    };
    let mixtral = names("tiny-mixtral");
    assert_eq!(mixtral.len(), 2 * (4 + 4 * 3));
    assert!(mixtral.contains(&"model.layers.1.block_sparse_moe.experts.3.w2".to_string()));
    let qwen = names("tiny-qwen2-moe");
    assert_eq!(qwen.len(), (4 + 3) + 2 * (4 + 5 * 3));
    assert!(qwen.contains(&"model.layers.1.mlp.shared_expert.up_proj".to_string()));
    assert!(qwen.contains(&"model.layers.0.mlp.up_proj".to_string()));
    for name in mixtral.iter().chain(&qwen) {
        assert!(!name.ends_with("gate"), "{name}");
    }
}

#[test]
fn gguf_is_refused_in_one_line() {
    let dir = tempdir().unwrap();
    for name in ["tiny-mixtral", "tiny-olmoe"] {
        let opened = open_model(fixture(name), &device()).unwrap();
        let file = dir.path().join("model.gguf");
        let error = export_gguf(&opened, &file, &GgufOptions::default(), &mut ()).unwrap_err();
        assert!(error.to_string().contains("it has experts"), "{error}");
        assert!(!file.exists());
    }
}
