//! Blocks that are compressed in stages: each matrix for the inputs that it has once those before it are
//! what they become, dense matrices too.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{FloatDType, Int, Tensor, TensorData};
use welore_burn::calibrate::Calibration;
use welore_burn::checkpoint::Checkpoint;
use welore_burn::compress::{BlockwiseOptions, CompressReport, Compressor, RefineOptions};
use welore_burn::files::OutputDir;
use welore_burn::forms::{Form, matrices};
use welore_burn::linalg::{CrossMoment, Matrix, SecondMoment, Shrinkage, Weighting};
use welore_burn::model::{Decoder, LanguageModel, load_model};
use welore_burn::plan::{MatrixPlan, RankPlan, read_plan};
use welore_burn::spectrum::{Method, ModelSize, Norms};

use crate::calibrate::{calibrated, options};
use crate::compress::StopAfter;
use crate::{checkpoint, device, tiny_llama, trainable};

/// A plan for some matrices of tiny-llama, named without the beginning. The others are not in it.
fn plan_of(forms: &[(&str, Form)]) -> RankPlan {
    let checkpoint = checkpoint("tiny-llama");
    let matrices = forms.iter().map(|(name, form)| {
        let name = named(name);
        let meta = checkpoint.meta(&format!("{name}.weight")).unwrap();
        MatrixPlan::new(name, [meta.shape[0], meta.shape[1]], *form, meta.dtype)
    });
    let size = ModelSize { parameters: checkpoint.parameters(), bytes: checkpoint.bytes() };
    RankPlan::new("by hand", size, matrices.collect()).unwrap()
}

fn named(name: &str) -> String {
    format!("model.layers.{name}")
}

/// Matrices of two layers, with dense ones before, among and after those that are compressed.
fn mixed() -> RankPlan {
    plan_of(&[
        ("0.self_attn.q_proj", Form::factors(4)),
        ("0.self_attn.k_proj", Form::dense()),
        ("0.self_attn.o_proj", Form::dense()),
        ("0.mlp.gate_proj", Form::pivot(4)),
        ("0.mlp.up_proj", Form::dense()),
        ("1.self_attn.v_proj", Form::factors(4)),
        ("1.self_attn.q_proj", Form::dense()),
        ("1.mlp.down_proj", Form::dense()),
    ])
}

/// The dense ones of these that a compressed one comes before, in the order of their use.
const ADAPTED: [&str; 4] =
    ["0.self_attn.o_proj", "0.mlp.up_proj", "1.self_attn.q_proj", "1.mlp.down_proj"];

fn compressed(
    plan: &RankPlan,
    method: Method,
    blockwise: BlockwiseOptions<'_>,
) -> (Decoder, CompressReport) {
    let norms = Norms::new(blockwise.calibration, method, Shrinkage::default()).unwrap();
    let compressor = Compressor::new(plan).with_norms(norms).with_blockwise(blockwise);
    compressor.model(tiny_llama(&device().autodiff()), &mut ()).unwrap()
}

/// The mean squared distance of the outputs of the first block from those of the dense model, on the
/// text of a calibration.
fn distance(model: &Decoder, calibration: &Calibration) -> f64 {
    let dense = tiny_llama(&device());
    let of = |tokens: Vec<u32>| {
        let count = tokens.len();
        let ids: Vec<i32> = tokens.into_iter().map(|token| token as i32).collect();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, count]), &device());
        let output = |model: &Decoder| {
            let (x, pass) = model.begin(ids.clone());
            model.block(0, x, &pass)
        };
        (output(model) - output(&dense)).square().mean().into_scalar::<f64>()
    };
    calibration.windows().unwrap().into_iter().map(of).sum()
}

/// The entries of the dense matrices of a model.
fn dense_matrices(model: &Decoder) -> BTreeMap<String, Matrix> {
    let found = matrices(model).into_iter().filter(|matrix| matrix.form == Form::dense());
    found.map(|matrix| (matrix.name.as_str().to_string(), matrix.to_matrix().unwrap())).collect()
}

fn files_of(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    let name = |entry: &fs::DirEntry| entry.file_name().into_string().unwrap();
    entries.map(|entry| (name(&entry), fs::read(entry.path()).unwrap())).collect()
}

#[test]
fn only_the_ridge_is_between_a_dense_matrix_that_follows_and_the_outputs_that_it_should_have() {
    const SIZE: usize = 8;
    let entries = |count: usize, phase: f64| -> Vec<f64> {
        (0..count).map(|i| ((i * i) as f64 * 0.37 + phase).sin()).collect()
    };
    // Each input alone, and what it should be: so outputs are the columns of the matrix.
    let unit = |i: usize| f32::from(u8::from(i / SIZE == i % SIZE));
    let sees: Vec<f32> = (0..SIZE * SIZE).map(unit).collect();
    let should: Vec<f32> = entries(SIZE * SIZE, 1.0).iter().map(|x| *x as f32).collect();
    let (mut seen, mut cross) = (SecondMoment::new(SIZE), CrossMoment::new(SIZE));
    seen.add(&sees);
    cross.add(&should, &sees);
    let dense = Matrix::new(5, SIZE, entries(5 * SIZE, 2.0)).unwrap();
    let should = should.iter().map(|x| f64::from(*x)).collect();
    let wanted = dense.product(&Matrix::new(SIZE, SIZE, should).unwrap().transposed()).unwrap();
    for follow in [0.0, 0.5, 1.0] {
        let norm = Weighting::sequential(&seen, &cross, follow, 0.0, None).unwrap();
        let made = Form::dense().make(&dense, &norm).unwrap();
        assert_eq!(made.relative_error, 0.0);
        let made = Form::dense().merge([5, SIZE], made.parts).unwrap();
        let full = norm.factors(&dense, 5).unwrap();
        let full = full.left.product(&full.right).unwrap();
        // The ridge is 3% of the inputs.
        let left = 1.0 - follow / 1.03;
        for at in 0..5 * SIZE {
            let gap = |matrix: &Matrix| wanted.data()[at] - matrix.data()[at];
            assert!((gap(&made) - left * gap(&dense)).abs() < 1e-6, "{follow}");
            assert!((gap(&full) - gap(&made)).abs() < 1e-9, "at full rank, {follow}");
        }
    }
}

#[test]
fn what_is_used_after_crushed_matrices_of_its_block_makes_up_for_them() {
    let scratch = tempfile::tempdir().unwrap();
    let calibration = calibrated(&scratch.path().join("calibration"), &options()).unwrap();
    let attention = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
    let mlp = ["mlp.gate_proj", "mlp.up_proj"];
    for (crushed, next) in [(&attention[..], "self_attn.o_proj"), (&mlp[..], "mlp.down_proj")] {
        for form in [Form::dense(), Form::pivot(48)] {
            let crushed = crushed.iter().map(|name| (format!("0.{name}"), Form::factors(4)));
            let forms: Vec<_> = crushed.chain([(format!("0.{next}"), form)]).collect();
            let forms: Vec<_> = forms.iter().map(|(name, form)| (name.as_str(), *form)).collect();
            let plan = plan_of(&forms);
            let far = |follow: f64| {
                let options = BlockwiseOptions { follow, ..BlockwiseOptions::new(&calibration) };
                let (model, _) = compressed(&plan, Method::Whitened, options);
                distance(&model.valid(), &calibration)
            };
            let [alone, half, whole] = [0.0, 0.5, 1.0].map(far);
            assert!(half < 0.8 * alone && whole < 0.7 * alone, "{next}: {alone} {half} {whole}");
        }
    }
}

#[test]
fn dense_matrices_after_a_compressed_one_change_and_stay_frozen_and_all_others_stay_as_they_are() {
    let scratch = tempfile::tempdir().unwrap();
    let calibration = calibrated(&scratch.path().join("calibration"), &options()).unwrap();
    let plan = mixed();
    let before = dense_matrices(&tiny_llama(&device()));
    let plain = BlockwiseOptions::new(&calibration);
    let refine = Some(RefineOptions { epochs: 1, ..RefineOptions::default() });
    for (blockwise, adapted) in [
        (plain, &ADAPTED[..]),
        (BlockwiseOptions { refine, ..plain }, &ADAPTED[..]),
        (BlockwiseOptions { adapt_dense: false, ..plain }, &ADAPTED[..0]),
        (BlockwiseOptions { follow: 0.0, ..plain }, &ADAPTED[..0]),
    ] {
        let (model, report) = compressed(&plan, Method::TwoSided, blockwise);
        let names: Vec<&str> = report.adapted.iter().map(|name| name.as_str()).collect();
        let expected: Vec<String> = adapted.iter().map(|name| named(name)).collect();
        assert_eq!(names, expected);
        assert_eq!(report.compressed.len(), plan.totals.lrcs);
        let after = dense_matrices(&model.valid());
        assert_eq!(after.len() + plan.totals.lrcs, before.len());
        for (name, matrix) in &after {
            assert_eq!(before[name] != *matrix, expected.contains(name), "{name}");
        }
        let trains = trainable(&model);
        assert_eq!(trains.len(), 2 * plan.totals.lrcs, "{trains:?}");
        let noted = report.noted_in(&plan);
        let noted = noted.matrices.iter().filter(|matrix| matrix.adapted);
        assert_eq!(noted.count(), adapted.len());
    }
}

#[test]
fn without_following_nothing_depends_on_the_stages() {
    let scratch = tempfile::tempdir().unwrap();
    let calibration = calibrated(&scratch.path().join("calibration"), &options()).unwrap();
    let plan = mixed();
    let norms = Norms::new(&calibration, Method::TwoSided, Shrinkage::default()).unwrap();
    let alone = Compressor::new(&plan).with_norms(norms);
    let (alone, expected) = alone.module(tiny_llama(&device()), &mut ()).unwrap();
    let blockwise = BlockwiseOptions { follow: 0.0, ..BlockwiseOptions::new(&calibration) };
    let (model, report) = compressed(&plan, Method::TwoSided, blockwise);
    let errors = |report: &CompressReport| -> BTreeMap<String, f64> {
        let of = report.compressed.iter();
        of.map(|matrix| (matrix.name.as_str().to_string(), matrix.relative_error)).collect()
    };
    let (errors, expected) = (errors(&report), errors(&expected));
    assert_eq!(errors.len(), expected.len());
    for (name, error) in &errors {
        assert!((error / expected[name] - 1.0).abs() < 1e-9, "{name}");
    }
    let [ours, theirs] = [&model.valid(), &alone].map(|model| distance(model, &calibration));
    assert!((ours / theirs - 1.0).abs() < 1e-4, "{ours} {theirs}");
}

#[test]
fn a_directory_says_which_dense_matrices_it_changed_and_is_gone_on_with_to_the_same_bytes() {
    let scratch = tempfile::tempdir().unwrap();
    let calibration = calibrated(&scratch.path().join("calibration"), &options()).unwrap();
    let (plan, dense) = (mixed(), checkpoint("tiny-llama"));
    let norms = Norms::new(&calibration, Method::TwoSided, Shrinkage::default()).unwrap();
    let compressor = Compressor::new(&plan)
        .with_norms(norms)
        .with_blockwise(BlockwiseOptions::new(&calibration));
    let model = || tiny_llama(&device().autodiff());
    let whole = scratch.path().join("whole");
    let output = OutputDir::create(&whole, false).unwrap();
    let report = compressor.directory_with(model(), &dense, &output, &mut ()).unwrap();
    output.commit().unwrap();

    let noted = read_plan(&whole).unwrap().unwrap();
    assert!(report.sequential && noted.sequential);
    assert_eq!(noted.totals.parameters_after, plan.totals.parameters_after);
    let written = Checkpoint::open(&whole).unwrap();
    for matrix in noted.matrices.iter().filter(|matrix| matrix.is_dense()) {
        let tensor = matrix.name.weight();
        let [ours, theirs] = [&written, &dense].map(|from| from.raw(&tensor).unwrap());
        assert_eq!((&ours.0.shape, ours.0.dtype), (&theirs.0.shape, theirs.0.dtype));
        let is_adapted = ADAPTED.iter().any(|name| matrix.name.as_str() == named(name));
        assert_eq!((matrix.adapted, ours.1 != theirs.1), (is_adapted, is_adapted), "{tensor}");
    }
    let norm = "model.layers.1.input_layernorm.weight";
    assert!(written.raw(norm).unwrap().1 == dense.raw(norm).unwrap().1);
    // As it is stored, it answers as the model in memory does.
    let loaded = load_model(&whole, &device(), FloatDType::F32, &mut ()).unwrap().model;
    let (in_memory, _) = compressed(&plan, Method::TwoSided, BlockwiseOptions::new(&calibration));
    let [stored, exact] = [&loaded, &in_memory.valid()].map(|model| distance(model, &calibration));
    assert!((stored / exact - 1.0).abs() < 0.1, "{stored} {exact}");

    // Stopped after the first block.
    let target = scratch.path().join("out");
    let output = OutputDir::resumable(&target, false).unwrap();
    let stopped = compressor.directory_with(model(), &dense, &output, &mut StopAfter(1));
    assert!(stopped.unwrap_err().is_interruption());
    output.suspend();
    let output = OutputDir::resumable(&target, false).unwrap();
    let resumed = compressor.directory_with(model(), &dense, &output, &mut ()).unwrap();
    output.commit().unwrap();
    assert_eq!(resumed, report);
    assert!(files_of(&target) == files_of(&whole));
}
