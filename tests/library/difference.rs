//! What two models differ by, and its best factors.

use std::path::Path;

use safetensors::Dtype;
use welore_burn::calibrate::{Calibration, CalibrationError, CalibrationOptions, calibrate};
use welore_burn::checkpoint::{Checkpoint, ShardLayout, ShardWriter};
use welore_burn::difference::{
    Approximation, Difference, DifferenceError, Differences, Measuring, RankGoal, Side, adapter_of,
};
use welore_burn::forms::TensorSpec;
use welore_burn::linalg::{Matrix, Shrinkage};
use welore_burn::modules::Selection;
use welore_burn::spectrum::{Method, Norms};
use welore_burn::workers::Budget;

use crate::{checkpoint, device, story_tokens, tiny_llama};

/// Entries that no low rank gives.
fn entries(count: usize, phase: f64) -> Vec<f32> {
    (0..count).map(|i| ((i * i) as f64 * 0.37 + phase).sin() as f32).collect()
}

/// A tensor of f32.
type Tensor<'a> = (&'a str, &'a [usize], Vec<f32>);

/// Writes tensors into one file.
fn write(dir: &Path, tensors: &[Tensor<'_>]) -> Checkpoint {
    let spec = |(name, shape, _): &Tensor<'_>| TensorSpec {
        name: name.to_string(),
        dtype: Dtype::F32,
        shape: shape.to_vec(),
    };
    let specs: Vec<TensorSpec> = tensors.iter().map(spec).collect();
    std::fs::create_dir_all(dir).unwrap();
    let layout = ShardLayout::new(&specs, u64::MAX).unwrap();
    let writer = ShardWriter::new(dir, &layout).unwrap();
    for (name, _, values) in tensors {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        writer.write(name, &bytes).unwrap();
    }
    writer.finish().unwrap();
    Checkpoint::open(dir).unwrap()
}

fn plain() -> Measuring<'static> {
    Measuring { norms: Norms::plain(), side: Side::From, budget: Budget::default() }
}

fn made(
    difference: &Difference<'_>,
    goal: RankGoal,
    measuring: &Measuring<'_>,
) -> (Differences, Vec<Approximation>) {
    let found = difference.measure(measuring, &mut ()).unwrap();
    let ranks = goal.ranks(&found.matrices).unwrap();
    let made = difference.approximate(&found, &ranks, measuring, &mut ()).unwrap();
    (found, made)
}

/// The largest distance of two matrices, over the norm of the first.
fn distance(one: &Matrix, other: &Matrix) -> f64 {
    let pairs = one.data().iter().zip(other.data());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / one.norm()
}

#[test]
fn factors_of_full_rank_make_one_model_of_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (entries(35, 0.0), entries(24, 1.0));
    let (a_tuned, b_tuned) = (entries(35, 2.0), entries(24, 3.0));
    let from =
        write(&dir.path().join("from"), &[("a.weight", &[5, 7], a), ("b.weight", &[6, 4], b)]);
    let tensors: [Tensor<'_>; 2] = [("a.weight", &[5, 7], a_tuned), ("b.weight", &[6, 4], b_tuned)];
    let to = write(&dir.path().join("to"), &tensors);
    let difference = Difference::between(&from, &to, &Selection::all()).unwrap();
    let (found, made) = made(&difference, RankGoal::Rank(99), &plain());
    assert_eq!((found.same, found.others.len()), (0, 0));
    let adapter = adapter_of(&made, difference.is_turned());
    assert_eq!((adapter.turned, adapter.rank(), adapter.matrices.len()), (false, 5, 2));
    for one in &made {
        let sum =
            adapter.matrices[&one.name].added_to(from.read_matrix(&one.name.weight()).unwrap());
        let expected = to.read_matrix(&one.name.weight()).unwrap();
        assert!(distance(&expected, &sum.unwrap()) < 1e-6, "{}", one.name);
        assert!(one.relative_error < 1e-9 && one.losses.is_none());
    }
    assert_eq!(made.iter().map(Approximation::parameters).sum::<u64>(), adapter.parameters());
}

#[test]
fn a_factored_model_is_compared_by_the_products_of_its_factors() {
    let dir = tempfile::tempdir().unwrap();
    // The product is [[3, 6], [4, 8]], and what it differs by is of rank 1: [[0, 2], [0, 2]].
    let tensors: [Tensor<'_>; 2] =
        [("a.U.weight", &[2, 1], vec![3.0, 4.0]), ("a.V.weight", &[1, 2], vec![1.0, 2.0])];
    let from = write(&dir.path().join("from"), &tensors);
    let to = write(&dir.path().join("to"), &[("a.weight", &[2, 2], vec![3.0, 8.0, 4.0, 10.0])]);
    let difference = Difference::between(&from, &to, &Selection::all()).unwrap();
    let (found, made) = made(&difference, RankGoal::Err(0.01), &plain());
    let matrix = &found.matrices[0];
    assert!((matrix.singular_values[0] - 8f64.sqrt()).abs() < 1e-12, "{matrix:?}");
    assert!((matrix.change - (8.0 / 125f64).sqrt()).abs() < 1e-12, "{matrix:?}");
    assert_eq!((made[0].rank(), matrix.bytes), (1, 16));
    let product = made[0].product().unwrap().unwrap();
    let expected = Matrix::new(2, 2, vec![0.0, 2.0, 0.0, 2.0]).unwrap();
    assert!(distance(&expected, &product) < 1e-6);
}

#[test]
fn what_no_adapter_covers_is_counted_and_what_does_not_differ_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let tensors = |bias: f32, norm: f32, q: f32| -> [Tensor<'static>; 4] {
        [
            ("q_proj.weight", &[2, 2], vec![q, 0.0, 0.0, 2.0]),
            ("k_proj.weight", &[2, 2], vec![1.0, 2.0, 3.0, 4.0]),
            ("norm.weight", &[2], vec![3.0, norm]),
            ("q_proj.bias", &[2], vec![0.0, bias]),
        ]
    };
    let from = write(&dir.path().join("from"), &tensors(0.0, 4.0, 1.0));
    let to = write(&dir.path().join("to"), &tensors(0.5, 4.5, 1.25));
    let selection = Selection::of(["*_proj"]).unwrap();
    let difference = Difference::between(&from, &to, &selection).unwrap();
    let (found, made) = made(&difference, RankGoal::Parameters(4), &plain());
    assert_eq!((found.matrices.len(), found.same, made.len()), (1, 1, 1));
    assert_eq!((made[0].name.as_str(), made[0].parameters()), ("q_proj", 4));
    let others: Vec<(&str, Option<f64>)> =
        found.others.iter().map(|other| (other.tensor.as_str(), other.change)).collect();
    let [norm, bias] = [("norm.weight", Some(0.1)), ("q_proj.bias", Some(f64::INFINITY))];
    assert_eq!(others.len(), 2);
    assert!(others.contains(&norm) && others.contains(&bias), "{others:?}");
    // Without the matrix there is nothing to add.
    let selection = Selection::of(["k_proj"]).unwrap();
    let difference = Difference::between(&from, &to, &selection).unwrap();
    let refused = difference.measure(&plain(), &mut ()).unwrap_err();
    assert!(matches!(refused, DifferenceError::Same { .. }), "{refused}");
}

#[test]
fn models_of_other_shapes_are_refused_by_the_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let one = |name: &str, tensors: &[Tensor<'_>]| write(&dir.path().join(name), tensors);
    let small = one("small", &[("a.weight", &[2, 2], entries(4, 0.0))]);
    let wide = one("wide", &[("a.weight", &[2, 3], entries(6, 0.0))]);
    let more: [Tensor<'_>; 2] =
        [("a.weight", &[2, 2], entries(4, 1.0)), ("b.weight", &[2, 2], entries(4, 2.0))];
    let more = one("more", &more);
    let refused = |from: &Checkpoint, to: &Checkpoint| {
        Difference::between(from, to, &Selection::all()).unwrap_err()
    };
    let error = refused(&small, &wide);
    assert!(matches!(&error, DifferenceError::Shape { tensor, .. } if tensor == "a.weight"));
    assert!(error.to_string().contains("[2, 3]"), "{error}");
    for (from, to) in [(&small, &more), (&more, &small)] {
        let error = refused(from, to);
        assert!(matches!(&error, DifferenceError::Missing { tensor, .. } if tensor == "b.weight"));
        let said = error.to_string();
        assert!(said.contains("small has no `b.weight`"), "{said}");
    }
    let unmatched = Difference::between(&small, &small, &Selection::of(["z"]).unwrap());
    assert!(matches!(unmatched, Err(DifferenceError::Spectrum(_))));
}

#[test]
fn a_calibration_makes_the_factors_that_are_best_in_its_norm() {
    let dir = tempfile::tempdir().unwrap();
    let from = checkpoint("tiny-llama");
    let name = "model.layers.1.self_attn.q_proj.weight";
    let tensors: Vec<(String, Vec<usize>, Vec<f32>)> = from
        .names()
        .map(|tensor| {
            let mut values = from.read_f32(tensor).unwrap();
            if tensor == name {
                let changes = entries(values.len(), 0.5);
                values.iter_mut().zip(changes).for_each(|(x, by)| *x += 0.05 * by);
            }
            (tensor.to_string(), from.meta(tensor).unwrap().shape.clone(), values)
        })
        .collect();
    let tensors: Vec<Tensor<'_>> = tensors
        .iter()
        .map(|(name, shape, values)| (name.as_str(), shape.as_slice(), values.clone()))
        .collect();
    let to = write(&dir.path().join("tuned"), &tensors);
    let path = dir.path().join("calibration");
    let options = CalibrationOptions {
        seq_len: 64,
        windows: Some(4),
        gradient_windows: 4,
        ..CalibrationOptions::default()
    };
    let model = tiny_llama(&device().autodiff());
    calibrate(&model, Some(&from), &story_tokens().into(), &options, &path, &mut ()).unwrap();
    let calibration = Calibration::open(&path).unwrap();
    let norms = Norms::new(&calibration, Method::TwoSided, Shrinkage::default()).unwrap();
    let in_norm = Measuring { norms: norms.clone(), ..plain() };

    let difference = Difference::between(&from, &to, &Selection::of(["q_proj"]).unwrap()).unwrap();
    let rank = RankGoal::Rank(6);
    let (found, best) = made(&difference, rank, &in_norm);
    let (_, by_weights) = made(&difference, rank, &plain());
    assert_eq!((found.matrices.len(), found.same), (1, 3));
    let whole = to.read_matrix(name).unwrap();
    let (whole, base) = (whole.data(), from.read_matrix(name).unwrap());
    let left = |made: &Approximation| {
        let product = made.product().unwrap().unwrap();
        let entries = whole.iter().zip(base.data()).zip(product.data());
        let left = entries.map(|((to, from), part)| to - from - part).collect();
        let left = Matrix::new(made.shape[0], made.shape[1], left).unwrap();
        norms.of(&made.name).unwrap().apply(&left).unwrap().norm()
    };
    let (calibrated, uncalibrated) = (left(&best[0]), left(&by_weights[0]));
    assert!(calibrated < 0.99 * uncalibrated, "{calibrated} and {uncalibrated}");
    // It is the error that the singular values tell.
    let tail = found.matrices[0].tails()[6].sqrt();
    assert!((calibrated / tail - 1.0).abs() < 1e-4, "{calibrated} for {tail}");
    let [before, after] = best[0].losses.unwrap();
    assert!(0.0 < after && after < before, "{after} of {before}");

    // The other model has other weights.
    let foreign = Measuring { side: Side::To, ..in_norm };
    let refused = difference.measure(&foreign, &mut ()).unwrap_err();
    let is_foreign =
        matches!(&refused, DifferenceError::Calibration(CalibrationError::Foreign { .. }));
    assert!(is_foreign, "{refused}");
}
