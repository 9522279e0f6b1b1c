//! One step of factors towards the dense model: it goes downhill, in both ways to store a matrix, and what
//! is written is what was measured.

use std::num::NonZeroUsize;
use std::path::Path;

use burn::tensor::{Device, FloatDType};
use tempfile::tempdir;
use welore_burn::calibrate::{Calibration, CalibrationOptions, calibrate};
use welore_burn::compress::Compressor;
use welore_burn::distill::{DistillError, DistillOptions, distill};
use welore_burn::eval::{PerplexityOptions, divergence};
use welore_burn::files::OutputDir;
use welore_burn::forms::Storage;
use welore_burn::linalg::Shrinkage;
use welore_burn::model::{Decoder, load_model};
use welore_burn::plan::{Loss, PlanOptions, Target, make_plan};
use welore_burn::spectrum::{MeasureOptions, Method, Norms, measure_checkpoint};

use crate::{checkpoint, device, story_tokens, tiny_llama, tiny_projections};

/// Tokens in a window.
const SEQ_LEN: usize = 64;

fn load(dir: &Path, device: &Device) -> Decoder {
    load_model(dir, device, FloatDType::F32, &mut ()).unwrap().model
}

#[test]
fn the_step_lowers_the_divergence_and_is_what_is_stored() {
    let (scratch, dense_files) = (tempdir().unwrap(), checkpoint("tiny-llama"));
    let path = scratch.path().join("calibration");
    // With the same window again and again, the gradient is that of the text that is held back.
    let text = story_tokens()[..SEQ_LEN].repeat(4);
    let options = CalibrationOptions {
        seq_len: SEQ_LEN,
        windows: Some(4),
        gradient_windows: 2,
        allow_deficient: true,
        ..CalibrationOptions::default()
    };
    let tracked = tiny_llama(&device().autodiff());
    let seen = text.clone().into();
    calibrate(&tracked, Some(&dense_files), &seen, &options, &path, &mut ()).unwrap();
    let calibration = Calibration::open(&path).unwrap();
    let norms = Norms::new(&calibration, Method::TwoSided, Shrinkage::default()).unwrap();
    let measuring = MeasureOptions { norms: norms.clone(), ..MeasureOptions::default() };
    let spectra =
        measure_checkpoint(&dense_files, &tiny_projections(), &measuring, &mut ()).unwrap();
    let dense = tiny_llama(&device());
    for storage in [Storage::Factors, Storage::Pivot] {
        let goal = PlanOptions { storage, ..PlanOptions::to(Target::KeepParams(0.4)) };
        let plan = make_plan(&spectra, &Loss, &goal).unwrap();
        let compressor = Compressor::new(&plan).with_norms(norms.clone());
        let dir = scratch.path().join(format!("{storage:?}"));
        let output = OutputDir::create(&dir, false).unwrap();
        compressor.directory(&dense_files, &output, &mut ()).unwrap();
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
        found.write(&compressor, &dense_files, &output).unwrap();
        output.commit().unwrap();
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
