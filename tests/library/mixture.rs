//! Mixtures of experts: what is measured of experts, and what becomes of them.

mod files;

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, FloatDType, Int, Tensor, TensorData};
use tempfile::tempdir;
use welore_burn::calibrate::{
    Calibration, CalibrationOptions, CalibrationSummary, Collector, calibrate, write_imatrix,
};
use welore_burn::compress::{BlockwiseOptions, Compressor, RefineOptions};
use welore_burn::data::TokenRows;
use welore_burn::eval::{PerplexityOptions, perplexity};
use welore_burn::linalg::{SecondMoment, Shrinkage};
use welore_burn::model::{Decoder, LanguageModel, load_model, open_model, projections};
use welore_burn::plan::{Loss, PlanOptions, Target, make_plan};
use welore_burn::spectrum::{MeasureOptions, Method, Norms, measure_checkpoint};
use welore_burn::train::{
    ExecutionOptions, RunPlace, Score, TrainOptions, Trainable, Training, TrainingEvent,
};

use crate::gguf::writer::{Gguf, Meta};
use crate::{checkpoint, compress_into, device, fixture};

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
