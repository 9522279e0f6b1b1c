//! Plans carried out on live modules, and from files to files.

use std::collections::BTreeMap;
use std::fs;

use burn::module::{Module, Param};
use burn::nn::{Linear, LinearConfig, LinearLayout, Relu};
use burn::tensor::{Device, Distribution, FloatDType, Tensor, Tolerance};
use safetensors::Dtype;
use welore_burn::checkpoint::{Checkpoint, load_module, save_module};
use welore_burn::compress::{
    CompressError, Compressor, KeptMatrices, compress_module, shape_by_plan,
};
use welore_burn::files::{FileError, OutputDir};
use welore_burn::forms::{Form, FormError, LowRank, Rest, Storage};
use welore_burn::linear::{LowRankLinear, LowRankLinearConfig};
use welore_burn::modules::{Selection, initialize};
use welore_burn::plan::{MatrixPlan, PlanOptions, RankPlan, WeLore, make_plan};
use welore_burn::progress::{Interrupted, Part, Progress};
use welore_burn::spectrum::{MeasureOptions, SpectrumError, measure_module};

use crate::{checkpoint, compress_into, device, tiny_spectra, trainable};

/// A user's own module: plain layers of Burn, and one of ours.
#[derive(Module, Debug)]
struct Classifier {
    first: Linear,
    second: LowRankLinear,
    head: Linear,
    activation: Relu,
}

impl Classifier {
    fn new(device: &Device) -> Self {
        Self {
            first: LinearConfig::new(10, 16).init(device),
            second: LowRankLinearConfig::new(16, 16).init(device),
            head: LinearConfig::new(16, 3).with_bias(false).init(device),
            activation: Relu::new(),
        }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let x = self.activation.forward(self.first.forward(x));
        self.head.forward(self.activation.forward(self.second.forward(x)))
    }
}

fn plan_for(module: &Classifier, err: f64) -> RankPlan {
    plan_in(module, err, Storage::Factors)
}

fn plan_in(module: &Classifier, err: f64, storage: Storage) -> RankPlan {
    let selection = Selection::of(["first", "second"]).unwrap();
    let spectra = measure_module(module, &selection, &MeasureOptions::default(), &mut ()).unwrap();
    let options = PlanOptions { min_ratio: 0.0, storage, ..PlanOptions::new(err) };
    make_plan(&spectra, &WeLore, &options).unwrap()
}

#[test]
fn any_module_is_factored_by_path_and_only_factors_train() {
    let module = Classifier::new(&device());
    let plan = plan_for(&module, 0.4);
    let (factored, report) = compress_module(module.clone(), &plan, &mut ()).unwrap();

    let names: Vec<_> = report.compressed.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(names, ["first", "second"]);
    assert_eq!(factored.second.rank(), Some(plan.matrices[1].rank));
    assert!(factored.first.weight.reparameterization::<LowRank>().is_some());
    assert!(factored.head.weight.reparameterization::<LowRank>().is_none());
    assert_eq!(factored.num_params() as u64, plan.totals.parameters_after);
    assert_eq!(
        trainable(&factored.clone().train()),
        ["first.weight", "first.weight.low_rank.up", "second.weight", "second.weight.low_rank.up"]
    );

    let x = Tensor::random([4, 10], Distribution::Default, &device());
    let merged = factored.clone().materialize();
    merged
        .forward(x.clone())
        .into_data()
        .assert_approx_eq::<f32>(&factored.forward(x).into_data(), Tolerance::rel_abs(1e-5, 1e-5));
    assert_eq!(merged.num_params(), module.num_params());
}

#[test]
fn what_is_not_compressed_trains_or_is_frozen_or_is_left() {
    let device = device().autodiff();
    let mut module = Classifier::new(&device);
    // One layer that someone froze before.
    module.head = module.head.no_grad();
    // Clones share parameters that do not exist yet, and whether those train.
    initialize(&module, 1);
    let plan = plan_for(&module, 0.4);
    let factors =
        ["first.weight", "first.weight.low_rank.up", "second.weight", "second.weight.low_rank.up"];
    let with = |more: &[&'static str]| {
        let mut names: Vec<&str> = factors.iter().chain(more).copied().collect();
        names.sort_unstable();
        names
    };
    for (rest, trains) in [
        (Rest::Freeze, with(&[])),
        (Rest::Keep, with(&["first.bias", "second.bias"])),
        (Rest::Train, with(&["first.bias", "second.bias", "head.weight"])),
    ] {
        let compressor = Compressor::new(&plan).with_rest(rest);
        let (module, _) = compressor.module(module.clone(), &mut ()).unwrap();
        let mut found = trainable(&module);
        found.sort_unstable();
        assert_eq!(found, trains, "{rest:?}");
    }
}

#[test]
fn a_module_shaped_by_a_plan_takes_what_was_compressed_before() {
    let dir = tempfile::tempdir().unwrap();
    for storage in [Storage::Factors, Storage::Pivot] {
        let dense = Classifier::new(&device());
        let plan = plan_in(&dense, 0.4, storage);
        let (compressed, _) = compress_module(dense, &plan, &mut ()).unwrap();
        let x = Tensor::random([4, 10], Distribution::Default, &device());
        let expected = compressed.forward(x.clone()).into_data();

        let shaped = || shape_by_plan(Classifier::new(&device()), &plan).unwrap();
        let skeleton = shaped();
        assert_eq!(skeleton.second.form(), plan.matrices[1].form);
        assert_eq!(skeleton.num_params() as u64, plan.totals.parameters_after);
        assert_eq!(skeleton.second.factors().unwrap().0.abs().max().into_scalar::<f64>(), 0.0);

        let files = dir.path().join(format!("{storage:?}"));
        fs::create_dir(&files).unwrap();
        save_module(&compressed, &files, |_| Dtype::F32, u64::MAX, &mut ()).unwrap();
        let files = Checkpoint::open(&files).unwrap();
        let loaded = load_module(shaped(), &files, |_| FloatDType::F32, &mut ()).unwrap();
        let recorded = shaped().load_record(compressed.into_record());
        for module in [loaded, recorded] {
            let found = module.forward(x.clone()).into_data();
            found.assert_approx_eq::<f32>(&expected, Tolerance::rel_abs(1e-5, 1e-5));
        }
    }
}

#[test]
fn a_plan_that_does_not_fit_shapes_nothing() {
    let module = Classifier::new(&device());
    let fitting = plan_for(&module, 0.4);
    let mut foreign = fitting.clone();
    foreign.matrices[0].name = "third".into();
    let unknown = shape_by_plan(module.clone(), &foreign).unwrap_err();
    assert!(matches!(&unknown, CompressError::ForeignPlan { .. }), "{unknown}");
    for form in [Form::factors(11), Form::pivot(0)] {
        let mut plan = fitting.clone();
        plan.matrices[0].form = form;
        let error = shape_by_plan(module.clone(), &plan).unwrap_err();
        let impossible = matches!(
            &error,
            CompressError::Form { name, source: FormError::Impossible(_) } if *name == "first"
        );
        assert!(impossible, "{error}");
    }
    let shaped = shape_by_plan(module.clone(), &fitting).unwrap();
    let twice = shape_by_plan(shaped, &fitting).unwrap_err();
    assert!(matches!(&twice, CompressError::Form { source: FormError::NotDense, .. }), "{twice}");
}

#[test]
fn reported_error_is_the_error_of_the_factors() {
    let module = Classifier::new(&device());
    let (factored, report) =
        compress_module(module.clone(), &plan_for(&module, 0.5), &mut ()).unwrap();
    let dense = module.second.weight.val();
    let left = (factored.second.weight.val() - dense.clone()).square().sum().sqrt();
    let relative = left.into_scalar::<f64>() / dense.square().sum().sqrt().into_scalar::<f64>();
    assert!((report.compressed[1].relative_error - relative).abs() < 1e-5);
    // Both factors carry √S, so their norms agree.
    let (down, up) = factored.second.factors().unwrap();
    let norm = |t: Tensor<2>| t.square().sum().into_scalar::<f64>();
    assert!((norm(down) / norm(up) - 1.0).abs() < 1e-5);
}

#[test]
fn surgery_works_on_an_autodiff_device_and_trains() {
    let device = device().autodiff();
    let module = Classifier::new(&device);
    let plan = plan_for(&module, 0.4);
    let (module, _) = compress_module(module, &plan, &mut ()).unwrap();
    let x = Tensor::random([4, 10], Distribution::Default, &device);
    let grads = module.forward(x).sum().backward();
    let (down, up) = module.second.factors().unwrap();
    assert!(down.grad(&grads).is_some() && up.grad(&grads).is_some());
    assert!(module.head.weight.grad(&grads).is_none());
    assert!(module.first.bias.as_ref().unwrap().grad(&grads).is_none());
}

#[test]
fn plans_that_do_not_fit_are_refused_before_any_work() {
    let module = Classifier::new(&device());
    let fitting = plan_for(&module, 0.4);
    let refused = |edit: fn(&mut RankPlan)| {
        let mut plan = fitting.clone();
        edit(&mut plan);
        compress_module(module.clone(), &plan, &mut ()).unwrap_err()
    };
    let unknown = refused(|plan| plan.matrices[0].name = "third".into());
    assert!(matches!(&unknown, CompressError::ForeignPlan { .. }), "{unknown}");
    assert!(unknown.to_string().contains("third"), "{unknown}");
    let shape = refused(|plan| plan.matrices[0].shape = [10, 16]);
    assert!(matches!(&shape, CompressError::ForeignPlan { .. }), "{shape}");
    assert!(shape.to_string().contains("first"), "{shape}");

    let (factored, _) = compress_module(module.clone(), &fitting, &mut ()).unwrap();
    let twice = compress_module(factored.clone(), &fitting, &mut ()).unwrap_err();
    assert!(matches!(&twice, CompressError::Form { source: FormError::NotDense, .. }), "{twice}");
    let measuring = MeasureOptions::default();
    let again = measure_module(&factored, &Selection::all(), &measuring, &mut ()).unwrap_err();
    assert!(matches!(&again, SpectrumError::Form { source: FormError::NotDense, .. }), "{again}");
}

#[test]
fn column_layout_is_refused() {
    let mut module = Classifier::new(&device());
    let plan = plan_for(&module, 0.4);
    module.first = LinearConfig::new(10, 16).with_layout(LinearLayout::Col).init(&device());
    let error = compress_module(module.clone(), &plan, &mut ()).unwrap_err();
    assert!(
        matches!(&error, CompressError::Form { name, source: FormError::Layout } if *name == "first"),
        "{error}"
    );
    let measuring = MeasureOptions::default();
    let error = measure_module(&module, &Selection::all(), &measuring, &mut ()).unwrap_err();
    assert!(matches!(&error, SpectrumError::Form { source: FormError::Layout, .. }), "{error}");
}

#[test]
fn weights_that_are_not_finite_are_refused() {
    let mut module = Classifier::new(&device());
    let plan = plan_for(&module, 0.4);
    module.second.weight = Param::from_tensor(Tensor::full([16, 16], f32::NAN, &device()));
    let error = compress_module(module, &plan, &mut ()).unwrap_err();
    assert!(error.to_string().contains("`second`"), "{error}");
}

/// Stops the work after this many matrices.
pub struct StopAfter(pub usize);

impl Progress for StopAfter {
    fn begin(&mut self, _what: &str, _total: usize) {}

    fn step(&mut self, _item: &str) -> Result<(), Interrupted> {
        self.0 = self.0.saturating_sub(1);
        if self.0 == 0 { Err(Interrupted) } else { Ok(()) }
    }
}

#[test]
fn suspended_directory_is_gone_on_with_to_the_same_bytes() {
    let checkpoint = checkpoint("tiny-llama");
    let plan = make_plan(&tiny_spectra(), &WeLore, &PlanOptions::new(0.6)).unwrap();
    let compressor = Compressor::new(&plan).with_shard_bytes(30_000);
    let home = tempfile::tempdir().unwrap();
    let files = |name: &str| -> BTreeMap<_, _> {
        let entries = fs::read_dir(home.path().join(name)).unwrap().map(Result::unwrap);
        entries.map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap())).collect()
    };
    let whole = compress_into(&home.path().join("whole"), &checkpoint, &compressor);
    assert!(whole.compressed.len() > 4, "{whole:?}");

    let target = home.path().join("out");
    let output = OutputDir::resumable(&target, false).unwrap();
    let busy = OutputDir::resumable(&target, false).unwrap_err();
    assert!(matches!(busy, FileError::OutputBusy { .. }), "{busy}");
    let stopped = compressor.directory(&checkpoint, &output, &mut StopAfter(2)).unwrap_err();
    assert!(stopped.is_interruption(), "{stopped}");
    output.suspend();
    assert!(!target.exists());

    let output = OutputDir::resumable(&target, false).unwrap();
    let resumed = compressor.directory(&checkpoint, &output, &mut ()).unwrap();
    output.commit().unwrap();
    assert_eq!(resumed, whole, "errors of factors that were kept are told too");
    assert!(files("out") == files("whole"));
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 2, "nothing is left beside");

    drop(OutputDir::resumable(home.path().join("unused"), false).unwrap());
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 2);
}

/// Counts the matrices that were made, and those that were taken over.
#[derive(Default)]
struct Tally {
    made: usize,
    taken: usize,
}

impl Progress for Tally {
    fn begin(&mut self, _what: &str, _total: usize) {}

    fn step(&mut self, _item: &str) -> Result<(), Interrupted> {
        unreachable!("matrices differ in size")
    }

    fn part(&mut self, part: Part<'_>) -> Result<(), Interrupted> {
        *if part.known { &mut self.taken } else { &mut self.made } += part.steps;
        Ok(())
    }
}

#[test]
fn matrices_that_plans_have_in_common_are_made_once() {
    let checkpoint = checkpoint("tiny-llama");
    let spectra = tiny_spectra();
    let options = PlanOptions { min_ratio: 0.0, ..PlanOptions::new(0.6) };
    let plan = make_plan(&spectra, &WeLore, &options).unwrap();
    let is_low = |matrix: &&MatrixPlan| matrix.form.rank().is_some_and(|rank| rank != 3);
    let changed = plan.matrices.iter().find(is_low).unwrap().name.clone();
    let other = plan.matrices.iter().map(|matrix| {
        let form = if matrix.name == changed { Form::factors(3) } else { matrix.form };
        MatrixPlan::new(matrix.name.clone(), matrix.shape, form, matrix.dtype)
    });
    let other = RankPlan::new("by hand", spectra.model, other.collect()).unwrap();
    let home = tempfile::tempdir().unwrap();
    let run = |compressor: Compressor<'_>, name: &str| {
        let output = OutputDir::create(home.path().join(name), false).unwrap();
        let mut tally = Tally::default();
        let report = compressor.directory(&checkpoint, &output, &mut tally).unwrap();
        output.commit().unwrap();
        let weights = fs::read(home.path().join(name).join("model.safetensors")).unwrap();
        ([tally.made, tally.taken], report, weights)
    };
    let lrcs = plan.totals.lrcs;
    assert_eq!(other.totals.lrcs, lrcs);
    let kept = KeptMatrices::create(home.path().join("kept"), u64::MAX).unwrap();
    assert_eq!(run(Compressor::new(&plan).with_kept(&kept), "first").0, [lrcs, 0]);
    let (tally, report, weights) = run(Compressor::new(&other).with_kept(&kept), "second");
    assert_eq!(tally, [1, lrcs - 1]);
    let (_, alone, expected) = run(Compressor::new(&other), "alone");
    assert!(weights == expected && report == alone, "as if nothing had been kept");

    // Without room everything is made again.
    let none = KeptMatrices::create(home.path().join("none"), 0).unwrap();
    for name in ["third", "fourth"] {
        assert_eq!(run(Compressor::new(&plan).with_kept(&none), name).0, [lrcs, 0]);
    }
}
