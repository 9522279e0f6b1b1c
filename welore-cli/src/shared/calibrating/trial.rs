//! What a calibration is expected to take, from a few windows and tokens that are tried.

use std::time::Instant;

use anyhow::Result;
use burn::tensor::{DType, FloatDType};
use welore_burn::calibrate::{
    CalibrationError, CalibrationOptions, CalibrationSummary, CalibrationText, calibrate,
    own_text_time,
};
use welore_burn::checkpoint::Checkpoint;
use welore_burn::model::{Decoder, DecoderConfig, LanguageModel};

use super::{CalibrationWork, mixture};
use crate::devices::Compute;
use crate::format;
use crate::shared::forecast::{Forecast, Stopwatch, mean_gap, on_line, peak_with};
use crate::shared::scratch::Scratch;
use crate::terminal::Bar;

/// Matrices that are probed.
const PROBED: usize = 8;

impl CalibrationWork<'_> {
    /// What all of the work is expected to take. Tries parts of it, with files only in a directory
    /// of its own: tokens of the text that the model writes, and twice some windows, from which the
    /// cost of a window follows, and that of everything else.
    pub fn forecast(self, compute: &Compute) -> Result<Forecast> {
        let began = Instant::now();
        let all = self.preview()?;
        let scratch = Scratch::new(true)?;
        // The calibrations of both trials together are about as large, or larger.
        scratch.check_room(self.opened.checkpoint.bytes())?;
        let Self { opened, texts, own, options } = self;
        let mut bar = Bar::default();
        let loaded = opened.load(compute.dtype, |_| false, &mut bar)?;
        let (model, config) = (&loaded.model, &loaded.config);
        let mut seconds = began.elapsed().as_secs_f64();
        let (mut tried, mut peaks) = (Vec::new(), Vec::new());
        if let Some(own) = &own {
            seconds += own_text_time(model, own, &mut bar)?.as_secs_f64();
            let together = own.samples.min(own.at_once.get()) as u128;
            let cache = together * config.cached_values(own.length) * size_of(compute.dtype);
            peaks.push(peak_of(compute, cache));
            tried.push(format!("a few tokens of {}", format::number_of(own.samples, "sample")));
        }
        let text = mixture(&texts, None);
        let checkpoint = &loaded.checkpoint;
        let mut trial = Trial { model, checkpoint, text, options, scratch: &scratch, bar };
        let sizes = Sizes::of(&all, &options);
        let small = trial.measure(sizes.small)?;
        let large = match sizes.large == sizes.small {
            true => small,
            false => trial.measure(sizes.large)?,
        };
        seconds += sizes.whole_time(&all, small, large);
        peaks.push(peak_of(compute, sizes.growth(&all, config, size_of(compute.dtype))));
        tried.push(format::number_of(sizes.large.windows, "window"));
        let probed = match all.gradient_windows {
            0 => 0,
            _ => options.probe_windows.min(all.windows),
        };
        if probed > 0 {
            seconds += trial.probing_time(probed, all.matrices, config.num_hidden_layers)?;
            let matrices = format::matrices(PROBED.min(all.matrices));
            tried.push(format!("{matrices} on {}", format::number_of(probed, "window")));
        }
        let peak_bytes = peaks.into_iter().flatten().max();
        let (tried, is_host) = (tried.join(" and "), compute.is_host());
        Ok(Forecast { seconds, peak_bytes, tried, is_host })
    }
}

/// Bytes of a number.
fn size_of(dtype: FloatDType) -> u128 {
    DType::from(dtype).size() as u128
}

/// The peak of what was tried, and this many bytes more on the device.
fn peak_of(compute: &Compute, more: u128) -> Option<u64> {
    let more = if compute.is_host() { more } else { 0 };
    peak_with(u64::try_from(more).unwrap_or(u64::MAX))
}

/// How much is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Size {
    windows: usize,
    /// The first of them, on which gradients are measured, too.
    gradients: usize,
}

/// The two sizes that are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sizes {
    small: Size,
    large: Size,
}

/// The seconds of a trial.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Seconds {
    /// Before anything is measured.
    before: f64,
    inputs: f64,
    gradients: f64,
}

impl Sizes {
    /// Once and three times as many windows as are computed at once.
    fn of(all: &CalibrationSummary, options: &CalibrationOptions) -> Self {
        let at_once = options.at_once.get();
        let of = |windows: usize| Size {
            windows: windows.min(all.windows),
            gradients: windows.min(all.gradient_windows),
        };
        Self { small: of(at_once), large: of(3 * at_once) }
    }

    /// The time of all windows.
    fn whole_time(&self, all: &CalibrationSummary, small: Seconds, large: Seconds) -> f64 {
        let Self { small: few, large: more } = self;
        let inputs =
            on_line((few.windows, small.inputs), (more.windows, large.inputs), all.windows);
        let gradients = on_line(
            (few.gradients, small.gradients),
            (more.gradients, large.gradients),
            all.gradient_windows,
        );
        large.before + inputs + gradients
    }

    /// The bytes of hidden states that all windows need beyond those of the larger trial: one
    /// before and one after a block for each window, and one for each block and each window with
    /// gradients.
    fn growth(&self, all: &CalibrationSummary, config: &DecoderConfig, bytes: u128) -> u128 {
        let Size { windows, gradients } = self.large;
        let state = all.seq_len as u128 * config.hidden_size as u128 * bytes;
        let blocks = config.num_hidden_layers as u128;
        let [windows, gradients] =
            [all.windows - windows, all.gradient_windows - gradients].map(|more| more as u128);
        (2 * windows + blocks * gradients) * state
    }
}

/// Calibrations of parts.
struct Trial<'a> {
    model: &'a Decoder,
    checkpoint: &'a Checkpoint,
    text: CalibrationText,
    options: CalibrationOptions,
    scratch: &'a Scratch,
    bar: Bar,
}

impl Trial<'_> {
    /// Calibrates on some windows.
    fn measure(&mut self, size: Size) -> Result<Seconds> {
        let began = Instant::now();
        let Self { model, checkpoint, text, scratch, bar, .. } = self;
        let options = options_of(&self.options, size, 0);
        let output =
            scratch.path().join(format!("calibration-{}-{}", size.windows, size.gradients));
        let mut watch = Stopwatch::new(bar);
        calibrate(*model, Some(*checkpoint), text, &options, &output, &mut watch)?;
        let ended = Instant::now();
        // A step for the inputs of each block, then one for the gradients of each.
        let steps = watch.steps(0);
        let first = steps.first().copied().unwrap_or(ended);
        let turned = steps.get(model.blocks()).copied().unwrap_or(ended);
        Ok(Seconds {
            before: (first - began).as_secs_f64(),
            inputs: (turned - first).as_secs_f64(),
            gradients: (ended - turned).as_secs_f64(),
        })
    }

    /// Seconds that it takes to probe all matrices of so many blocks, on `windows` windows.
    fn probing_time(&mut self, windows: usize, matrices: usize, blocks: usize) -> Result<f64> {
        let Self { model, checkpoint, text, scratch, bar, .. } = self;
        let options = options_of(&self.options, Size { windows, gradients: 1 }, windows);
        let output = scratch.path().join("probes");
        let mut watch = Stopwatch::stopping(bar, 1, PROBED);
        let done = calibrate(*model, Some(*checkpoint), text, &options, &output, &mut watch);
        match done {
            Err(CalibrationError::Interrupted(_)) if watch.has_stopped() => {}
            other => {
                other?;
            }
        }
        // A probe goes from its block to the end, so those of the first block, which were tried, go
        // through twice as many as others on average.
        let share = (blocks + 1) as f64 / (2 * blocks) as f64;
        Ok(mean_gap(watch.steps(1)).as_secs_f64() * matrices as f64 * share)
    }
}

/// The options for a part. Few tokens are no reason to refuse it.
fn options_of(all: &CalibrationOptions, size: Size, probe_windows: usize) -> CalibrationOptions {
    CalibrationOptions {
        windows: Some(size.windows),
        gradient_windows: size.gradients,
        probe_windows,
        allow_deficient: true,
        ..*all
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    const ALL: CalibrationSummary =
        CalibrationSummary { matrices: 210, windows: 64, gradient_windows: 16, seq_len: 512 };

    fn sizes(all: &CalibrationSummary) -> Sizes {
        let at_once = NonZeroUsize::new(2).unwrap();
        Sizes::of(all, &CalibrationOptions { at_once, ..CalibrationOptions::default() })
    }

    #[test]
    fn windows_are_tried_twice_and_no_more_than_there_are() {
        let Sizes { small, large } = sizes(&ALL);
        assert_eq!(small, Size { windows: 2, gradients: 2 });
        assert_eq!(large, Size { windows: 6, gradients: 6 });
        let few = CalibrationSummary { windows: 3, gradient_windows: 0, ..ALL };
        assert_eq!(sizes(&few).large, Size { windows: 3, gradients: 0 });
    }

    #[test]
    fn only_what_grows_with_windows_is_extrapolated() {
        let small = Seconds { before: 9.0, inputs: 3.0, gradients: 5.0 };
        let large = Seconds { before: 4.0, inputs: 5.0, gradients: 13.0 };
        // 58 more windows of half a second, and 10 more with gradients of two seconds.
        assert_eq!(sizes(&ALL).whole_time(&ALL, small, large), 4.0 + 5.0 + 29.0 + 13.0 + 20.0);
        let few = CalibrationSummary { windows: 2, gradient_windows: 0, ..ALL };
        let none = Seconds { gradients: 0.5, ..small };
        assert_eq!(sizes(&few).whole_time(&few, none, none), 12.5);
    }
}
