//! Second moments against their definition, and factors that are best in the norms that they
//! define.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, FloatDType, Int, Tensor, TensorData};
use safetensors::Dtype;
use welore_burn::calibrate::{
    Calibration, CalibrationError, CalibrationOptions, CalibrationSummary, CalibrationText,
    Collector, calibrate, calibration_room, preview_calibration,
};
use welore_burn::checkpoint::{Checkpoint, save_module};
use welore_burn::compress::{
    BlockwiseOptions, CompressError, Compressor, RefineOptions, WriteOptions, compress_module,
    merge_directory,
};
use welore_burn::eval::{PerplexityOptions, perplexity};
use welore_burn::files::{OutputDir, unfinished};
use welore_burn::forms::{Form, Rounding, Storage};
use welore_burn::linalg::{
    BalancedFactors, CrossMoment, LinalgError, Matrix, Root, SecondMoment, Shrink, Shrinkage,
    Weighting,
};
use welore_burn::model::{Decoder, LanguageModel, load_model};
use welore_burn::modules::MatrixName;
use welore_burn::plan::{Loss, MatrixPlan, PlanOptions, RankPlan, Target, make_plan};
use welore_burn::progress::{Interrupted, Progress};
use welore_burn::spectrum::{
    MeasureOptions, Method, ModelSize, Norms, SpectrumUnit, measure_checkpoint,
};

use crate::{
    checkpoint, compress_into, device, story_tokens, tiny_llama, tiny_projections, tiny_spectra,
};

const SEQ_LEN: usize = 64;

/// Six windows of 64 tokens, two of them with gradients.
pub fn options() -> CalibrationOptions {
    CalibrationOptions {
        seq_len: SEQ_LEN,
        windows: Some(6),
        gradient_windows: 2,
        probe_windows: 0,
        allow_deficient: false,
        at_once: NonZeroUsize::new(2).unwrap(),
        ..CalibrationOptions::default()
    }
}

/// A calibration of tiny-llama on the story.
pub fn calibrated(
    path: &Path,
    options: &CalibrationOptions,
) -> Result<Calibration, CalibrationError> {
    let (checkpoint, model) = (checkpoint("tiny-llama"), tiny_llama(&device().autodiff()));
    calibrate(&model, Some(&checkpoint), &story_tokens().into(), options, path, &mut ())?;
    Calibration::open(path)
}

fn block(number: usize, device: &Device) -> Tensor<2, Int> {
    let tokens = &story_tokens()[number * SEQ_LEN..][..SEQ_LEN];
    let ids: Vec<i32> = tokens.iter().map(|token| *token as i32).collect();
    Tensor::from_data(TensorData::new(ids, [1, SEQ_LEN]), device)
}

/// The largest difference of the means, relative to the largest entry.
pub fn gap(a: &SecondMoment, b: &SecondMoment) -> f64 {
    let (a, b) = (a.packed(), b.packed());
    assert_eq!(a.len(), b.len());
    let scale = b.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    a.iter().zip(&b).fold(0.0f64, |most, (a, b)| most.max(f64::from((a - b).abs() / scale)))
}

#[test]
fn block_by_block_gives_what_whole_passes_over_the_model_give() {
    let scratch = tempfile::tempdir().unwrap();
    let ours = calibrated(&scratch.path().join("calibration"), &options()).unwrap();
    // The other way: everything at once, with the collector that any module can use.
    let device = device().autodiff();
    let model = tiny_llama(&device).no_grad();
    let mut inputs = Collector::new(&model, &tiny_projections()).unwrap();
    let mut gradients = Collector::new(&model, &tiny_projections()).unwrap();
    for number in 0..6 {
        let tokens = block(number, &device);
        let (logits, seen) = inputs.observe(|| model.forward(tokens.clone()));
        inputs.collect(seen, None);
        if number < 2 {
            let (loss, seen) = gradients.observe(|| {
                let logits = model.forward(tokens.clone()).narrow(1, 0, SEQ_LEN - 1);
                let targets = tokens.clone().narrow(1, 1, SEQ_LEN - 1).reshape([SEQ_LEN - 1, 1]);
                let logits = logits.squeeze_dim::<2>(0);
                burn::tensor::activation::log_softmax(logits, 1).gather(1, targets).sum().neg()
            });
            gradients.collect(seen, Some(&mut loss.backward()));
        }
        drop(logits);
    }
    let (inputs, gradients) = (inputs.finish().unwrap(), gradients.finish().unwrap());
    for layer in 0..model.blocks() {
        for name in [
            "self_attn.q_proj",
            "self_attn.v_proj",
            "self_attn.o_proj",
            "mlp.gate_proj",
            "mlp.down_proj",
        ] {
            let name = MatrixName::from(format!("model.layers.{layer}.{name}"));
            let found = ours.inputs(&name).unwrap();
            assert_eq!(found.count(), 6 * SEQ_LEN as u64);
            let difference = gap(&found, &inputs.inputs(&name).unwrap());
            assert!(difference < 1e-4, "inputs of {name}: {difference}");
            let difference = gap(&ours.outputs(&name).unwrap(), &gradients.outputs(&name).unwrap());
            // Attention rounds differently in evaluation and in training, and gradients add the
            // differences up.
            assert!(difference < 2e-3, "gradients of {name}: {difference}");
        }
    }
}

#[test]
fn threads_do_not_change_a_calibration() {
    let scratch = tempfile::tempdir().unwrap();
    let files = [1, 3].map(|at_once| {
        let path = scratch.path().join(at_once.to_string());
        let at_once = NonZeroUsize::new(at_once).unwrap();
        calibrated(&path, &CalibrationOptions { at_once, ..options() }).unwrap();
        std::fs::read(path).unwrap()
    });
    // Pools of other sizes may sum products in another order.
    assert_eq!(files[0].len(), files[1].len());
    let path = scratch.path().join("again");
    calibrated(&path, &CalibrationOptions { at_once: NonZeroUsize::new(3).unwrap(), ..options() })
        .unwrap();
    assert!(std::fs::read(path).unwrap() == files[1], "the same threads give the same file");
}

#[test]
fn text_that_cannot_do_is_refused_before_anything_is_computed() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("calibration");
    let refuse = |options| calibrated(&path, &options).unwrap_err();
    let none = refuse(CalibrationOptions { windows: Some(0), ..options() });
    assert!(matches!(none, CalibrationError::NoWindows));
    let context = refuse(CalibrationOptions { seq_len: 513, ..options() });
    assert!(matches!(context, CalibrationError::Context { .. }));
    let little = refuse(CalibrationOptions { windows: Some(1), ..options() });
    assert!(matches!(little, CalibrationError::TooLittleText { tokens: 64, .. }), "{little}");
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    let deficient = CalibrationOptions { windows: Some(1), allow_deficient: true, ..options() };
    assert!(calibrated(&path, &deficient).is_ok());
}

#[test]
fn windows_shorter_than_the_stride_of_the_comparison_are_probed_too() {
    let scratch = tempfile::tempdir().unwrap();
    for seq_len in [2, 3, 5] {
        let path = scratch.path().join(seq_len.to_string());
        let short = CalibrationOptions {
            seq_len,
            gradient_windows: 6,
            probe_windows: 2,
            allow_deficient: true,
            ..options()
        };
        let calibration = calibrated(&path, &short).unwrap();
        for matrix in tiny_spectra().matrices {
            let probe = calibration.probe(&matrix.name).expect("every matrix was probed");
            assert!(probe >= 0.0, "{}: {probe}", matrix.name);
        }
    }
}

/// Deterministic entries in (-1, 1).
fn entries(count: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        })
        .collect()
}

fn moment(rows: usize, size: usize, seed: u64) -> (SecondMoment, Vec<f32>) {
    let values: Vec<f32> = entries(rows * size, seed).iter().map(|x| *x as f32).collect();
    let mut moment = SecondMoment::new(size);
    moment.add(&values);
    (moment, values)
}

fn root(moment: &SecondMoment, shrink: f64) -> Option<Arc<Root>> {
    Some(Arc::new(moment.root(shrink).unwrap()))
}

/// The mean of `(gᵀ E x)²` over all pairs, for an error `E [out, in]`: the square of the weighted
/// norm.
fn weighted_error(
    error: &[f64],
    inputs: &[f32],
    gradients: &[f32],
    out: usize,
    size: usize,
) -> f64 {
    let (n, k) = (inputs.len() / size, gradients.len() / out);
    let mut sum = 0.0;
    for x in inputs.chunks(size) {
        let answer: Vec<f64> = (0..out)
            .map(|i| (0..size).map(|j| error[i * size + j] * f64::from(x[j])).sum())
            .collect();
        for g in gradients.chunks(out) {
            sum += g.iter().zip(&answer).map(|(g, a)| f64::from(*g) * a).sum::<f64>().powi(2);
        }
    }
    sum / (n * k) as f64
}

#[test]
fn weighted_factors_are_the_best_of_their_rank_in_the_norm_of_the_data() {
    let (out, size, rank) = (7, 9, 3);
    let (inputs, x) = moment(60, size, 1);
    let (gradients, g) = moment(50, out, 2);
    let w = Matrix::new(out, size, entries(out * size, 3)).unwrap();
    let norm = Weighting::new(root(&inputs, 0.0), root(&gradients, 0.0));
    let values = norm.singular_values(&w).unwrap();
    let error_of = |left: &[f64], right: &[f64]| {
        let mut error = w.data().to_vec();
        for i in 0..out {
            for j in 0..size {
                error[i * size + j] -=
                    (0..rank).map(|k| left[i * rank + k] * right[k * size + j]).sum::<f64>();
            }
        }
        weighted_error(&error, &x, &g, out, size)
    };
    let factors = norm.factors(&w, rank).unwrap();
    let found = error_of(factors.left.data(), factors.right.data());
    let tail: f64 = values[rank..].iter().map(|s| s * s).sum();
    // Moments are summed in f32 from rows in f32.
    assert!((found / tail - 1.0).abs() < 1e-4, "{found} for {tail}");
    let total: f64 = values.iter().map(|s| s * s).sum();
    assert!((factors.relative_error - (tail / total).sqrt()).abs() < 1e-9);
    // No other factors are better: neither the plain ones nor any nearby.
    let plain = Weighting::plain().factors(&w, rank).unwrap();
    assert!(error_of(plain.left.data(), plain.right.data()) > found * 1.01);
    for seed in 0..50 {
        let nudge = |values: &[f64], seed| -> Vec<f64> {
            let nudges = entries(values.len(), seed);
            values.iter().zip(nudges).map(|(x, d)| x + 1e-3 * d).collect()
        };
        let (left, right) =
            (nudge(factors.left.data(), seed + 10), nudge(factors.right.data(), seed + 90));
        assert!(error_of(&left, &right) >= found * (1.0 - 1e-6));
    }
}

#[test]
fn deficient_moments_still_give_finite_factors() {
    let (inputs, _) = moment(4, 12, 5);
    let w = Matrix::new(8, 12, entries(96, 6)).unwrap();
    for shrink in [0.0, 1e-3] {
        let norm = Weighting::new(root(&inputs, shrink), None);
        let factors = norm.factors(&w, 5).unwrap();
        assert!(
            factors.left.data().iter().chain(factors.right.data()).all(|x| x.is_finite()),
            "{shrink:?}"
        );
    }
    let none = SecondMoment::new(12);
    assert!(Weighting::new(root(&none, 1e-3), None).factors(&w, 3).is_ok());
}

#[test]
fn moments_that_are_no_numbers_have_no_root() {
    for wrong in [f32::NAN, f32::INFINITY] {
        for shrink in [0.0, 1e-3] {
            let mut moment = SecondMoment::new(3);
            moment.add(&[1.0, 2.0, 3.0]);
            moment.add(&[1.0, wrong, 1.0]);
            let error = moment.root(shrink).unwrap_err();
            assert!(matches!(error, LinalgError::NotFinite { .. }), "{wrong} {shrink}: {error}");
        }
    }
    let mut cross = CrossMoment::new(2);
    cross.add(&[1.0, 2.0], &[3.0, 4.0]);
    assert!(cross.is_finite());
    cross.add(&[1.0, f32::NAN], &[3.0, 4.0]);
    assert!(!cross.is_finite());
}

#[test]
fn a_matrix_that_sees_what_it_should_is_factored_as_without_a_sequence() {
    let (seen, x) = moment(80, 10, 7);
    let mut cross = CrossMoment::new(10);
    cross.add(&x, &x);
    let w = Matrix::new(6, 10, entries(60, 8)).unwrap();
    let plain = Weighting::new(root(&seen, 0.0), None).factors(&w, 3).unwrap();
    for follow in [0.0, 0.5, 1.0] {
        let norm = Weighting::sequential(&seen, &cross, follow, 0.0, None).unwrap();
        let factors = norm.factors(&w, 3).unwrap();
        let product = |f: &BalancedFactors| f.left.product(&f.right).unwrap().into_data();
        for (a, b) in product(&factors).iter().zip(product(&plain)) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
    }
}

fn planned(calibration: &Calibration, keep: f64, storage: Storage) -> (RankPlan, Norms<'_>) {
    let norms = Norms::new(calibration, Method::TwoSided, Shrinkage::default()).unwrap();
    let measuring = MeasureOptions { norms: norms.clone(), ..MeasureOptions::default() };
    let spectra =
        measure_checkpoint(&checkpoint("tiny-llama"), &tiny_projections(), &measuring, &mut ());
    let spectra = spectra.unwrap();
    assert_eq!(spectra.unit, SpectrumUnit::Loss);
    let options = PlanOptions { storage, ..PlanOptions::to(Target::KeepParams(keep)) };
    (make_plan(&spectra, &Loss, &options).unwrap(), norms)
}

fn measured(model: &Decoder) -> f64 {
    let options =
        PerplexityOptions { seq_len: 64, windows: Some(8), ..PerplexityOptions::default() };
    perplexity(model, &story_tokens(), &options, &mut ()).unwrap().perplexity
}

#[test]
fn calibrated_factors_beat_plain_ones_and_files_agree_with_modules() {
    let scratch = tempfile::tempdir().unwrap();
    let calibration = calibrated(&scratch.path().join("calibration"), &options()).unwrap();
    let device = device();
    let mut kept = Vec::new();
    for storage in [Storage::Factors, Storage::Pivot] {
        let (plan, norms) = planned(&calibration, 0.6, storage);
        let compressor = Compressor::new(&plan).with_norms(norms);
        let (model, _) = compressor.module(tiny_llama(&device), &mut ()).unwrap();
        assert_eq!(model.num_params() as u64, plan.totals.parameters_after);
        let perplexity = measured(&model);
        let plain = compress_module(tiny_llama(&device), &plan, &mut ()).unwrap().0;
        let plain = measured(&plain);
        assert!(perplexity < plain, "{perplexity} for {plain}");

        let checkpoint = checkpoint("tiny-llama");
        let dir = scratch.path().join(format!("{storage:?}"));
        compress_into(&dir, &checkpoint, &compressor);
        let written = Checkpoint::open(&dir).unwrap();
        assert!(written.bytes() < checkpoint.bytes());
        assert_eq!(plan.totals.bytes_after, written.bytes());
        let loaded = load_model(&dir, &device, FloatDType::F32, &mut ()).unwrap().model;
        let from_file = measured(&loaded);
        // Files hold factors in the type of the weights, which are bf16 here.
        assert!((from_file / perplexity - 1.0).abs() < 5e-3, "{from_file} for {perplexity}");

        let output = OutputDir::create(scratch.path().join("dense"), true).unwrap();
        merge_directory(&written, &output, &WriteOptions::default(), &mut ()).unwrap();
        output.commit().unwrap();
        let dense = scratch.path().join("dense");
        let dense = load_model(dense, &device, FloatDType::F32, &mut ()).unwrap().model;
        let merged = measured(&dense);
        assert!((merged / perplexity - 1.0).abs() < 5e-3, "{merged} for {perplexity}");
        kept.push(perplexity);
    }
    assert!(kept[1] < kept[0], "more rank for the same parameters: {kept:?}");
}

#[test]
fn pivots_that_cannot_be_are_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let calibration = calibrated(&scratch.path().join("calibration"), &options()).unwrap();
    let (plan, norms) = planned(&calibration, 0.6, Storage::Pivot);
    let dir = scratch.path().join("low");
    compress_into(&dir, &checkpoint("tiny-llama"), &Compressor::new(&plan).with_norms(norms));
    let file = dir.join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let matrix = &plan.low_rank().next().unwrap().name;
    let name = matrix.part("pivots");
    let start = {
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let data = tensors.tensor(&name).unwrap().data();
        data.as_ptr() as usize - bytes.as_ptr() as usize
    };
    for wrong in [-1i32, 1 << 20] {
        bytes[start..start + 4].copy_from_slice(&wrong.to_le_bytes());
        std::fs::write(&file, &bytes).unwrap();
        let error = load_model(&dir, &device(), FloatDType::F32, &mut ()).unwrap_err().to_string();
        assert!(error.contains(matrix.as_str()) && error.contains("pivots"), "{error}");
    }
}

#[test]
fn refined_blocks_answer_more_like_the_dense_ones() {
    let scratch = tempfile::tempdir().unwrap();
    let calibration = calibrated(&scratch.path().join("calibration"), &options()).unwrap();
    let (plan, norms) = planned(&calibration, 0.5, Storage::Pivot);
    let (plain, tracked) = (device(), device().autodiff());
    let distance = |model: &Decoder| {
        let tokens = block(0, &plain);
        let gap = model.hidden(tokens.clone()) - tiny_llama(&plain).hidden(tokens);
        gap.square().mean().into_scalar::<f64>()
    };
    let fitted = |refine| {
        let at_once = NonZeroUsize::new(2).unwrap();
        let blockwise = BlockwiseOptions { refine, at_once, ..BlockwiseOptions::new(&calibration) };
        Compressor::new(&plan)
            .with_norms(norms.clone())
            .with_blockwise(blockwise)
            .model(tiny_llama(&tracked), &mut ())
            .unwrap()
    };
    let (sequential, report) = fitted(None);
    assert_eq!(report.compressed.len(), plan.totals.lrcs);
    assert_eq!(sequential.num_params() as u64, plan.totals.parameters_after);
    let refined = fitted(Some(RefineOptions { epochs: 8, lr: 1e-3, batch: 2 })).0;
    let (before, after) = (distance(&sequential.valid()), distance(&refined.valid()));
    assert!(after < 0.9 * before, "{after} for {before}");
}

#[test]
fn a_block_that_computes_no_numbers_in_any_window_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let calibration = calibrated(&scratch.path().join("calibration"), &options()).unwrap();
    let (plan, norms) = planned(&calibration, 0.5, Storage::Factors);
    // A token that the first window does not have.
    let tokens = story_tokens();
    let (first, rest) = tokens[..6 * SEQ_LEN].split_at(SEQ_LEN);
    let token = *rest.iter().find(|token| !first.contains(token)).unwrap() as usize;
    let spoil = |embedding: Tensor<2>| {
        let ([rows, width], device) = (embedding.dims(), embedding.device());
        let mut values = embedding.into_data().try_into_vec::<f32>().unwrap();
        values[token * width..][..width].fill(f32::NAN);
        Tensor::from_data(TensorData::new(values, [rows, width]), &device)
    };
    for follow in [0.0, 0.5] {
        let mut model = tiny_llama(&device().autodiff());
        model.model.embed_tokens.weight = model.model.embed_tokens.weight.clone().map(spoil);
        let blockwise = BlockwiseOptions { follow, ..BlockwiseOptions::new(&calibration) };
        let compressor = Compressor::new(&plan).with_norms(norms.clone()).with_blockwise(blockwise);
        let error = compressor.model(model, &mut ()).map(drop).unwrap_err();
        assert!(matches!(error, CompressError::NotFinite { block: 1 }), "{error}");
    }
}

/// What a plan has in the last block of tiny-llama, so that no block has an input that depends on rounded
/// matrices.
fn in_the_last_block(plan: &RankPlan) -> RankPlan {
    let matrices = plan.matrices.iter().map(|matrix| match matrix.name.as_str() {
        name if name.contains(".layers.3.") => matrix.clone(),
        name => MatrixPlan::new(name, matrix.shape, Form::dense(), matrix.dtype),
    });
    let dense = checkpoint("tiny-llama");
    let size = ModelSize { parameters: dense.parameters(), bytes: dense.bytes() };
    RankPlan::new("one block", size, matrices.collect()).unwrap()
}

#[test]
fn numbers_of_refined_matrices_make_up_for_each_other_as_those_of_others_do() {
    let scratch = tempfile::tempdir().unwrap();
    let calibration = calibrated(&scratch.path().join("calibration"), &options()).unwrap();
    let (plan, norms) = planned(&calibration, 0.5, Storage::Factors);
    let (plan, dense) = (in_the_last_block(&plan), checkpoint("tiny-llama"));
    let refine = Some(RefineOptions { epochs: 1, lr: 1e-4, batch: 2 });
    let blockwise = BlockwiseOptions { refine, ..BlockwiseOptions::new(&calibration) };
    let compressor = Compressor::new(&plan).with_norms(norms.clone()).with_blockwise(blockwise);
    let model = || tiny_llama(&device().autodiff());
    // As they were refined, before anything is rounded.
    let (in_memory, _) = compressor.model(model(), &mut ()).unwrap();
    let exact = scratch.path().join("exact");
    std::fs::create_dir(&exact).unwrap();
    save_module(&in_memory.valid(), &exact, |_| Dtype::F32, u64::MAX, &mut ()).unwrap();
    let exact = Checkpoint::open(&exact).unwrap();
    let written = [Rounding::Nearest, Rounding::Fitted].map(|rounding| {
        let dir = scratch.path().join(format!("{rounding:?}"));
        let output = OutputDir::create(&dir, false).unwrap();
        let compressor = compressor.clone().with_rounding(rounding);
        compressor.directory_with(model(), &dense, &output, &mut ()).unwrap();
        output.commit().unwrap();
        Checkpoint::open(&dir).unwrap()
    });
    // What rounding adds, in the norm of inputs that are those of the dense model.
    let added = |written: &Checkpoint| -> f64 {
        let of_end = |end: &str| -> f64 {
            let name = MatrixName::from(format!("model.layers.3.self_attn.{end}").as_str());
            let [was, is] = [&exact, written]
                .map(|files| files.read_merged(&files.stored_matrix(&name).unwrap()).unwrap());
            let gap = was.data().iter().zip(is.data()).map(|(a, b)| a - b).collect();
            let gap = Matrix::new(was.rows(), was.cols(), gap).unwrap();
            norms.of(&name).unwrap().apply(&gap).unwrap().norm().powi(2)
        };
        ["q_proj", "k_proj", "v_proj"].map(of_end).iter().sum()
    };
    let [nearest, fitted] = written.each_ref().map(added);
    assert!(0.0 < fitted && fitted < 0.9 * nearest, "{fitted} for {nearest}");
}

#[test]
fn refined_matrices_are_rounded_once_at_the_end_and_their_errors_are_those_of_the_file() {
    let scratch = tempfile::tempdir().unwrap();
    let calibration = calibrated(&scratch.path().join("calibration"), &options()).unwrap();
    let (plan, norms) = planned(&calibration, 0.5, Storage::Factors);
    let (plan, dense) = (in_the_last_block(&plan), checkpoint("tiny-llama"));
    assert!(plan.totals.lrcs > 2 && plan.compressed().all(|m| m.dtype == Dtype::BF16));
    // Steps far below what bf16 resolves, which would be lost if they started from rounded values.
    let refine = Some(RefineOptions { epochs: 2, lr: 1e-5, batch: 2 });
    let blockwise = BlockwiseOptions { refine, ..BlockwiseOptions::new(&calibration) };
    let compressor = Compressor::new(&plan).with_norms(norms.clone()).with_blockwise(blockwise);
    let compressor = compressor.with_rounding(Rounding::Nearest);
    let model = || tiny_llama(&device().autodiff());

    let (in_memory, _) = compressor.model(model(), &mut ()).unwrap();
    let expected = scratch.path().join("expected");
    std::fs::create_dir(&expected).unwrap();
    save_module(&in_memory.valid(), &expected, |_| Dtype::BF16, u64::MAX, &mut ()).unwrap();
    let expected = Checkpoint::open(&expected).unwrap();

    let output = OutputDir::create(scratch.path().join("out"), false).unwrap();
    let report = compressor.directory_with(model(), &dense, &output, &mut ()).unwrap();
    output.commit().unwrap();
    let written = Checkpoint::open(scratch.path().join("out")).unwrap();
    for tensor in expected.names().filter(|name| name.contains(".layers.3.")) {
        assert_eq!(written.raw(tensor).unwrap().1, expected.raw(tensor).unwrap().1, "{tensor}");
    }

    let mut known = 0;
    for matrix in &report.compressed {
        let (name, stated) = (&matrix.name, matrix.stored_error);
        // Nothing of this rank is nearer than what was computed at first.
        assert!(stated > matrix.relative_error, "{name}: {stated}");
        let inputs_are_dense = ["q_proj", "k_proj", "v_proj"];
        if !inputs_are_dense.iter().any(|end| name.as_str().ends_with(end)) {
            continue;
        }
        let should = dense.read_matrix(&name.weight()).unwrap();
        let is = written.read_merged(&written.stored_matrix(name).unwrap()).unwrap();
        let gap = should.data().iter().zip(is.data()).map(|(a, b)| a - b).collect();
        let gap = Matrix::new(should.rows(), should.cols(), gap).unwrap();
        let norm = norms.of(name).unwrap();
        let found = norm.apply(&gap).unwrap().norm() / norm.apply(&should).unwrap().norm();
        assert!((found / stated - 1.0).abs() < 1e-6, "{name}: {stated} for {found}");
        known += 1;
    }
    assert!(known > 0);
}

/// Stops the work before its next step, after so many.
struct Stop(usize);

impl Progress for Stop {
    fn begin(&mut self, _what: &str, _total: usize) {}

    fn step(&mut self, _item: &str) -> Result<(), Interrupted> {
        self.0 = self.0.checked_sub(1).ok_or(Interrupted)?;
        Ok(())
    }
}

/// Stops the work within its step of this number, from 1, at the check after so many.
struct StopWithin {
    step: usize,
    checks: usize,
    begun: usize,
}

impl Progress for StopWithin {
    fn begin(&mut self, _what: &str, _total: usize) {}

    fn step(&mut self, _item: &str) -> Result<(), Interrupted> {
        self.begun += 1;
        Ok(())
    }

    fn check(&mut self) -> Result<(), Interrupted> {
        if self.begun == self.step {
            self.checks = self.checks.checked_sub(1).ok_or(Interrupted)?;
        }
        Ok(())
    }
}

#[test]
fn a_calibration_stops_between_windows_also_at_the_ends_of_the_model() {
    let scratch = tempfile::tempdir().unwrap();
    let (checkpoint, model) = (checkpoint("tiny-llama"), tiny_llama(&device().autodiff()));
    let text = CalibrationText::from(story_tokens());
    // Six windows go forward and two backward: through blocks, the inputs of the head, the gradients of
    // the loss, and those of the embedding.
    for (step, checks) in [(1, 2), (4, 5), (4, 6), (4, 12), (5, 1), (8, 2)] {
        let path = scratch.path().join(format!("{step} {checks}"));
        let mut stop = StopWithin { step, checks, begun: 0 };
        let stopped = calibrate(&model, Some(&checkpoint), &text, &options(), &path, &mut stop);
        let error = stopped.unwrap_err();
        assert!(matches!(error, CalibrationError::Interrupted(_)), "{step} {checks}: {error}");
        assert_eq!(stop.begun, step);
    }
}

#[test]
fn an_interrupted_calibration_goes_on_where_it_stopped() {
    let scratch = tempfile::tempdir().unwrap();
    let [whole, parts] = ["whole", "parts"].map(|name| scratch.path().join(name));
    let options = CalibrationOptions { resumable: true, ..options() };
    calibrated(&whole, &CalibrationOptions { resumable: false, ..options }).unwrap();
    let (checkpoint, model) = (checkpoint("tiny-llama"), tiny_llama(&device().autodiff()));
    let tokens = || story_tokens().into();
    let go_on = |options: &CalibrationOptions, steps: usize| {
        calibrate(&model, Some(&checkpoint), &tokens(), options, &parts, &mut Stop(steps))
    };
    // Four blocks forward, and four backward; what is done counts as steps, too.
    for steps in [1, 3, 4, 6, 7] {
        let error = go_on(&options, steps).unwrap_err();
        assert!(matches!(error, CalibrationError::Interrupted(_)), "{error}");
        let dir = unfinished(&parts).expect("what is done is kept");
        let journal = std::fs::read_to_string(dir.join("progress.jsonl")).unwrap();
        assert_eq!(journal.lines().count(), 1 + steps);
        assert!(!parts.exists());
    }
    // What is damaged is measured again, and what follows from it.
    let dir = unfinished(&parts).unwrap().join("model");
    let last = dir.join("backward-0");
    std::fs::write(&last, vec![0; std::fs::metadata(&last).unwrap().len() as usize]).unwrap();
    go_on(&options, usize::MAX).unwrap();
    assert!(std::fs::read(&parts).unwrap() == std::fs::read(&whole).unwrap());
    assert_eq!(unfinished(&parts), None);
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 2);
    // Other options are another calibration, and nothing is left where nobody asked for it.
    std::fs::remove_file(&parts).unwrap();
    go_on(&options, 2).unwrap_err();
    let other = CalibrationOptions { gradient_windows: 1, ..options };
    go_on(&other, 1).unwrap_err();
    let journal = unfinished(&parts).unwrap().join("progress.jsonl");
    assert_eq!(std::fs::read_to_string(journal).unwrap().lines().count(), 2);
    let once = scratch.path().join("once");
    let stopped = CalibrationOptions { resumable: false, ..options };
    let stopped =
        calibrate(&model, Some(&checkpoint), &tokens(), &stopped, &once, &mut Stop(3)).unwrap_err();
    assert!(matches!(stopped, CalibrationError::Interrupted(_)) && unfinished(&once).is_none());
}

#[test]
fn room_for_all_that_a_calibration_writes_is_known_before_it_begins() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("calibration");
    let options = CalibrationOptions { resumable: true, ..options() };
    let (checkpoint, model) = (checkpoint("tiny-llama"), tiny_llama(&device().autodiff()));
    let text = CalibrationText::from(story_tokens());
    let summary = preview_calibration(&model, &text, &options).unwrap();
    let room = |options| calibration_room(&model, &summary, options).unwrap();
    // Stopped in its last step, it has all of its files.
    calibrate(&model, Some(&checkpoint), &text, &options, &path, &mut Stop(7)).unwrap_err();
    let files = std::fs::read_dir(unfinished(&path).unwrap().join("model")).unwrap();
    let (mut states, mut all) = (0, 0);
    for file in files.map(Result::unwrap) {
        let (name, bytes) = (file.file_name(), file.metadata().unwrap().len());
        all += bytes;
        if name != "model.safetensors" {
            states += bytes;
        }
    }
    let in_memory = CalibrationOptions { resumable: false, ..options };
    assert_eq!(room(&options) - room(&in_memory), states);
    assert!(room(&options) <= all && all < 2 * room(&options), "{all}");
    let inputs_alone = CalibrationSummary { gradient_windows: 0, ..summary };
    let less = calibration_room(&model, &inputs_alone, &options).unwrap();
    assert!(0 < less && less < room(&options));
}

#[test]
fn altered_journal_ends_before_the_line_that_was_altered() {
    let scratch = tempfile::tempdir().unwrap();
    let [whole, parts] = ["whole", "parts"].map(|name| scratch.path().join(name));
    let options = CalibrationOptions { resumable: true, ..options() };
    let (checkpoint, model) = (checkpoint("tiny-llama"), tiny_llama(&device().autodiff()));
    let (tokens, from) = (CalibrationText::from(story_tokens()), Some(&checkpoint));
    let expected = calibrate(&model, from, &tokens, &options, &whole, &mut ()).unwrap();
    calibrate(&model, from, &tokens, &options, &parts, &mut Stop(2)).unwrap_err();

    let journal = unfinished(&parts).unwrap().join("progress.jsonl");
    let text = std::fs::read_to_string(&journal).unwrap();
    let (before, after) = text.rsplit_once("\"uneven\":").unwrap();
    let after = after.trim_start_matches(|c: char| c.is_ascii_digit());
    std::fs::write(&journal, format!("{before}\"uneven\":{}{after}", usize::MAX)).unwrap();

    let found = calibrate(&model, from, &tokens, &options, &parts, &mut ()).unwrap();
    assert_eq!(found.uneven, expected.uneven);
    assert!(std::fs::read(&parts).unwrap() == std::fs::read(&whole).unwrap());
}

#[test]
fn second_moments_are_shrunk_by_what_a_file_says_about_its_tokens() {
    let scratch = tempfile::tempdir().unwrap();
    let calibration = calibrated(&scratch.path().join("calibration"), &options()).unwrap();
    assert!(calibration.knows_spread());
    let names: Vec<MatrixName> = calibration.names().cloned().collect();
    for name in &names {
        let (inputs, outputs) =
            (calibration.inputs(name).unwrap(), calibration.outputs(name).unwrap());
        for moment in [&inputs, &outputs] {
            let share = moment.mixed_share().unwrap();
            assert!(share > 0.0 && share <= 1.0, "{name}: {share}");
            // E[|x|⁴] is at least the square of E[|x|²].
            let square: f64 = moment.squares().iter().sum();
            assert!(moment.mean_fourth().unwrap() >= 0.999 * square * square, "{name}");
        }
    }
    let by_data = Shrinkage { input: Shrink::Data, output: Shrink::Data };
    let norms = Norms::new(&calibration, Method::TwoSided, by_data).unwrap();
    let other = Norms::new(&calibration, Method::TwoSided, Shrinkage::default()).unwrap();
    assert_ne!(norms.identity(), other.identity());
    norms.of(&names[0]).unwrap();
    let squares = SecondMoment::from_squares(&[1.0, 2.0], 4).unwrap();
    assert_eq!(squares.mixed_share(), None);
}
