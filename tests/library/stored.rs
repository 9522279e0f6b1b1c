//! What is stored in types of 16 bits, and how far that is from the matrix.

use std::sync::Arc;

use safetensors::Dtype;
use welore_burn::checkpoint::Checkpoint;
use welore_burn::compress::Compressor;
use welore_burn::forms::{Form, Part, Rounding, StoredForm};
use welore_burn::linalg::{Matrix, SecondMoment, Shrinkage, Weighting};
use welore_burn::plan::{
    Energy, Loss, MatrixPlan, PlanOptions, RankPlan, RankPolicy, Target, WeLore, make_plan,
    read_plan,
};
use welore_burn::spectrum::{MeasureOptions, Method, Norms, measure_checkpoint};

use crate::calibrate::{calibrated, options};
use crate::{checkpoint, compress_into, tiny_projections, tiny_spectra};

const SHAPE: [usize; 2] = [48, 40];

fn entries(count: usize, phase: f64) -> Vec<f64> {
    (0..count).map(|i| ((i * i % 9973) as f64 * 0.37 + phase).sin()).collect()
}

fn matrix() -> Matrix {
    let [rows, cols] = SHAPE;
    Matrix::new(rows, cols, entries(rows * cols, 1.0)).unwrap()
}

/// The norm of inputs, and of gradients, that are correlated and of very different sizes.
fn norm() -> Weighting {
    let root = |size: usize, scale: f64| {
        let mut moment = SecondMoment::new(size);
        let rows = entries(20 * size, size as f64);
        let mixed = rows.windows(2).map(|pair| (scale * (pair[0] + 0.8 * pair[1])) as f32);
        moment.add(&mixed.chain([0.5]).collect::<Vec<f32>>());
        Some(Arc::new(moment.root(0.01).unwrap()))
    };
    Weighting::new(root(SHAPE[1], 30.0), root(SHAPE[0], 1e-3))
}

fn made(form: Form, norm: &Weighting, dtype: Dtype, rounding: Rounding) -> StoredForm {
    form.make_stored(&matrix(), norm, dtype, rounding).unwrap()
}

/// The error of what is stored, computed from the outside.
fn error_of(stored: &StoredForm, form: Form, norm: &Weighting, dtype: Dtype) -> f64 {
    let read = form
        .parts(SHAPE)
        .into_iter()
        .zip(&stored.parts)
        .map(|(spec, part)| Part::decode(&spec, dtype, &part.encode(dtype).unwrap()).unwrap());
    let (merged, dense) = (form.merge(SHAPE, read.collect()).unwrap(), matrix());
    let gap = dense.data().iter().zip(merged.data()).map(|(a, b)| a - b).collect();
    let gap = Matrix::new(SHAPE[0], SHAPE[1], gap).unwrap();
    norm.apply(&gap).unwrap().norm() / norm.apply(&dense).unwrap().norm()
}

#[test]
fn errors_are_those_of_what_is_in_the_file() {
    for norm in [Weighting::plain(), norm()] {
        for form in [Form::factors(20), Form::pivot(20)] {
            for dtype in [Dtype::BF16, Dtype::F16] {
                for rounding in [Rounding::Nearest, Rounding::Fitted] {
                    let stored = made(form, &norm, dtype, rounding);
                    let found = error_of(&stored, form, &norm, dtype);
                    let stated = stored.error.stored_error;
                    assert!((found / stated - 1.0).abs() < 1e-9, "{form} {dtype}: {stated}");
                    let size = norm.apply(&matrix()).unwrap().norm();
                    assert!((stored.error.size / size - 1.0).abs() < 1e-9);
                    let loss = 0.5 * (found * size).powi(2);
                    assert!((stored.error.stored_loss() / loss - 1.0).abs() < 1e-6);
                }
            }
        }
    }
}

#[test]
fn numbers_that_make_up_for_each_other_are_never_worse_and_lose_much_less_in_a_norm() {
    for norm in [Weighting::plain(), norm()] {
        for rank in [1, 7, 20, 33, 39] {
            for form in [Form::factors(rank), Form::pivot(rank)] {
                let [nearest, fitted] = [Rounding::Nearest, Rounding::Fitted]
                    .map(|rounding| made(form, &norm, Dtype::BF16, rounding).error);
                assert!(fitted.stored_error <= nearest.stored_error, "{form}");
                assert!((fitted.relative_error / nearest.relative_error - 1.0).abs() < 1e-9);
            }
        }
    }
    // What rounding adds to the squared error.
    let added = |rounding| {
        let error = made(Form::pivot(20), &norm(), Dtype::BF16, rounding).error;
        error.stored_loss() - error.loss()
    };
    assert!(added(Rounding::Fitted) < 0.5 * added(Rounding::Nearest));
}

#[test]
fn wide_types_are_stored_as_they_were_computed() {
    for form in [Form::factors(9), Form::pivot(9)] {
        for rounding in [Rounding::Nearest, Rounding::Fitted] {
            let stored = made(form, &norm(), Dtype::F32, rounding);
            let computed = form.make(&matrix(), &norm()).unwrap();
            assert_eq!(stored.parts, computed.parts, "{form}");
            assert_eq!(stored.error.stored_error, computed.relative_error);
        }
    }
}

#[test]
fn factors_of_the_weights_alone_are_rounded_as_in_published_checkpoints() {
    let plain = Weighting::plain();
    let [nearest, fitted] = [Rounding::Nearest, Rounding::Fitted]
        .map(|rounding| made(Form::factors(20), &plain, Dtype::BF16, rounding));
    assert_eq!(nearest, fitted);
}

#[test]
fn numbers_that_are_too_large_are_left_to_the_writer() {
    let huge = Matrix::new(6, 5, entries(30, 0.5).iter().map(|x| 1e12 * x).collect()).unwrap();
    for form in [Form::factors(3), Form::pivot(3)] {
        let stored =
            form.make_stored(&huge, &Weighting::plain(), Dtype::F16, Rounding::Fitted).unwrap();
        assert!(stored.parts.iter().any(|part| part.encode(Dtype::F16).is_err()), "{form}");
    }
}

#[test]
fn a_directory_states_the_errors_of_what_it_holds_and_another_plan_does_not_inherit_them() {
    let scratch = tempfile::tempdir().unwrap();
    let plan = make_plan(&tiny_spectra(), &WeLore, &PlanOptions::new(0.5)).unwrap();
    let low = scratch.path().join("low");
    let report = compress_into(&low, &checkpoint("tiny-llama"), &Compressor::new(&plan));
    let [computed, stored] = report.relative_errors().unwrap();
    assert!(computed < stored && stored < 1.01 * computed, "{computed} {stored}");
    assert_eq!(report.losses(), None, "this is not the norm of the loss");
    let noted = read_plan(&low).unwrap().unwrap();
    for matrix in &report.compressed {
        let planned = noted.find_compressed(&matrix.name).unwrap();
        assert_eq!(planned.error, Some(matrix.error()));
    }
    assert_eq!(noted.clone().without_errors(), plan);
    // The same plan from there gives the same files.
    let again = scratch.path().join("again");
    compress_into(&again, &checkpoint("tiny-llama"), &Compressor::new(&noted));
    for file in ["model.safetensors", "welore_plan.json"] {
        let [a, b] = [&low, &again].map(|dir| std::fs::read(dir.join(file)).unwrap());
        assert!(a == b, "{file} differs");
    }
}

#[test]
fn the_storage_that_is_chosen_has_the_smaller_error() {
    let tiny = checkpoint("tiny-llama");
    let spectra = tiny_spectra();
    let size = spectra.model;
    for of_rank in [Form::factors as fn(usize) -> Form, Form::pivot] {
        let matrices = spectra.matrices.iter().take(6).enumerate().map(|(place, spectrum)| {
            let form = of_rank(3 + 2 * place);
            MatrixPlan::new(spectrum.name.clone(), spectrum.shape, form, spectrum.dtype)
        });
        let plan = RankPlan::new("by hand", size, matrices.collect()).unwrap();
        let chosen = Compressor::new(&plan).choose_storage(&tiny, &mut ()).unwrap();
        assert!(chosen.totals.parameters_after <= plan.totals.parameters_after);
        for (planned, chosen) in plan.matrices.iter().zip(&chosen.matrices) {
            let error = |matrix: &MatrixPlan| stored_error(&tiny, matrix);
            assert!(error(chosen) <= error(planned), "{}", planned.name);
            assert!(chosen.form == planned.form || error(chosen) < error(planned));
        }
    }
}

#[test]
fn the_estimates_of_a_plan_follow_the_storage_that_is_chosen() {
    let scratch = tempfile::tempdir().unwrap();
    let calibration = calibrated(&scratch.path().join("calibration"), &options()).unwrap();
    let of_loss = Norms::new(&calibration, Method::TwoSided, Shrinkage::default()).unwrap();
    let (tiny, projections) = (checkpoint("tiny-llama"), tiny_projections());
    let squares = |values: &[f64]| -> f64 { values.iter().map(|x| x * x).sum() };
    for (norms, policy) in
        [(of_loss, &Loss as &dyn RankPolicy), (Norms::plain(), &Energy as &dyn RankPolicy)]
    {
        let measuring = MeasureOptions { norms: norms.clone(), ..MeasureOptions::default() };
        let spectra = measure_checkpoint(&tiny, &projections, &measuring, &mut ()).unwrap();
        // All that is cut from factored matrices, and everything.
        let cut = |plan: &RankPlan| -> f64 {
            let pairs = spectra.matrices.iter().zip(&plan.matrices);
            let factored = pairs.filter(|(_, matrix)| matrix.is_low_rank());
            factored.map(|(of, matrix)| squares(&of.singular_values[matrix.rank..])).sum()
        };
        let all: f64 = spectra.matrices.iter().map(|of| squares(&of.singular_values)).sum();
        let goal = PlanOptions::to(Target::KeepParams(0.5));
        let plan = make_plan(&spectra, policy, &goal).unwrap();
        let compressor = Compressor::new(&plan).with_norms(norms.clone());
        let chosen = compressor.choose_storage(&tiny, &mut ()).unwrap();
        assert_ne!(chosen.totals.parameters_after, plan.totals.parameters_after);
        let (stated, expected) = match norms.method() {
            Method::Svd => (chosen.totals.energy_lost, cut(&chosen) / all),
            _ => (chosen.totals.expected_loss, cut(&chosen) / 2.0),
        };
        let stated = stated.expect("the plan had an estimate");
        assert!((stated / expected - 1.0).abs() < 1e-5, "{stated} for {expected}");
    }
}

fn stored_error(checkpoint: &Checkpoint, matrix: &MatrixPlan) -> f64 {
    let dense = checkpoint.read_matrix(&matrix.name.weight()).unwrap();
    let made =
        matrix.form.make_stored(&dense, &Weighting::plain(), matrix.dtype, Rounding::default());
    made.unwrap().error.stored_error
}
