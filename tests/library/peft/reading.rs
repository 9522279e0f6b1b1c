//! What is read of the files of PEFT, and what is refused in them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use welore_burn::adapters::{AdapterError, LoraAdapter, LoraProblem, Refusal};
use welore_burn::modules::MatrixName;

use super::{Q_PROJ, q_proj, saved};

fn edit_config(dir: &Path, edit: impl FnOnce(&mut Value)) {
    let path = dir.join("adapter_config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut config);
    fs::write(path, config.to_string()).unwrap();
}

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn edit_tensors(dir: &Path, edit: impl FnOnce(&mut Tensors)) {
    let path = dir.join("adapter_model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |view: TensorView<'_>| (view.dtype(), view.shape().to_vec(), view.data().to_vec());
    let mut tensors: Tensors =
        file.iter().map(|(name, view)| (name.to_string(), tensor(view))).collect();
    edit(&mut tensors);
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn scales_are_those_of_peft() {
    for (fields, scale) in [
        (json!({}), 0.5),
        (json!({ "lora_alpha": 6 }), 1.5),
        (json!({ "lora_alpha": 6, "use_rslora": true }), 3.0),
        (json!({ "alpha_pattern": { "self_attn.q_proj": 16 } }), 4.0),
        (json!({ "alpha_pattern": { r"^model\.layers\.\d+\.self_attn\.q_proj": 8 } }), 2.0),
        (json!({ "alpha_pattern": { "k_proj": 8 } }), 0.5),
        (json!({ "r": 8, "rank_pattern": { "q_proj": 4 } }), 0.5),
    ] {
        let (_home, dir) = saved();
        edit_config(&dir, |config| {
            config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        });
        let read = LoraAdapter::open(&dir).unwrap();
        assert_eq!(read.matrices[&MatrixName::from(Q_PROJ)].scale(), scale, "{fields}");
    }
}

#[test]
fn what_is_no_sum_of_matrices_is_refused() {
    let refusal = |fields: &Value| {
        let (_home, dir) = saved();
        edit_config(&dir, |config| {
            config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        });
        match LoraAdapter::open(&dir) {
            Err(AdapterError::Refused { refusal, .. }) => refusal,
            other => panic!("{fields}: {other:?}"),
        }
    };
    let q_proj = || MatrixName::from(Q_PROJ);
    for (fields, expected) in [
        (json!({ "peft_type": "IA3" }), Refusal::PeftType("IA3".into())),
        (json!({ "use_dora": true }), Refusal::Dora),
        (json!({ "bias": "all" }), Refusal::Bias("bias: all".into())),
        (json!({ "lora_bias": true }), Refusal::Bias("lora_bias".into())),
        (json!({ "modules_to_save": ["lm_head"] }), Refusal::ModulesToSave("lm_head".into())),
        (
            json!({ "trainable_token_indices": [1] }),
            Refusal::Embedding("trainable_token_indices".into()),
        ),
        (
            json!({ "init_lora_weights": "pissa_niter_4" }),
            Refusal::ChangedBase("pissa_niter_4".into()),
        ),
        (json!({ "layer_replication": [[0, 2]] }), Refusal::Field("layer_replication")),
        (json!({ "layers_to_transform": [1, 2] }), Refusal::Layer(q_proj())),
        (json!({ "target_modules": ["k_proj"] }), Refusal::NotTargeted(q_proj())),
        (json!({ "target_modules": r".*\.(k|v)_proj" }), Refusal::NotTargeted(q_proj())),
        (json!({ "target_modules": "q_proj" }), Refusal::NotTargeted(q_proj())),
        (json!({ "target_modules": [] }), Refusal::NotTargeted(q_proj())),
        (json!({ "target_modules": ".*(q_proj" }), Refusal::Pattern(".*(q_proj".into())),
        (json!({ "exclude_modules": ["self_attn.q_proj"] }), Refusal::Excluded(q_proj())),
        (json!({ "exclude_modules": ".*q_proj" }), Refusal::Excluded(q_proj())),
        (json!({ "alpha_pattern": { "(q|k)_proj": 8 } }), Refusal::Pattern("(q|k)_proj".into())),
    ] {
        assert_eq!(refusal(&fields), expected, "{fields}");
    }
    // What says nothing is no reason.
    let (_home, dir) = saved();
    edit_config(&dir, |config| {
        config["modules_to_save"] = json!([]);
        config["layers_to_transform"] = json!(0);
        config["layers_pattern"] = json!("");
        config["exclude_modules"] = json!([]);
        config["init_lora_weights"] = json!("gaussian");
        config["field_of_tomorrow"] = json!({ "a": 1 });
    });
    LoraAdapter::open(&dir).unwrap();
}

/// As in PEFT: names that the model lacks are no mistake while others are there.
#[test]
fn all_ways_to_name_modules_are_read() {
    for targets in [
        json!(null),
        json!("all-linear"),
        json!(["q_proj", "no_such_proj"]),
        json!([Q_PROJ]),
        json!(r"model\.layers\.\d+\.self_attn\.(q|k)_proj"),
        json!(r"(?!.*lm_head).*"),
    ] {
        let (_home, dir) = saved();
        edit_config(&dir, |config| config["target_modules"] = targets.clone());
        let read = LoraAdapter::open(&dir);
        assert!(read.is_ok(), "{targets}: {read:?}");
    }
}

#[test]
fn fields_that_name_modules_or_layers_have_the_types_of_peft() {
    for (field, values) in [
        ("target_modules", [json!(5), json!({}), json!(true), json!(["q_proj", 5])]),
        ("exclude_modules", [json!(5), json!({}), json!(true), json!(["k_proj", null])]),
        ("layers_to_transform", [json!("0"), json!({}), json!(0.5), json!([0, -1])]),
        ("layers_pattern", [json!(5), json!({}), json!(true), json!([["layers"]])]),
    ] {
        for value in values {
            let (_home, dir) = saved();
            edit_config(&dir, |config| config[field] = value.clone());
            match LoraAdapter::open(&dir) {
                Err(AdapterError::Refused {
                    refusal: Refusal::Malformed { field: named, .. },
                    ..
                }) => assert_eq!(named, field),
                other => panic!("{field} {value}: {other:?}"),
            }
        }
    }
}

#[test]
fn long_texts_of_an_adapter_are_not_told_whole() {
    let long = "(x".repeat(3000);
    for fields in [
        json!({ "peft_type": long }),
        json!({ "bias": long }),
        json!({ "modules_to_save": [long] }),
        json!({ "init_lora_weights": format!("pissa{long}") }),
        json!({ "target_modules": long }),
        json!({ "exclude_modules": long }),
        json!({ "rank_pattern": { &long: 4 } }),
    ] {
        let (home, dir) = saved();
        edit_config(&dir, |config| {
            config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        });
        let message = LoraAdapter::open(&dir).unwrap_err().to_string();
        let told = message.chars().count() - home.path().to_string_lossy().chars().count();
        assert!(told < 300 && message.contains('…'), "{message}");
    }
}

#[test]
fn tensors_that_do_not_belong_or_fit_are_refused() {
    let a = format!("base_model.model.{Q_PROJ}.lora_A.weight");
    let b = format!("base_model.model.{Q_PROJ}.lora_B.weight");
    let zeros = |shape: &[usize]| {
        (Dtype::F32, shape.to_vec(), vec![0; 4 * shape.iter().product::<usize>()])
    };
    let long = format!("base_model.model.{}.lora_A.weight", "x".repeat(400));
    let error = |edit: &dyn Fn(&mut Tensors)| {
        let (_home, dir) = saved();
        edit_tensors(&dir, edit);
        LoraAdapter::open(&dir).unwrap_err()
    };
    for (tensor, expected) in [
        ("q_proj.lora_A.weight", Refusal::Tensor("q_proj.lora_A.weight".into())),
        (
            "base_model.model.lm_head.weight",
            Refusal::ModulesToSave("base_model.model.lm_head.weight".into()),
        ),
        (
            "base_model.model.x.lora_embedding_A",
            Refusal::Embedding("base_model.model.x.lora_embedding_A".into()),
        ),
        ("base_model.model.x.lora_magnitude_vector", Refusal::Dora),
        ("base_model.model.x.bias", Refusal::Bias("base_model.model.x.bias".into())),
        (long.as_str(), Refusal::Tensor(format!("{}…", &long[..400]))),
    ] {
        match error(&|tensors| drop(tensors.insert(tensor.into(), zeros(&[1])))) {
            AdapterError::Refused { refusal, .. } => assert_eq!(refusal, expected),
            other => panic!("{tensor}: {other}"),
        }
    }
    let problem = |edit: &dyn Fn(&mut Tensors)| match error(edit) {
        AdapterError::Matrix { matrix, problem, .. } => {
            assert_eq!(matrix, Q_PROJ);
            problem
        }
        other => panic!("{other}"),
    };
    assert_eq!(problem(&|tensors| drop(tensors.remove(&b))), LoraProblem::Half("lora_B"));
    let found = problem(&|tensors| drop(tensors.insert(b.clone(), zeros(&[64, 3]))));
    assert_eq!(found, LoraProblem::Rank { a: 4, b: 3 });
    let found = problem(&|tensors| drop(tensors.insert(a.clone(), zeros(&[4]))));
    assert_eq!(found, LoraProblem::NotMatrix { tensor: "lora_A", shape: vec![4] });
    let found = problem(&|tensors| {
        tensors.insert(a.clone(), zeros(&[2, 64]));
        tensors.insert(b.clone(), zeros(&[64, 2]));
    });
    assert_eq!(found, LoraProblem::OtherRank { found: 2, stated: 4 });
    let found = problem(&|tensors| {
        let (_, _, data) = tensors.get_mut(&a).unwrap();
        data[12..16].copy_from_slice(&f32::INFINITY.to_le_bytes());
    });
    let value = f64::INFINITY;
    assert_eq!(found, LoraProblem::NotFinite { tensor: "lora_A", index: 3, value });
    let found = problem(&|tensors| {
        tensors.insert(a.clone(), (Dtype::I32, vec![4, 64], vec![0; 4 * 4 * 64]));
    });
    assert_eq!(found, LoraProblem::Dtype { tensor: "lora_A", dtype: Dtype::I32 });
    let found = error(&|tensors| tensors.clear());
    assert!(matches!(found, AdapterError::Broken { .. }), "{found}");
}

#[test]
fn files_that_are_missing_or_damaged_are_named() {
    let (_home, dir) = saved();
    let weights = dir.join("adapter_model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    let error = LoraAdapter::open(&dir).unwrap_err();
    assert!(matches!(&error, AdapterError::Broken { path, .. } if *path == weights), "{error}");
    fs::remove_file(&weights).unwrap();
    let error = LoraAdapter::open(&dir).unwrap_err();
    assert!(matches!(&error, AdapterError::Missing { path } if *path == weights), "{error}");
    fs::write(dir.join("adapter_model.bin"), "pickle").unwrap();
    let error = LoraAdapter::open(&dir).unwrap_err();
    assert!(matches!(&error, AdapterError::Refused { refusal: Refusal::Pickle, .. }), "{error}");
    for text in ["", "[]", "{\"r\": -1}", "{\"alpha_pattern\": [1]}"] {
        fs::write(dir.join("adapter_config.json"), text).unwrap();
        let error = LoraAdapter::open(&dir).unwrap_err();
        assert!(matches!(&error, AdapterError::Broken { .. }), "{text}: {error}");
    }
}

/// In the types that PEFT stores.
#[test]
fn numbers_of_16_bits_are_read_as_they_are() {
    let (_home, dir) = saved();
    edit_tensors(&dir, |tensors| {
        for (dtype, _, data) in tensors.values_mut() {
            // Eighths have a few digits.
            *dtype = Dtype::BF16;
            *data = data.chunks_exact(4).flat_map(|bytes| [bytes[2], bytes[3]]).collect();
        }
    });
    assert_eq!(LoraAdapter::open(&dir).unwrap().matrices, q_proj().matrices);
}
