//! Every backend and every type that it computes in agrees with flex in f32.
//!
//! `BURN_DEVICE` chooses the backend. On flex itself only the half-precision types are compared.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, FloatDType, Int, Tensor, TensorData};
use welore_burn::compress::Compressor;
use welore_burn::data::{TokenRow, TokenRows};
use welore_burn::eval::{PerplexityOptions, perplexity};
use welore_burn::model::{Decoder, GenerateOptions, Sampler, generate, load_model, open_model};
use welore_burn::plan::{PlanOptions, WeLore, make_plan};
use welore_burn::train::{
    Batch, ExecutionOptions, MemoryOptions, RunPlace, TrainOptions, Trainable, Training,
    TrainingEvent, loss_and_gradients, select_trainable, trainable_paths,
};

use crate::{checkpoint, compress_into, device, fixture, story_tokens, tiny_spectra};

/// The unit roundoff of a type.
fn unit(dtype: FloatDType) -> f64 {
    match dtype {
        FloatDType::BF16 => 2f64.powi(-8),
        FloatDType::F16 => 2f64.powi(-11),
        _ => 2f64.powi(-24),
    }
}

/// The allowed error of a number that results from many operations, relative to its scale. The
/// model rounds about twenty times in a row; f32 backends also differ in their exponentials.
fn tolerance(dtype: FloatDType) -> f64 {
    (20.0 * unit(dtype)).max(1e-3)
}

/// The types in which the device is compared with flex in f32: never with itself.
fn dtypes() -> Vec<FloatDType> {
    let is_flex = device() == Device::flex();
    let all = [FloatDType::F32, FloatDType::BF16, FloatDType::F16];
    let compared = |dtype: &FloatDType| {
        device().supports_dtype(*dtype) && !(is_flex && *dtype == FloatDType::F32)
    };
    let dtypes: Vec<FloatDType> = all.into_iter().filter(compared).collect();
    assert!(!dtypes.is_empty(), "there is nothing to compare on {:?}", device());
    dtypes
}

/// tiny-llama, compressed.
fn compressed() -> tempfile::TempDir {
    let scratch = tempfile::tempdir().unwrap();
    let plan = make_plan(&tiny_spectra(), &WeLore, &PlanOptions::new(0.6)).unwrap();
    let dir = scratch.path().join("model");
    compress_into(&dir, &checkpoint("tiny-llama"), &Compressor::new(&plan));
    scratch
}

/// The largest difference, relative to the largest value.
fn gap(got: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let scale = expected.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    let gap = got.iter().zip(expected).map(|(a, b)| (a - b).abs());
    gap.fold(0.0f64, |most, x| if x.is_nan() { f64::INFINITY } else { most.max(x) }) / scale
}

fn logits(dir: &std::path::Path, device: &Device, dtype: FloatDType) -> Vec<f64> {
    let model = load_model(dir, device, dtype, &mut ()).unwrap().model;
    // Long enough for attention in parts.
    let ids: Vec<i32> = story_tokens().iter().cycle().take(300).map(|id| *id as i32).collect();
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, 300]), device);
    model.forward(tokens).into_data().iter::<f64>().collect()
}

#[test]
fn logits_agree_dense_and_factored() {
    let factored = compressed();
    for dir in [fixture("tiny-llama"), factored.path().join("model")] {
        let expected = logits(&dir, &Device::flex(), FloatDType::F32);
        for dtype in dtypes() {
            let gap = gap(&logits(&dir, &device(), dtype), &expected);
            assert!(gap < tolerance(dtype), "{dtype:?}: {gap}");
        }
    }
}

#[test]
fn perplexity_and_generation_agree() {
    let factored = compressed();
    let dir = factored.path().join("model");
    let measure = |device: &Device, dtype| {
        let loaded = load_model(&dir, device, dtype, &mut ()).unwrap();
        let options =
            PerplexityOptions { seq_len: 64, windows: Some(3), ..PerplexityOptions::default() };
        let tokens = story_tokens();
        let perplexity = perplexity(&loaded.model, &tokens, &options, &mut ()).unwrap();
        let mut sampler = Sampler::greedy();
        let options = GenerateOptions { max_new_tokens: 8, stop: Vec::new() };
        let go_on = |_| std::ops::ControlFlow::Continue(());
        let text = generate(&loaded.model, &tokens[..9], &mut sampler, &options, go_on).unwrap();
        (perplexity.nll / perplexity.tokens as f64, text)
    };
    let (nll, text) = measure(&Device::flex(), FloatDType::F32);
    for dtype in dtypes() {
        let (got, same) = measure(&device(), dtype);
        assert!((got / nll - 1.0).abs() < tolerance(dtype), "{dtype:?}: {got} for {nll}");
        if dtype == FloatDType::F32 {
            assert_eq!(same, text);
        }
    }
}

/// The model of a directory, with f32 masters of the parameters that train.
fn trainable(
    dir: &std::path::Path,
    device: &Device,
    dtype: FloatDType,
    trainable: Trainable,
) -> Decoder {
    let opened = open_model(dir, &device.clone().autodiff()).unwrap();
    let masters = trainable_paths(opened.skeleton(), trainable);
    opened.load(dtype, |path| masters.contains(path), &mut ()).unwrap().model
}

fn gradients(dir: &std::path::Path, device: &Device, dtype: FloatDType, share: f64) -> Vec<f64> {
    struct All<'a>(&'a GradientsParams, Vec<f64>);
    impl ModuleVisitor for All<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.0.get::<D>(param.id) {
                assert_eq!(FloatDType::from(gradient.dtype()), FloatDType::F32);
                self.1.extend(gradient.into_data().iter::<f64>());
            }
        }
    }
    let options = TrainOptions::default();
    let model = trainable(dir, device, dtype, Trainable::Lrc);
    let model = select_trainable(model, &options).unwrap().0;
    let tokens: Vec<u32> = story_tokens().into_iter().take(80).collect();
    let rows = [
        TokenRow { tokens: &tokens[..48], given: 1, skipped: &[] },
        TokenRow { tokens: &tokens[48..80], given: 9, skipped: &[] },
    ];
    let batch = Batch::new(&rows, &device.clone().autodiff());
    let memory = MemoryOptions { recompute: true, logits_at_once: 10_000 };
    let (_, gradients) = loss_and_gradients(&model, &batch, share, memory);
    let mut all = All(&gradients, Vec::new());
    model.visit(&mut all);
    all.1
}

#[test]
fn gradients_are_f32_and_agree_however_small_they_are() {
    let scratch = compressed();
    let dir = scratch.path().join("model");
    // The share of a token in a large batch, far below the smallest f16.
    let share = 1e-9;
    let expected = gradients(&dir, &Device::flex(), FloatDType::F32, share);
    for dtype in dtypes() {
        let got = gradients(&dir, &device(), dtype, share);
        let gap = gap(&got, &expected);
        assert!(gap < tolerance(dtype), "{dtype:?}: {gap}");
    }
}

#[test]
fn training_steps_agree() {
    let scratch = compressed();
    let dir = scratch.path().join("model");
    let run = |device: &Device, dtype| {
        let options = TrainOptions {
            seq_len: 32,
            batch_size: 2,
            steps: 5,
            lr: 1e-3,
            warmup: 1,
            clip: Some(1.0),
            save_every: 0,
            ..TrainOptions::default()
        };
        let scratch = tempfile::tempdir().unwrap();
        let place = RunPlace { dir: scratch.path(), origin: "tiny-llama", resume: false };
        let model = trainable(&dir, device, dtype, options.trainable);
        let mut training = Training::open(model, options, place).unwrap();
        let mut losses = Vec::new();
        let observe = |event| {
            if let TrainingEvent::Step(report) = event {
                losses.push(report.loss);
            }
            Ok(())
        };
        let rows = TokenRows::windows(story_tokens(), 32);
        let execution = ExecutionOptions { ahead: 1, ..ExecutionOptions::default() };
        let evaluate = |_: &Decoder| unreachable!("no evaluation");
        training.run(&rows, execution, evaluate, observe).unwrap();
        losses
    };
    let expected = run(&Device::flex(), FloatDType::F32);
    for dtype in dtypes() {
        let got = run(&device(), dtype);
        let gap = gap(&got, &expected);
        assert!(gap < tolerance(dtype), "{dtype:?}: {gap}");
    }
}
