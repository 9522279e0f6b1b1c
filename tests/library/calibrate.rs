//! Second moments against their definition, and factors that are best in norms of them.

use std::num::NonZeroUsize;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, FloatDType, Int, Tensor, TensorData};
use welore_burn::calibrate::{
    Calibration, CalibrationError, CalibrationOptions, Collector, calibrate,
};
use welore_burn::checkpoint::{Checkpoint, OutputDir};
use welore_burn::data::{TextTokenizer, read_text};
use welore_burn::eval::{PerplexityOptions, perplexity};
use welore_burn::fit::{FitOptions, RefineOptions, fit};
use welore_burn::language::LanguageModel;
use welore_burn::linalg::{CrossMoment, Matrix, SecondMoment, Shrinkage, Weighting};
use welore_burn::llama::{Llama, load_llama};
use welore_burn::plan::{Loss, PlanOptions, RankPlan, Storage, Target, make_plan};
use welore_burn::spectrum::{
    MeasureSettings, Method, Norms, Selection, SpectrumUnit, measure_checkpoint,
};
use welore_burn::surgery::{
    WriteSettings, apply_plan, apply_plan_in, compress_directory, merge_directory,
};

use crate::{device, fixture};

const SEQ_LEN: usize = 64;

fn tokens() -> Vec<u32> {
    let tokenizer = TextTokenizer::open(fixture("tiny-llama")).unwrap();
    tokenizer.encode(&read_text(fixture("story.txt")).unwrap()).unwrap()
}

fn llama(device: &Device) -> Llama {
    load_llama(fixture("tiny-llama"), device, FloatDType::F32, &mut ()).unwrap().model
}

fn options() -> CalibrationOptions {
    CalibrationOptions {
        seq_len: SEQ_LEN,
        blocks: Some(6),
        gradient_blocks: 2,
        probe_blocks: 0,
        allow_deficient: false,
        at_once: NonZeroUsize::new(2).unwrap(),
    }
}

fn calibrated(path: &Path, options: &CalibrationOptions) -> Result<Calibration, CalibrationError> {
    let checkpoint = Checkpoint::open(fixture("tiny-llama")).unwrap();
    let model = llama(&device().autodiff());
    calibrate(&model, &checkpoint, &tokens(), 128, options, path, &mut ())?;
    Calibration::open(path)
}

fn block(number: usize, device: &Device) -> Tensor<2, Int> {
    let tokens = &tokens()[number * SEQ_LEN..][..SEQ_LEN];
    let ids: Vec<i32> = tokens.iter().map(|token| *token as i32).collect();
    Tensor::from_data(TensorData::new(ids, [1, SEQ_LEN]), device)
}

/// The largest difference of the means, relative to the largest entry.
fn gap(a: &SecondMoment, b: &SecondMoment) -> f64 {
    let (a, b) = (a.packed(), b.packed());
    assert_eq!(a.len(), b.len());
    let scale = b.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    a.iter().zip(&b).fold(0.0f64, |most, (a, b)| most.max(f64::from((a - b).abs() / scale)))
}

#[test]
fn block_by_block_gives_what_whole_passes_over_the_model_give() {
    let scratch = tempfile::tempdir().unwrap();
    let ours = calibrated(&scratch.path().join("calibration"), &options()).unwrap();
    // The other way: everything at once, by the collector that any module can use.
    let device = device().autodiff();
    let model = llama(&device).no_grad();
    let mut inputs = Collector::new(&model, &Selection::projections()).unwrap();
    let mut gradients = Collector::new(&model, &Selection::projections()).unwrap();
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
            let name = format!("model.layers.{layer}.{name}");
            let found = ours.inputs(&name).unwrap();
            assert_eq!(found.count(), 6 * SEQ_LEN as u64);
            let difference = gap(&found, &inputs.inputs(&name).unwrap());
            assert!(difference < 1e-4, "inputs of {name}: {difference}");
            let difference = gap(&ours.outputs(&name).unwrap(), &gradients.outputs(&name).unwrap());
            // Attention of evaluation and of training round differently, and gradients add up.
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
    let too_short = refuse(CalibrationOptions { seq_len: 128, blocks: Some(0), ..options() });
    assert!(matches!(too_short, CalibrationError::TooShort { .. }));
    let context = refuse(CalibrationOptions { seq_len: 129, ..options() });
    assert!(matches!(context, CalibrationError::Context { .. }));
    let little = refuse(CalibrationOptions { blocks: Some(1), ..options() });
    assert!(matches!(little, CalibrationError::TooLittleText { tokens: 64, .. }), "{little}");
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    let deficient = CalibrationOptions { blocks: Some(1), allow_deficient: true, ..options() };
    assert!(calibrated(&path, &deficient).is_ok());
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

/// `E (gᵀ E x)²` over all pairs, for an error `E [out, in]`: the square of the weighted norm.
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
    let shrink = Shrinkage { input: 0.0, output: 0.0 };
    let norm = Weighting::new(&inputs, Some(&gradients), shrink).unwrap();
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
    let found = error_of(&factors.left, &factors.right);
    let tail: f64 = values[rank..].iter().map(|s| s * s).sum();
    // Moments are summed in f32 from rows in f32.
    assert!((found / tail - 1.0).abs() < 1e-4, "{found} for {tail}");
    let total: f64 = values.iter().map(|s| s * s).sum();
    assert!((factors.relative_error - (tail / total).sqrt()).abs() < 1e-9);
    // No other factors are better: neither the plain ones nor any nearby.
    let plain = Weighting::plain().factors(&w, rank).unwrap();
    assert!(error_of(&plain.left, &plain.right) > found * 1.01);
    for seed in 0..50 {
        let nudge = |values: &[f64], seed| -> Vec<f64> {
            let nudges = entries(values.len(), seed);
            values.iter().zip(nudges).map(|(x, d)| x + 1e-3 * d).collect()
        };
        let (left, right) = (nudge(&factors.left, seed + 10), nudge(&factors.right, seed + 90));
        assert!(error_of(&left, &right) >= found * (1.0 - 1e-6));
    }
}

#[test]
fn deficient_moments_still_give_finite_factors() {
    let (inputs, _) = moment(4, 12, 5);
    let w = Matrix::new(8, 12, entries(96, 6)).unwrap();
    for shrink in [0.0, 1e-3] {
        let shrink = Shrinkage { input: shrink, output: shrink };
        let norm = Weighting::new(&inputs, None, shrink).unwrap();
        let factors = norm.factors(&w, 5).unwrap();
        assert!(factors.left.iter().chain(&factors.right).all(|x| x.is_finite()), "{shrink:?}");
    }
    let none = SecondMoment::new(12);
    assert!(Weighting::new(&none, None, Shrinkage::default()).unwrap().factors(&w, 3).is_ok());
}

#[test]
fn a_matrix_that_sees_what_it_should_is_factored_as_without_a_sequence() {
    let (seen, x) = moment(80, 10, 7);
    let mut cross = CrossMoment::new(10);
    cross.add(&x, &x);
    let w = Matrix::new(6, 10, entries(60, 8)).unwrap();
    let shrink = Shrinkage { input: 0.0, output: 0.0 };
    let plain = Weighting::new(&seen, None, shrink).unwrap().factors(&w, 3).unwrap();
    for follow in [0.0, 0.5, 1.0] {
        let norm = Weighting::sequential(&seen, &cross, follow, None, shrink).unwrap();
        let factors = norm.factors(&w, 3).unwrap();
        let product = |f: &welore_burn::linalg::BalancedFactors| -> Vec<f64> {
            (0..60)
                .map(|n| (0..3).map(|k| f.left[n / 10 * 3 + k] * f.right[k * 10 + n % 10]).sum())
                .collect()
        };
        for (a, b) in product(&factors).iter().zip(product(&plain)) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
    }
}

fn planned(calibration: &Calibration, keep: f64, storage: Storage) -> (RankPlan, Norms<'_>) {
    let checkpoint = Checkpoint::open(fixture("tiny-llama")).unwrap();
    let norms = Norms::new(calibration, Method::TwoSided, Shrinkage::default()).unwrap();
    let settings = MeasureSettings { norms, ..MeasureSettings::default() };
    let selection = Selection::projections();
    let spectra = measure_checkpoint(&checkpoint, &selection, &settings, &mut ()).unwrap();
    assert_eq!(spectra.unit, SpectrumUnit::Loss);
    let options = PlanOptions { storage, ..PlanOptions::to(Target::KeepParams(keep)) };
    (make_plan(&spectra, &Loss, &options).unwrap(), norms)
}

fn measured(model: &Llama, device: &Device) -> f64 {
    let options = PerplexityOptions { seq_len: 64, blocks: Some(8), at_once: NonZeroUsize::MIN };
    perplexity(model, &tokens(), 128, &options, device, &mut ()).unwrap().perplexity
}

#[test]
fn calibrated_factors_beat_plain_ones_and_files_agree_with_modules() {
    let scratch = tempfile::tempdir().unwrap();
    let calibration = calibrated(&scratch.path().join("calibration"), &options()).unwrap();
    let device = device();
    let mut kept = Vec::new();
    for storage in [Storage::Factors, Storage::Pivot] {
        let (plan, norms) = planned(&calibration, 0.6, storage);
        let (model, _) = apply_plan_in(llama(&device), &plan, norms, &mut ()).unwrap();
        assert_eq!(model.num_params() as u64, plan.totals.parameters_after);
        let perplexity = measured(&model, &device);
        let plain = measured(&apply_plan(llama(&device), &plan, &mut ()).unwrap().0, &device);
        assert!(perplexity < plain, "{perplexity} for {plain}");

        let checkpoint = Checkpoint::open(fixture("tiny-llama")).unwrap();
        let dir = scratch.path().join(format!("{storage:?}"));
        let output = OutputDir::create(&dir, false).unwrap();
        let settings = WriteSettings { norms, ..WriteSettings::default() };
        compress_directory(&checkpoint, &plan, &output, &settings, &mut ()).unwrap();
        output.commit().unwrap();
        let written = Checkpoint::open(&dir).unwrap();
        assert!(written.bytes() < checkpoint.bytes());
        assert_eq!(plan.totals.bytes_after, written.bytes());
        let loaded = load_llama(&dir, &device, FloatDType::F32, &mut ()).unwrap().model;
        let from_file = measured(&loaded, &device);
        // Files hold factors in the type of the weights, which are bf16 here.
        assert!((from_file / perplexity - 1.0).abs() < 5e-3, "{from_file} for {perplexity}");

        let output = OutputDir::create(scratch.path().join("dense"), true).unwrap();
        merge_directory(&written, &output, &WriteSettings::default(), &mut ()).unwrap();
        output.commit().unwrap();
        let dense = scratch.path().join("dense");
        let dense = load_llama(dense, &device, FloatDType::F32, &mut ()).unwrap().model;
        let merged = measured(&dense, &device);
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
    let checkpoint = Checkpoint::open(fixture("tiny-llama")).unwrap();
    let dir = scratch.path().join("low");
    let output = OutputDir::create(&dir, false).unwrap();
    let settings = WriteSettings { norms, ..WriteSettings::default() };
    compress_directory(&checkpoint, &plan, &output, &settings, &mut ()).unwrap();
    output.commit().unwrap();
    let file = dir.join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let name = format!("{}.pivots", plan.low_rank().next().unwrap().name);
    let start = {
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let data = tensors.tensor(&name).unwrap().data();
        data.as_ptr() as usize - bytes.as_ptr() as usize
    };
    for wrong in [-1i32, 1 << 20] {
        bytes[start..start + 4].copy_from_slice(&wrong.to_le_bytes());
        std::fs::write(&file, &bytes).unwrap();
        let error = load_llama(&dir, &device(), FloatDType::F32, &mut ()).unwrap_err().to_string();
        assert!(error.contains(&name), "{error}");
    }
}

#[test]
fn refined_blocks_answer_more_like_the_dense_ones() {
    let scratch = tempfile::tempdir().unwrap();
    let calibration = calibrated(&scratch.path().join("calibration"), &options()).unwrap();
    let (plan, _) = planned(&calibration, 0.5, Storage::Pivot);
    let (plain, tracked) = (device(), device().autodiff());
    let distance = |model: &Llama| {
        let tokens = block(0, &plain);
        let gap =
            model.model.forward(tokens.clone(), None) - llama(&plain).model.forward(tokens, None);
        gap.square().mean().into_scalar::<f64>()
    };
    let fitted = |refine| {
        let options =
            FitOptions { refine, at_once: NonZeroUsize::new(2).unwrap(), ..FitOptions::default() };
        fit(llama(&tracked), &plan, &calibration, &options, &mut ()).unwrap()
    };
    let (sequential, report) = fitted(None);
    assert_eq!(report.factored.len(), plan.totals.lrcs);
    assert_eq!(sequential.num_params() as u64, plan.totals.parameters_after);
    let refined = fitted(Some(RefineOptions { epochs: 8, lr: 1e-3, batch: 2 })).0;
    let (before, after) = (distance(&sequential.valid()), distance(&refined.valid()));
    assert!(after < 0.9 * before, "{after} for {before}");
}
