//! Mixtures of experts: how files have them, and what is measured of experts.

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, FloatDType, Int, Tensor, TensorData};
use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize_to_file};
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};
use welore_burn::calibrate::{
    Calibration, CalibrationOptions, CalibrationSummary, Collector, calibrate, write_imatrix,
};
use welore_burn::checkpoint::{Checkpoint, Remark};
use welore_burn::compress::{
    BlockwiseOptions, Compressor, Conversion, RefineOptions, WriteOptions, changes_tensors,
    convert_directory, merge_directory,
};
use welore_burn::data::TokenRows;
use welore_burn::eval::{PerplexityOptions, perplexity};
use welore_burn::files::OutputDir;
use welore_burn::forms::{Form, Precision};
use welore_burn::linalg::{SecondMoment, Shrinkage};
use welore_burn::model::{
    Decoder, LanguageModel, load_model, open_model, open_weights, projections,
};
use welore_burn::modules::Selection;
use welore_burn::plan::{Loss, MatrixPlan, PlanOptions, RankPlan, Target, make_plan};
use welore_burn::spectrum::{MeasureOptions, Method, Norms, measure_checkpoint};
use welore_burn::train::{
    ExecutionOptions, RunPlace, Score, TrainOptions, Trainable, Training, TrainingEvent,
};

use crate::gguf::writer::{Gguf, Meta};
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

const SEQ_LEN: usize = 32;
const WINDOWS: usize = 4;

/// Tokens of the fixtures' vocabulary, without an order.
fn text(len: usize) -> Vec<u32> {
    let mut state = 5u64;
    let token = |_| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 58) as u32
    };
    (0..len).map(token).collect()
}

fn loaded(name: &str, device: &Device) -> Decoder {
    load_model(fixture(name), device, FloatDType::F32, &mut ()).unwrap().model
}

fn calibrated(name: &str, path: &Path) -> (Calibration, CalibrationSummary) {
    let model = loaded(name, &device().autodiff());
    let options = CalibrationOptions {
        seq_len: SEQ_LEN,
        windows: Some(WINDOWS),
        gradient_windows: 4,
        probe_windows: 1,
        ..CalibrationOptions::default()
    };
    let summary = calibrate(
        &model,
        Some(&checkpoint(name)),
        &text(WINDOWS * SEQ_LEN).into(),
        &options,
        path,
        &mut (),
    )
    .unwrap();
    (Calibration::open(path).unwrap(), summary)
}

/// The largest difference of the means, with one multiplied by `scale`, relative to the largest entry.
fn gap(a: &SecondMoment, b: &SecondMoment, scale: f64) -> f64 {
    let (a, b) = (a.packed(), b.packed());
    assert_eq!(a.len(), b.len());
    let b: Vec<f64> = b.iter().map(|x| scale * f64::from(*x)).collect();
    let size = b.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    a.iter().zip(&b).fold(0.0f64, |most, (a, b)| most.max((f64::from(*a) - b).abs() / size))
}

#[test]
fn inputs_of_an_expert_are_those_of_the_tokens_that_it_sees() {
    let name = "tiny-qwen2-moe";
    let scratch = tempdir().unwrap();
    let (ours, summary) = calibrated(name, &scratch.path().join("calibration"));
    // The other way: whole passes, with the collector that any module can use.
    let device = device();
    let model = loaded(name, &device);
    let mut collector = Collector::new(&model, &projections(&model)).unwrap();
    for window in text(WINDOWS * SEQ_LEN).chunks(SEQ_LEN) {
        let window: Vec<i32> = window.iter().map(|token| *token as i32).collect();
        let tokens = TensorData::new(window, [1, SEQ_LEN]);
        let tokens = Tensor::<2, Int>::from_data(tokens, &device);
        let (_, seen) = collector.observe(|| model.forward(tokens));
        collector.collect(seen, None);
    }
    let collected = collector.finish().unwrap();
    let mut mixed = 0;
    for layer in [1, 2] {
        let count = |expert: usize| {
            let name = format!("model.layers.{layer}.mlp.experts.{expert}.gate_proj").into();
            match collected.knows(&name) {
                true => collected.inputs(&name).unwrap().count(),
                false => 0,
            }
        };
        assert_eq!(
            (0..4).map(count).sum::<u64>(),
            (2 * WINDOWS * SEQ_LEN) as u64,
            "two for each token"
        );
        for expert in 0..4 {
            mixed += usize::from(count(expert) < 2 * 32);
            for (matrix, width) in [("gate_proj", 32), ("up_proj", 32), ("down_proj", 8)] {
                let name = format!("model.layers.{layer}.mlp.experts.{expert}.{matrix}").into();
                let found = ours.inputs(&name).unwrap();
                assert!(found.root(1e-9).is_ok(), "{name}");
                if count(expert) >= 2 * width {
                    let gap = gap(&found, &collected.inputs(&name).unwrap(), 1.0);
                    assert!(gap < 1e-4, "{name}: {gap}");
                }
            }
        }
    }
    assert_eq!(summary.mixed_experts, mixed);
    assert!(mixed > 0, "the test has an expert that sees few tokens");
}

#[test]
fn importance_matrices_have_those_of_all_experts() {
    let scratch = tempdir().unwrap();
    // Matrices of Mixtral have other names, and the same tensors.
    for model in ["tiny-qwen2-moe", "tiny-mixtral"] {
        let (ours, _) = calibrated(model, &scratch.path().join(model));
        let path = scratch.path().join("imatrix.gguf");
        let written = write_imatrix(&ours, &path).unwrap();
        assert_eq!(written.matrices, ours.names().count());
        let file = fs::read(&path).unwrap();
        let tensor = b"blk.1.ffn_down_exps.weight.in_sum2";
        assert!(file.windows(tensor.len()).any(|window| window == tensor));
        let back = Calibration::open(&path).unwrap();
        back.check_model(open_model(fixture(model), &device()).unwrap().skeleton()).unwrap();
        assert_eq!(back.names().count(), written.matrices);
        for name in ours.names() {
            assert!(back.knows(name), "{name}");
            let [want, got] = [&ours, &back].map(|from| from.input_squares(name).unwrap());
            assert_eq!(want.count(), got.count(), "{name}");
            for (want, got) in want.squares().iter().zip(got.squares()) {
                assert!((want - got).abs() <= 1e-6 * want, "{name}: {got} for {want}");
            }
        }
    }
}

#[test]
fn an_expert_without_tokens_in_an_importance_matrix_has_the_mean_of_the_others() {
    let mut file = Gguf::default();
    file.set("general.type", Meta::Text("imatrix".into()));
    let stack = "blk.0.ffn_up_exps.weight";
    file.add_f32(&format!("{stack}.in_sum2"), &[3, 2], &[2.0, 4.0, 0.0, 0.0, 7.0, 2.0]);
    file.add_f32(&format!("{stack}.counts"), &[3, 1], &[1.0, 0.0, 2.0]);
    // Measured as well, and nothing that is compressed.
    file.add_f32("blk.0.ffn_gate_inp.weight.in_sum2", &[1, 2], &[1.0, 1.0]);
    file.add_f32("blk.0.ffn_gate_inp.weight.counts", &[1, 1], &[1.0]);
    let dir = tempdir().unwrap();
    let path = dir.path().join("imatrix.gguf");
    fs::write(&path, file.bytes()).unwrap();
    let found = Calibration::open(&path).unwrap();
    assert_eq!(found.names().count(), 3);
    for (expert, squares) in [(0, [2.0, 4.0]), (1, [3.0, 2.0]), (2, [3.5, 1.0])] {
        let name = format!("model.layers.0.mlp.experts.{expert}.up_proj").into();
        assert_eq!(found.inputs(&name).unwrap().squares(), squares, "{name}");
    }
    file.tensor("blk.0.ffn_up_exps.weight.counts").data = vec![0; 12];
    fs::write(&path, file.bytes()).unwrap();
    let error = Calibration::open(&path).unwrap_err().to_string();
    assert!(error.contains("0 tokens"), "{error}");
}

#[test]
fn experts_are_compressed_in_every_way() {
    let scratch = tempdir().unwrap();
    for name in ["tiny-mixtral", "tiny-qwen2-moe"] {
        let (calibration, _) = calibrated(name, &scratch.path().join(name));
        let norms = Norms::new(&calibration, Method::TwoSided, Shrinkage::default()).unwrap();
        let (plain, tracked) = (device(), device().autodiff());
        let measuring = MeasureOptions { norms: norms.clone(), ..MeasureOptions::default() };
        let model = loaded(name, &plain);
        let spectra =
            measure_checkpoint(&checkpoint(name), &projections(&model), &measuring, &mut ());
        let options = PlanOptions::to(Target::KeepParams(0.8));
        let plan = make_plan(&spectra.unwrap(), &Loss, &options).unwrap();
        let is_of_expert = |name: &str| name.contains(".experts.");
        assert!(plan.compressed().any(|matrix| is_of_expert(matrix.name.as_str())), "{name}");
        let compressor = Compressor::new(&plan).with_norms(norms);
        let dir = scratch.path().join(format!("{name}-files"));
        compress_into(&dir, &checkpoint(name), &compressor);
        let from_files = load_model(&dir, &plain, FloatDType::F32, &mut ()).unwrap().model;
        let measured = |model: &Decoder| {
            let options = PerplexityOptions { seq_len: SEQ_LEN, ..PerplexityOptions::default() };
            perplexity(model, &text(4 * SEQ_LEN), &options, &mut ()).unwrap().perplexity
        };
        let (alone, report) = compressor.module(model, &mut ()).unwrap();
        assert_eq!(report.compressed.len(), plan.totals.lrcs);
        assert!((measured(&from_files) / measured(&alone) - 1.0).abs() < 1e-4, "{name}");
        for refine in [None, Some(RefineOptions { epochs: 1, ..RefineOptions::default() })] {
            let blockwise = BlockwiseOptions { refine, ..BlockwiseOptions::new(&calibration) };
            let compressor = compressor.clone().with_blockwise(blockwise);
            let (model, report) = compressor.model(loaded(name, &tracked), &mut ()).unwrap();
            // Also the experts that the first window does not choose.
            assert_eq!(report.compressed.len(), plan.totals.lrcs, "{name}");
            assert_eq!(model.num_params() as u64, plan.totals.parameters_after, "{name}");
            assert!(measured(&model.valid()).is_finite(), "{name}");
        }
    }
}

#[test]
fn experts_and_their_router_train() {
    for trainable in [Trainable::Full, Trainable::Lora] {
        let scratch = tempdir().unwrap();
        let model = loaded("tiny-mixtral", &device().autodiff());
        let mut options = TrainOptions {
            trainable,
            seq_len: 16,
            batch_size: 4,
            steps: 4,
            warmup: 1,
            lr: 5e-3,
            recompute: trainable == Trainable::Full,
            ..TrainOptions::default()
        };
        options.lora.rank = 4;
        let place = RunPlace { dir: scratch.path(), origin: "mixture", resume: false };
        let router = |model: &Decoder| {
            let router = &model.model.layers[0].mlp.gate.as_ref().unwrap().weight;
            router.val().into_data().iter::<f64>().collect::<Vec<_>>()
        };
        let before = router(&loaded("tiny-mixtral", &device()));
        let mut training = Training::open(model, options, place).unwrap();
        let execution =
            ExecutionOptions { workers: NonZeroUsize::new(2).unwrap(), ..Default::default() };
        let evaluate = |_: &Decoder| Ok(Score::Perplexity(1.0).into());
        let mut losses = Vec::new();
        let observe = |event| {
            if let TrainingEvent::Step(step) = event {
                losses.push(step.loss);
            }
            Ok(())
        };
        // The same few tokens again and again.
        let rows = TokenRows::windows(text(16).repeat(16), 16);
        training.run(&rows, execution, evaluate, observe).unwrap();
        assert!(losses[3] < losses[0], "{trainable:?}: {losses:?}");
        let after = router(&training.result().unwrap());
        assert_eq!(before != after, trainable == Trainable::Full, "{trainable:?}");
    }
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
