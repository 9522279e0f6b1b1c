//! LoRA adapters as PEFT stores them: what is read, what is refused, and what they add.

mod reading;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{Tensor, Tolerance};
use serde_json::{Value, json};
use welore_burn::adapters::{AdapterError, LoraAdapter, LoraMatrix};
use welore_burn::checkpoint::Checkpoint;
use welore_burn::compress::{Compressor, WriteOptions, merge_adapter};
use welore_burn::files::{FileError, OutputDir};
use welore_burn::forms::Form;
use welore_burn::gguf::export_adapter;
use welore_burn::linear::{LowRankLinear, LowRankLinearConfig};
use welore_burn::model::open_model;
use welore_burn::modules::MatrixName;
use welore_burn::plan::{PlanOptions, WeLore, make_plan};

use crate::{checkpoint, compress_into, device, fixture, tiny_spectra};

const Q_PROJ: &str = "model.layers.0.self_attn.q_proj";

/// Numbers of both signs that differ from each other, rounded to eighths.
fn numbers(count: usize, first: usize) -> Vec<f32> {
    (first..first + count).map(|n| ((n * 37 % 23) as f32 - 11.0) / 8.0).collect()
}

fn matrix([outputs, inputs]: [usize; 2], rank: usize, scale: f64) -> LoraMatrix {
    let (a, b) = (numbers(rank * inputs, 1), numbers(outputs * rank, 5));
    LoraMatrix::new([outputs, inputs], rank, a, b, scale).unwrap()
}

fn adapter(matrices: impl IntoIterator<Item = (&'static str, LoraMatrix)>) -> LoraAdapter {
    let matrices = matrices.into_iter().map(|(name, matrix)| (MatrixName::from(name), matrix));
    let [base, revision] = ["org/base", "0123"].map(|text| Some(text.into()));
    LoraAdapter { base, revision, turned: false, matrices: matrices.collect() }
}

fn q_proj() -> LoraAdapter {
    adapter([(Q_PROJ, matrix([64, 64], 4, 0.5))])
}

/// A directory with the adapter of `q_proj`, and its path.
fn saved() -> (tempfile::TempDir, std::path::PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("adapter");
    q_proj().save(&dir, false).unwrap();
    (home, dir)
}

/// The entry of `W + scale · B A`, by the definition.
fn sum_at(weight: f64, more: &LoraMatrix, row: usize, col: usize) -> f64 {
    let ([_, inputs], rank) = (more.shape(), more.rank());
    let product =
        |k: usize| f64::from(more.b()[row * rank + k]) * f64::from(more.a()[k * inputs + col]);
    weight + more.scale() * (0..rank).map(product).sum::<f64>()
}

#[test]
fn what_is_written_is_read_again() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("adapter");
    let first = q_proj();
    first.save(&dir, false).unwrap();
    assert_eq!(LoraAdapter::open(&dir).unwrap(), first);
    // Never in place of something that is there, except an adapter.
    let error = first.save(&dir, false).unwrap_err();
    assert!(matches!(error, AdapterError::File(FileError::OutputExists { .. })), "{error}");
    first.save(&dir, true).unwrap();

    let config: Value =
        serde_json::from_slice(&fs::read(dir.join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!((&config["r"], &config["lora_alpha"]), (&json!(4), &json!(2)));
    assert_eq!(
        (&config["base_model_name_or_path"], &config["revision"]),
        (&json!("org/base"), &json!("0123"))
    );
    assert_eq!(config["target_modules"], json!(["q_proj"]));
}

/// Other programs know one `lora_alpha` and divide it by the rank of each matrix.
#[test]
fn other_scales_are_in_the_second_matrix() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("adapter");
    let names = [
        "model.layers.0.mlp.up_proj",
        "model.layers.0.self_attn.q_proj",
        "model.layers.1.mlp.up_proj",
        "model.layers.1.mlp.down_proj",
    ];
    let (two, four) = (matrix([6, 8], 2, 1.0), matrix([8, 6], 4, 0.5));
    let odd = matrix([8, 6], 3, -0.7);
    let given = adapter([
        (names[0], two.clone()),
        (names[1], four.clone()),
        (names[2], odd.clone()),
        (names[3], two.clone()),
    ]);
    given.save(&dir, false).unwrap();
    let read = LoraAdapter::open(&dir).unwrap();
    let config: Value =
        serde_json::from_slice(&fs::read(dir.join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!((&config["lora_alpha"], &config["alpha_pattern"]), (&json!(2), &json!({})));
    // Not every layer has these matrices, so they are named one by one.
    let mut sorted = names.to_vec();
    sorted.sort_unstable();
    assert_eq!(config["target_modules"], json!(sorted));
    let found = |name: &str| read.matrices[&MatrixName::from(name)].clone();
    assert_eq!([found(names[0]), found(names[1]), found(names[3])], [two.clone(), four, two]);
    let found = found(names[2]);
    assert!((found.scale() - 2.0 / 3.0).abs() < 1e-15);
    for (one, other) in found.delta().unwrap().data().iter().zip(odd.delta().unwrap().data()) {
        assert!((one - other).abs() < 1e-5, "{one} {other}");
    }
}

/// A key of `rank_pattern` matches every name that ends like it.
#[test]
fn ranks_are_found_again_where_one_name_is_the_end_of_another() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("adapter");
    let given = adapter([
        ("model.layers.0.proj", matrix([6, 8], 2, 1.0)),
        ("tower.model.layers.0.proj", matrix([6, 8], 3, 1.0)),
        ("tower.model.layers.1.proj", matrix([6, 8], 3, 1.0)),
    ]);
    given.save(&dir, false).unwrap();
    let config: Value =
        serde_json::from_slice(&fs::read(dir.join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!(config["rank_pattern"], json!({ "^model.layers.0.proj": 2 }));
    let read = LoraAdapter::open(&dir).unwrap();
    let ranks: Vec<usize> = read.matrices.values().map(LoraMatrix::rank).collect();
    assert_eq!(ranks, [2, 3, 3]);
}

#[test]
fn an_adapter_of_another_model_is_refused_with_what_is_similar() {
    let checkpoint = checkpoint("tiny-llama");
    let misspelt = adapter([("model.layers.0.self_attn.q_pro", matrix([64, 64], 2, 1.0))]);
    match misspelt.for_checkpoint(&checkpoint).unwrap_err() {
        AdapterError::Unknown { similar, .. } => assert_eq!(similar.unwrap(), Q_PROJ),
        other => panic!("{other}"),
    }
    let wide = adapter([(Q_PROJ, matrix([64, 65], 2, 1.0))]);
    match wide.for_checkpoint(&checkpoint).unwrap_err() {
        AdapterError::Shape { adapted, shape, .. } => {
            assert_eq!((adapted, shape), ([64, 65], [64, 64]));
        }
        other => panic!("{other}"),
    }
    // The embedding has no layer to which an adapter is added.
    let skeleton = open_model(fixture("tiny-llama"), &device()).unwrap().into_skeleton();
    let tokens = adapter([("model.embed_tokens", matrix([384, 64], 2, 1.0))]);
    let error = tokens.check_module(&skeleton).unwrap_err();
    assert!(matches!(error, AdapterError::Unknown { .. }), "{error}");
}

#[derive(Module, Debug)]
struct Net {
    dense: LowRankLinear,
    factors: LowRankLinear,
    pivots: LowRankLinear,
}

impl Net {
    fn layers(&self) -> [&LowRankLinear; 3] {
        [&self.dense, &self.factors, &self.pivots]
    }
}

/// Whatever the form of a matrix, its layer multiplies by the sum.
#[test]
fn every_form_multiplies_by_the_sum() {
    let device = device();
    let layer = || LowRankLinearConfig::new(6, 5).init(&device);
    let net = Net {
        dense: layer(),
        factors: layer().factored(2).unwrap(),
        pivots: layer().to_form(Form::pivot(2)).unwrap(),
    };
    let more = matrix([5, 6], 3, 0.3);
    let given = adapter(["dense", "factors", "pivots"].map(|name| (name, more.clone())));
    let with = given.apply(net.clone()).unwrap();
    assert_eq!(with.layers().map(LowRankLinear::rank), [None, Some(2), Some(2)]);
    let whole = with.clone().materialize();
    let x = Tensor::<2>::from_floats([[0.5, -1.0, 2.0, 0.25, -0.75, 1.5]], &device);
    let before = net.materialize();
    for (number, layer) in before.layers().into_iter().enumerate() {
        let old: Vec<f64> = layer.weight.val().into_data().iter().collect();
        let new: Vec<f64> = whole.layers()[number].weight.val().into_data().iter().collect();
        for (place, (old, new)) in old.iter().zip(&new).enumerate() {
            let expected = sum_at(*old, &more, place % 5, place / 5);
            assert!((new - expected).abs() < 1e-5, "layer {number}: {new} {expected}");
        }
        let outputs = [with.layers()[number], whole.layers()[number]]
            .map(|layer| layer.forward(x.clone()).into_data());
        outputs[0].assert_approx_eq::<f32>(&outputs[1], Tolerance::rel_abs(1e-4, 1e-4));
    }
    // A second one would be a sum of three.
    let error = given.apply(with).unwrap_err();
    assert!(matches!(error, AdapterError::NotPlain { .. }), "{error}");
}

fn merged(checkpoint: &Checkpoint, adapter: &LoraAdapter, dir: &Path) -> Checkpoint {
    let output = OutputDir::create(dir, false).unwrap();
    let options = WriteOptions::default();
    merge_adapter(checkpoint, adapter, None, &output, &options, &mut ()).unwrap();
    output.commit().unwrap();
    Checkpoint::open(dir).unwrap()
}

#[test]
fn files_hold_the_sum_and_everything_else_as_it_was() {
    let home = tempfile::tempdir().unwrap();
    let source = checkpoint("tiny-llama");
    let given = q_proj();
    let written = merged(&source, &given, &home.path().join("merged"));
    let more = &given.matrices[&MatrixName::from(Q_PROJ)];
    for tensor in source.names() {
        if tensor != format!("{Q_PROJ}.weight") {
            assert_eq!(source.raw(tensor).unwrap().1, written.raw(tensor).unwrap().1, "{tensor}");
            continue;
        }
        let old = source.read_matrix(tensor).unwrap();
        let new = written.read_f32(tensor).unwrap();
        for (place, (old, new)) in old.data().iter().zip(new).enumerate() {
            let expected = sum_at(*old, more, place / 64, place % 64);
            // To the nearest number in bf16.
            assert!((f64::from(new) - expected).abs() <= expected.abs() / 256.0, "{place}");
        }
    }
}

/// Factored matrices are merged, with or without an adapter.
#[test]
fn an_adapter_of_a_compressed_directory_makes_it_dense() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("low");
    let plan = make_plan(&tiny_spectra(), &WeLore, &PlanOptions::new(0.8)).unwrap();
    compress_into(&dir, &checkpoint("tiny-llama"), &Compressor::new(&plan));
    let low = Checkpoint::open(&dir).unwrap();
    let name = plan.compressed().next().unwrap().name.clone();
    let matrix_of = low.stored_matrix(&name).unwrap();
    let before = low.read_merged(&matrix_of).unwrap();
    let more = matrix(matrix_of.shape, 2, 0.25);
    let given = LoraAdapter {
        matrices: BTreeMap::from([(name.clone(), more.clone())]),
        ..LoraAdapter::default()
    };
    let written = merged(&low, &given, &home.path().join("merged"));
    assert!(written.compressed_matrices().unwrap().is_empty());
    let (new, columns) = (written.read_f32(&name.weight()).unwrap(), matrix_of.shape[1]);
    for (place, (old, new)) in before.data().iter().zip(new).enumerate() {
        let expected = sum_at(*old, &more, place / columns, place % columns);
        assert!((f64::from(new) - expected).abs() <= expected.abs() / 256.0 + 1e-12, "{place}");
    }
}

/// `Conv1D` has its weights the other way round in files; an adapter is the same.
#[test]
fn layers_of_gpt2_are_turned_and_their_adapters_are_not() {
    let home = tempfile::tempdir().unwrap();
    let source = checkpoint("tiny-gpt2");
    let name = "transformer.h.0.attn.c_attn";
    let more = matrix([96, 32], 2, 0.5);
    let given = adapter([(name, more.clone())]).with_base(None, &source);
    assert!(given.turned);
    let written = merged(&source, &given, &home.path().join("merged"));
    let tensor = format!("{name}.weight");
    let (_, old) = source.raw(&tensor).unwrap();
    let (_, new) = written.raw(&tensor).unwrap();
    let entry = |bytes: &[u8], place: usize| {
        f64::from(f32::from_le_bytes(bytes[4 * place..][..4].try_into().unwrap()))
    };
    for place in [0, 1, 95, 96, 97, 3071] {
        let (row, col) = (place % 96, place / 96);
        let expected = sum_at(entry(old, place), &more, row, col);
        assert!((entry(new, place) - expected).abs() < 1e-5, "{place}");
    }
}

#[test]
fn matrices_of_experts_are_refused_for_llama_cpp() {
    let home = tempfile::tempdir().unwrap();
    let opened = open_model(fixture("tiny-mixtral"), &device()).unwrap();
    let names = opened.checkpoint.names().filter_map(MatrixName::of_weight);
    let name = names.into_iter().find(|name| name.is_of_expert()).unwrap();
    let shape = opened.checkpoint.stored_matrix(&name).unwrap().shape;
    let given = LoraAdapter {
        matrices: BTreeMap::from([(name, matrix(shape, 2, 1.0))]),
        ..LoraAdapter::default()
    };
    let error = export_adapter(&opened, &given, home.path().join("lora.gguf")).unwrap_err();
    assert!(error.to_string().contains("experts"), "{error}");
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
}
