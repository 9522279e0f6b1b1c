//! How files have the experts of a layer: apart, or in one tensor.

use std::fs;
use std::path::Path;

use burn::tensor::{FloatDType, Int, Tensor, TensorData};
use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize_to_file};
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};
use welore_burn::checkpoint::{Checkpoint, Remark};
use welore_burn::compress::{
    Compressor, Conversion, WriteOptions, changes_tensors, convert_directory, merge_directory,
};
use welore_burn::files::OutputDir;
use welore_burn::forms::{Form, Precision};
use welore_burn::model::{open_model, open_weights};
use welore_burn::modules::Selection;
use welore_burn::plan::{MatrixPlan, RankPlan};
use welore_burn::spectrum::{MeasureOptions, measure_checkpoint};

use crate::{checkpoint, compress_into, device, expected, fixture, floats, ids};

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
        let tokens: Vec<i32> = tokens.iter().map(|token| *token as i32).collect();
        let tokens = TensorData::new(tokens, [1, 24]);
        let logits = loaded.model.forward(Tensor::<2, Int>::from_data(tokens, &device()));
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

#[test]
fn experts_that_a_file_has_twice_are_refused() {
    let stored = checkpoint("tiny-gpt-oss");
    let raw = |name: &str| {
        let (meta, bytes) = stored.raw(name).unwrap();
        (name.to_string(), meta.shape.clone(), bytes.to_vec())
    };
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = stored.names().map(raw).collect();
    let own = "model.layers.0.mlp.experts.0.down_proj.weight";
    tensors.push((own.into(), vec![32, 16], vec![0; 4 * 32 * 16]));
    let views = tensors.iter().map(|(name, shape, data)| {
        (name.clone(), TensorView::new(Dtype::F32, shape.clone(), data).unwrap())
    });
    let dir = tempdir().unwrap();
    serialize_to_file(views, None, &dir.path().join("model.safetensors")).unwrap();
    let config = fixture("tiny-gpt-oss").join("config.json");
    fs::copy(config, dir.path().join("config.json")).unwrap();
    let error = open_model(dir.path(), &device()).unwrap_err().to_string();
    assert!(error.contains("model.layers.0.mlp.experts."), "{error}");
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
fn merged_experts_of_gpt_oss_are_in_the_tensors_that_transformers_reads() {
    let source = open_weights(fixture("tiny-gpt-oss")).unwrap();
    let (everything, measuring) = (Selection::all(), MeasureOptions::default());
    let spectra = measure_checkpoint(&source, &everything, &measuring, &mut ()).unwrap();
    // Some are merged and others copied.
    let matrices = spectra.matrices.iter().filter(|m| !m.name.as_str().contains("experts.1."));
    let matrices = matrices
        .map(|m| MatrixPlan::new(m.name.clone(), m.shape, Form::factors(m.full_rank()), m.dtype));
    let plan = RankPlan::new("full ranks", spectra.model, matrices.collect()).unwrap();
    let dir = tempdir().unwrap();
    let [low, dense] = ["low", "dense"].map(|name| dir.path().join(name));
    compress_into(&low, &source, &Compressor::new(&plan));
    let output = OutputDir::create(&dense, false).unwrap();
    let low = Checkpoint::open(&low).unwrap();
    assert!(low.names().any(|name| name.ends_with("experts.0.gate_proj.U.weight")));
    merge_directory(&low, &output, &WriteOptions::default(), &mut ()).unwrap();
    output.commit().unwrap();
    is_as_transformers_wrote_it(&dense);
}

#[test]
fn experts_of_a_dense_gpt_oss_are_put_together_where_a_file_has_them_apart() {
    // As training writes them.
    let source = open_weights(fixture("tiny-gpt-oss")).unwrap();
    let tensors: Vec<(&str, Vec<u8>)> = source
        .names()
        .map(|name| {
            let numbers = source.read_f32(name).unwrap();
            (name, numbers.iter().flat_map(|number| number.to_le_bytes()).collect())
        })
        .collect();
    let views = tensors.iter().map(|(name, data)| {
        let shape = source.meta(name).unwrap().shape.clone();
        (name.to_string(), TensorView::new(Dtype::F32, shape, data).unwrap())
    });
    let dir = tempdir().unwrap();
    let [apart, dense] = ["apart", "dense"].map(|name| dir.path().join(name));
    fs::create_dir(&apart).unwrap();
    serialize_to_file(views, None, &apart.join("model.safetensors")).unwrap();
    fs::copy(fixture("tiny-gpt-oss/config.json"), apart.join("config.json")).unwrap();

    let apart = Checkpoint::open(&apart).unwrap();
    let conversion = Conversion { dense: false, precision: Some(Precision::F32) };
    assert!(changes_tensors(&apart, conversion).unwrap());
    let output = OutputDir::create(&dense, false).unwrap();
    let options = WriteOptions::default();
    convert_directory(&apart, conversion, &output, &options, &mut ()).unwrap();
    output.commit().unwrap();
    is_as_transformers_wrote_it(&dense);
}

/// Whether a directory has the tensors of tiny-gpt-oss, up to rounding.
fn is_as_transformers_wrote_it(dir: &Path) {
    let (made, file) = (Checkpoint::open(dir).unwrap(), checkpoint("tiny-gpt-oss"));
    assert!(made.names().eq(file.names()));
    for tensor in file.names() {
        assert_eq!(made.meta(tensor).unwrap().shape, file.meta(tensor).unwrap().shape, "{tensor}");
        let [made, file] = [&made, &file].map(|files| files.read_f32(tensor).unwrap());
        let is_near = made.iter().zip(&file).all(|(made, file)| (made - file).abs() < 1e-4);
        assert!(is_near, "{tensor}");
    }
}

#[test]
fn more_experts_than_there_are_tensors_for_are_refused_before_they_are_built() {
    let dir = changed("tiny-mixtral", json!({ "num_local_experts": 4096 }));
    let error = open_model(dir.path(), &device()).unwrap_err().to_string();
    assert!(error.contains("model.layers.0.block_sparse_moe.experts.4.w2.weight"), "{error}");
}

#[test]
fn experts_of_gpt_oss_are_read_from_numbers_of_four_bits() {
    const SIZE: usize = 32;
    // All numbers in a row are the same: that of the code that is the number of the row.
    let codes = |rows: usize| -> Vec<u8> {
        (0..2 * rows).flat_map(|row| [(row % 8 * 17) as u8; SIZE / 2]).collect()
    };
    let biases: Vec<u8> = (0..4 * SIZE).flat_map(|n| (n as f32).to_le_bytes()).collect();
    let tensors = [
        ("gate_up_proj_blocks", Dtype::U8, vec![2, 2 * SIZE, 1, 16], codes(2 * SIZE)),
        ("gate_up_proj_scales", Dtype::U8, vec![2, 2 * SIZE, 1], vec![127; 4 * SIZE]),
        ("down_proj_blocks", Dtype::U8, vec![2, SIZE, 1, 16], codes(SIZE)),
        ("down_proj_scales", Dtype::U8, vec![2, SIZE, 1], vec![128; 2 * SIZE]),
        ("gate_up_proj_bias", Dtype::F32, vec![2, 2 * SIZE], biases.clone()),
        ("down_proj_bias", Dtype::F32, vec![2, SIZE], biases[..8 * SIZE].to_vec()),
    ];
    let dir = tempdir().unwrap();
    let views = tensors.iter().map(|(name, dtype, shape, data)| {
        let name = format!("model.layers.0.mlp.experts.{name}");
        (name, TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    serialize_to_file(views, None, &dir.path().join("model.safetensors")).unwrap();
    let checkpoint = open_weights(dir.path()).unwrap();
    assert_eq!(checkpoint.remarks(), [Remark::Unstacked { tensors: 6 }]);
    assert_eq!(checkpoint.names().count(), 12);
    let read = |name: &str| {
        let name = format!("model.layers.0.mlp.experts.1.{name}");
        (checkpoint.meta(&name).unwrap().dtype, checkpoint.read_f32(&name).unwrap())
    };
    let numbers = [0.0f32, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    for (name, first, step, scale) in
        [("gate_proj", 0, 2, 1.0), ("up_proj", 1, 2, 1.0), ("down_proj", 0, 1, 2.0)]
    {
        let want: Vec<f32> =
            (0..SIZE).flat_map(|row| [scale * numbers[(first + step * row) % 8]; SIZE]).collect();
        assert_eq!(read(&format!("{name}.weight")), (Dtype::BF16, want), "{name}");
    }
    let of_gate: Vec<f32> = (0..SIZE).map(|row| (2 * SIZE + 2 * row) as f32).collect();
    assert_eq!(read("gate_proj.bias"), (Dtype::F32, of_gate));
    let of_down: Vec<f32> = (0..SIZE).map(|row| (SIZE + row) as f32).collect();
    assert_eq!(read("down_proj.bias"), (Dtype::F32, of_down));
    let digest =
        |name: &str| checkpoint.digest(&format!("model.layers.0.mlp.experts.0.{name}")).unwrap();
    assert_ne!(digest("gate_proj.weight"), digest("up_proj.weight"));
}
