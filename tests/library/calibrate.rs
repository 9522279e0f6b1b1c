//! Second moments against their definition, and calibrations that are refused or interrupted.

mod factored;
mod norms;

use std::num::NonZeroUsize;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use welore_burn::calibrate::{
    Calibration, CalibrationError, CalibrationOptions, CalibrationSummary, CalibrationText,
    Collector, calibrate, calibration_room, preview_calibration,
};
use welore_burn::files::unfinished;
use welore_burn::linalg::{SecondMoment, Shrink, Shrinkage};
use welore_burn::model::LanguageModel;
use welore_burn::modules::MatrixName;
use welore_burn::progress::{Interrupted, Progress};
use welore_burn::spectrum::{Method, Norms};

use crate::{checkpoint, device, story_tokens, tiny_llama, tiny_projections, tiny_spectra};

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
