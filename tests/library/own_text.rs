//! Texts that a model writes itself, to be calibrated on.

use std::num::NonZeroUsize;

use burn::tensor::{Int, Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;
use welore_burn::calibrate::{
    Calibration, CalibrationOptions, CalibrationText, OwnTextError, OwnTextOptions, SampledText,
    calibrate, own_text, own_text_time,
};
use welore_burn::model::Decoder;
use welore_burn::progress::{Interrupted, Progress};

use crate::{checkpoint, device, story_tokens, tiny_llama};

/// 5 samples of 33 tokens, 2 at once; token 0 ends texts.
fn options() -> OwnTextOptions {
    OwnTextOptions {
        samples: 5,
        length: 33,
        temperature: 1.0,
        seed: 9,
        start: Some(0),
        at_once: NonZeroUsize::new(2).unwrap(),
    }
}

fn written(options: &OwnTextOptions) -> Vec<Vec<u32>> {
    own_text(&tiny_llama(&device()), options, &mut ()).unwrap().samples
}

/// The logits of every position, from one pass over all of them.
fn logits(model: &Decoder, tokens: &[u32]) -> Vec<Vec<f64>> {
    let ids: Vec<i32> = tokens.iter().map(|token| *token as i32).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, tokens.len()]), &device());
    let logits = model.forward(ids);
    let vocab_size = logits.dims()[2];
    let all: Vec<f64> = logits.into_data().iter::<f64>().collect();
    all.chunks(vocab_size).map(<[f64]>::to_vec).collect()
}

#[test]
fn time_of_writing_is_expected_for_every_length_and_number_of_samples() {
    let model = tiny_llama(&device());
    let time = |samples, length| {
        let options = OwnTextOptions { samples, length, ..options() };
        own_text_time(&model, &options, &mut ()).unwrap()
    };
    for length in [2, 31, 32, 512] {
        assert!(!time(1, length).is_zero() && !time(5, length).is_zero(), "{length}");
    }
    // A hundred times as many batches of the same size take longer, however busy the machine is.
    assert!(time(200, 128) > time(2, 128));
    let wrong = OwnTextOptions { length: 1, ..options() };
    assert_eq!(own_text_time(&model, &wrong, &mut ()), Err(OwnTextError::Length(1)));
}

#[test]
fn every_token_is_what_the_stream_of_its_sample_draws_from_the_models_expectation() {
    let model = tiny_llama(&device());
    for temperature in [0.7, 1.0] {
        let samples = written(&OwnTextOptions { temperature, ..options() });
        assert_eq!(samples.len(), 5);
        for (number, sample) in samples.iter().enumerate() {
            assert_eq!((sample.len(), sample[0]), (33, 0));
            let mut random = ChaCha12Rng::seed_from_u64(9);
            random.set_stream(number as u64);
            for (position, row) in logits(&model, sample)[..32].iter().enumerate() {
                let largest = row.iter().copied().fold(f64::MIN, f64::max);
                let weight = |logit: &f64| ((logit - largest) / temperature).exp();
                let weights: Vec<f64> = row.iter().map(weight).collect();
                let total: f64 = weights.iter().sum();
                let place = random.random::<f64>() * total;
                let token = sample[position + 1] as usize;
                let start: f64 = weights[..token].iter().sum();
                // A batch rounds differently than a pass over one sample.
                let slack = 1e-4 * total;
                let end = start + weights[token];
                assert!(
                    start - slack <= place && place < end + slack,
                    "{number} {position}: {place} is not in {start}..{end}"
                );
            }
        }
    }
}

#[test]
fn a_batch_is_what_each_of_its_samples_is_alone() {
    let few = OwnTextOptions { samples: 3, length: 24, ..options() };
    let together = written(&OwnTextOptions { at_once: NonZeroUsize::new(64).unwrap(), ..few });
    let alone = written(&OwnTextOptions { at_once: NonZeroUsize::MIN, ..few });
    assert_eq!(together, alone);
}

#[test]
fn the_same_seed_gives_the_same_text_and_another_seed_another() {
    let text = written(&options());
    assert_eq!(text, written(&options()));
    let other = written(&OwnTextOptions { seed: 10, ..options() });
    for (number, sample) in text.iter().enumerate() {
        assert_ne!(*sample, other[number]);
        assert!(text[..number].iter().all(|before| before != sample), "{number} is a repetition");
    }
    // A token that ends a text is one like others: samples have their length anyway.
    let from_another = written(&OwnTextOptions { start: Some(7), ..options() });
    assert!(from_another.iter().all(|sample| sample[0] == 7 && sample.len() == 33));
}

#[test]
fn text_that_cannot_be_written_is_refused_before_anything_is_computed() {
    let model = tiny_llama(&device());
    let refuse = |options: OwnTextOptions| own_text(&model, &options, &mut Never).unwrap_err();
    assert_eq!(refuse(OwnTextOptions { samples: 0, ..options() }), OwnTextError::NoSamples);
    assert_eq!(refuse(OwnTextOptions { length: 1, ..options() }), OwnTextError::Length(1));
    let long = OwnTextError::Context { length: 513, context: 512 };
    assert_eq!(refuse(OwnTextOptions { length: 513, ..options() }), long);
    assert_eq!(refuse(OwnTextOptions { start: None, ..options() }), OwnTextError::NoStart);
    let unknown = OwnTextError::UnknownStart { token: 384, vocab_size: 384 };
    assert_eq!(refuse(OwnTextOptions { start: Some(384), ..options() }), unknown);
    for temperature in [0.0, -1.0, f64::INFINITY] {
        let error = refuse(OwnTextOptions { temperature, ..options() });
        assert_eq!(error, OwnTextError::Temperature(temperature));
    }
}

/// Must not be asked.
struct Never;

impl Progress for Never {
    fn begin(&mut self, what: &str, _total: usize) {
        panic!("{what} begins");
    }

    fn step(&mut self, item: &str) -> Result<(), Interrupted> {
        panic!("a step: {item}")
    }
}

/// Counts steps, and stops after some.
struct Count {
    total: usize,
    done: usize,
    most: usize,
}

impl Progress for Count {
    fn begin(&mut self, _what: &str, total: usize) {
        self.total = total;
    }

    fn step(&mut self, _item: &str) -> Result<(), Interrupted> {
        self.done += 1;
        if self.done > self.most { Err(Interrupted) } else { Ok(()) }
    }
}

#[test]
fn writing_reports_every_token_and_can_be_stopped_between_two() {
    let model = tiny_llama(&device());
    let mut count = Count { total: 0, done: 0, most: usize::MAX };
    own_text(&model, &options(), &mut count).unwrap();
    // 5 samples are 3 batches.
    assert_eq!((count.total, count.done), (3 * 32, 3 * 32));
    let mut count = Count { total: 0, done: 0, most: 40 };
    let error = own_text(&model, &options(), &mut count).unwrap_err();
    assert_eq!((error, count.done), (OwnTextError::Interrupted(Interrupted), 41));
}

#[test]
fn a_calibration_states_the_texts_that_its_windows_are_from() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("calibration");
    let (checkpoint, model) = (checkpoint("tiny-llama"), tiny_llama(&device().autodiff()));
    let own = OwnTextOptions { samples: 3, length: 64, ..options() };
    let written = own_text(&model, &own, &mut ()).unwrap();
    let story = story_tokens();
    let text = CalibrationText::default().with_own(&written).with("story.txt", story.clone());
    let options = CalibrationOptions {
        seq_len: 64,
        windows: Some(6),
        gradient_windows: 2,
        ..CalibrationOptions::default()
    };
    calibrate(&model, Some(&checkpoint), &text, &options, &path, &mut ()).unwrap();

    let calibration = Calibration::open(&path).unwrap();
    let windows = calibration.windows().unwrap();
    let expected =
        (0..3).flat_map(|n| [written.samples[n].clone(), story[n * 64..][..64].to_vec()]);
    assert_eq!(windows, expected.collect::<Vec<_>>());
    let records = calibration.texts();
    assert_eq!(records, text.records(64, Some(6)));
    let names: Vec<&str> = records.iter().map(|record| record.name.as_str()).collect();
    assert_eq!(names, ["self", "story.txt"]);
    let sampled = SampledText { samples: 3, length: 64, temperature: 1.0, seed: 9, start: 0 };
    assert_eq!((records[0].sampled, records[1].sampled), (Some(sampled), None));
    for (first, record) in records.iter().enumerate() {
        let mut digest = blake3::Hasher::new();
        for token in windows.iter().skip(first).step_by(2).flatten() {
            digest.update(&token.to_le_bytes());
        }
        assert_eq!(record.digest, digest.finalize().to_hex().to_string());
        assert_eq!(record.windows, 3);
    }
}
