//! Models that are factored in the norms of a calibration, matrix by matrix and block by block.

use std::num::NonZeroUsize;

use burn::module::Module;
use burn::tensor::{FloatDType, Tensor, TensorData};
use safetensors::Dtype;
use welore_burn::calibrate::Calibration;
use welore_burn::checkpoint::{Checkpoint, save_module};
use welore_burn::compress::{
    BlockwiseOptions, CompressError, Compressor, RefineOptions, WriteOptions, compress_module,
    merge_directory,
};
use welore_burn::eval::{PerplexityOptions, perplexity};
use welore_burn::files::OutputDir;
use welore_burn::forms::{Form, Rounding, Storage};
use welore_burn::linalg::{Matrix, Shrinkage};
use welore_burn::model::{Decoder, LanguageModel, load_model};
use welore_burn::modules::MatrixName;
use welore_burn::plan::{Loss, MatrixPlan, PlanOptions, RankPlan, Target, make_plan};
use welore_burn::spectrum::{
    MeasureOptions, Method, ModelSize, Norms, SpectrumUnit, measure_checkpoint,
};

use super::{SEQ_LEN, block, calibrated, options};
use crate::{checkpoint, compress_into, device, story_tokens, tiny_llama, tiny_projections};

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
