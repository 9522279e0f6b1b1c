//! One step of factors towards the dense model: it goes downhill, in both ways to store a matrix, and what
//! is written is what was measured, errors included.

use std::num::NonZeroUsize;
use std::path::Path;

use burn::tensor::{Device, FloatDType};
use tempfile::tempdir;
use welore_burn::calibrate::{Calibration, CalibrationOptions, calibrate};
use welore_burn::checkpoint::Checkpoint;
use welore_burn::compress::{BlockwiseOptions, CompressReport, Compressor};
use welore_burn::distill::{DistillError, DistillOptions, distill};
use welore_burn::eval::{PerplexityOptions, divergence};
use welore_burn::files::OutputDir;
use welore_burn::forms::Storage;
use welore_burn::linalg::{Matrix, Shrinkage};
use welore_burn::model::{Decoder, load_model};
use welore_burn::plan::{Loss, PlanOptions, Target, make_plan, read_plan};
use welore_burn::spectrum::{MeasureOptions, Method, Norms, measure_checkpoint};

use crate::{checkpoint, device, story_tokens, tiny_llama, tiny_projections};

/// Tokens in a window.
const SEQ_LEN: usize = 64;

fn load(dir: &Path, device: &Device) -> Decoder {
    load_model(dir, device, FloatDType::F32, &mut ()).unwrap().model
}

/// A calibration of tiny-llama on four windows.
fn calibrated(path: &Path, dense: &Checkpoint, text: &[u32]) -> Calibration {
    let options = CalibrationOptions {
        seq_len: SEQ_LEN,
        windows: Some(4),
        gradient_windows: 2,
        allow_deficient: true,
        ..CalibrationOptions::default()
    };
    let tracked = tiny_llama(&device().autodiff());
    let seen = text.to_vec().into();
    calibrate(&tracked, Some(dense), &seen, &options, path, &mut ()).unwrap();
    Calibration::open(path).unwrap()
}

/// Checks that a report, and the plan in a directory, state the errors of what is there.
fn check_errors(
    dir: &Path,
    dense: &Checkpoint,
    norms: &Norms<'_>,
    [before, after]: [&CompressReport; 2],
) {
    let (written, noted) = (Checkpoint::open(dir).unwrap(), read_plan(dir).unwrap().unwrap());
    let mut changed = 0;
    for (matrix, before) in after.compressed.iter().zip(&before.compressed) {
        let name = &matrix.name;
        let should = dense.read_matrix(&name.weight()).unwrap();
        let is = written.read_merged(&written.stored_matrix(name).unwrap()).unwrap();
        let gap = should.data().iter().zip(is.data()).map(|(a, b)| a - b).collect();
        let gap = Matrix::new(should.rows(), should.cols(), gap).unwrap();
        let norm = norms.of(name).unwrap();
        let found = norm.apply(&gap).unwrap().norm() / norm.apply(&should).unwrap().norm();
        let stated = matrix.stored_error;
        assert!((found / stated - 1.0).abs() < 1e-6, "{name}: {stated} for {found}");
        assert_eq!(noted.find_compressed(name).unwrap().error, Some(matrix.error()));
        assert_eq!(matrix.relative_error, before.relative_error);
        changed += usize::from(stated != before.stored_error);
    }
    assert!(changed > 0);
    assert_eq!(noted.totals.stored_loss, after.losses().map(|[_, stored]| stored));
}

/// Checks that the plan in a directory states no errors that are not those of what is there.
fn check_no_errors(dir: &Path, report: &CompressReport) {
    assert!(!report.outdated.is_empty());
    let noted = read_plan(dir).unwrap().unwrap();
    assert_eq!(noted.totals.stored_loss, None);
    for matrix in &report.compressed {
        let error = noted.find_compressed(&matrix.name).unwrap().error;
        let expected = (!report.outdated.contains(&matrix.name)).then(|| matrix.error());
        assert_eq!(error, expected, "{}", matrix.name);
    }
}

#[test]
fn the_step_lowers_the_divergence_and_is_what_is_stored() {
    let (scratch, dense_files) = (tempdir().unwrap(), checkpoint("tiny-llama"));
    // With the same window again and again, the gradient is that of the text that is held back.
    let text = story_tokens()[..SEQ_LEN].repeat(4);
    let calibration = calibrated(&scratch.path().join("calibration"), &dense_files, &text);
    let norms = Norms::new(&calibration, Method::TwoSided, Shrinkage::default()).unwrap();
    let measuring = MeasureOptions { norms: norms.clone(), ..MeasureOptions::default() };
    let spectra =
        measure_checkpoint(&dense_files, &tiny_projections(), &measuring, &mut ()).unwrap();
    let dense = tiny_llama(&device());
    for (storage, follows) in
        [(Storage::Factors, false), (Storage::Pivot, false), (Storage::Pivot, true)]
    {
        let goal = PlanOptions { storage, ..PlanOptions::to(Target::KeepParams(0.4)) };
        let plan = make_plan(&spectra, &Loss, &goal).unwrap();
        let mut compressor = Compressor::new(&plan).with_norms(norms.clone());
        if follows {
            compressor = compressor.with_blockwise(BlockwiseOptions::new(&calibration));
        }
        let dir = scratch.path().join(format!("{storage:?} {follows}"));
        let output = OutputDir::create(&dir, false).unwrap();
        let to_follow = tiny_llama(&device().autodiff());
        let mut report =
            compressor.directory_with(to_follow, &dense_files, &output, &mut ()).unwrap();
        let before = report.clone();
        let model = load(output.path(), &device().autodiff());
        let options = DistillOptions {
            held_back: 2,
            lengths: vec![1e-5, 1e-4, 1e-3],
            at_once: NonZeroUsize::new(2).unwrap(),
            ..DistillOptions::default()
        };
        let found = distill(&model, &dense, &plan, &calibration, &options, &mut ()).unwrap();
        assert_eq!(found.tried.len(), 3, "{storage:?}");
        assert!(found.length > 0.0 && found.after() < found.before.value, "{found:?}");
        drop(model);
        found.write(&compressor, &dense_files, &output, &mut report, &mut ()).unwrap();
        output.commit().unwrap();
        match follows {
            // Made for inputs that only the compressed model has.
            true => check_no_errors(&dir, &report),
            false => check_errors(&dir, &dense_files, &norms, [&before, &report]),
        }
        let written = load(&dir, &device());
        let options = PerplexityOptions { seq_len: SEQ_LEN, ..PerplexityOptions::default() };
        let last = &text[2 * SEQ_LEN..];
        let kl = divergence(&written, &dense, last, &options, &mut ()).unwrap().kl.value;
        assert!((kl / found.after() - 1.0).abs() < 1e-4, "{kl} for {}", found.after());
    }
    // All windows held back leave none for the gradient.
    let options = DistillOptions { held_back: 4, ..DistillOptions::default() };
    let error = options.check(&calibration).unwrap_err();
    assert!(matches!(error, DistillError::TooFewWindows { windows: 4, held_back: 4 }), "{error}");
    let options = DistillOptions { held_back: 1, lengths: vec![0.1, 0.1], ..options };
    assert!(matches!(options.check(&calibration), Err(DistillError::Options(_))));
}
