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

/// Whole windows are tried if they are expected to take no longer than this many seconds, else parts
/// of windows.
const ENOUGH: f64 = 10.0;

/// The fewest tokens of a part of a window.
const FEWEST: usize = 16;

impl CalibrationWork<'_> {
    /// What all of the work is expected to take. Tries parts of it, with files only in a directory
    /// of its own: tokens of the text that the model writes, and twice some windows, from which the
    /// cost of a window follows, and that of everything else. Of a large model it tries parts of
    /// windows, some of them longer, from which the cost of a token follows.
    pub fn forecast(self, compute: &Compute) -> Result<Forecast> {
        let began = Instant::now();
        let all = self.preview()?;
        let scratch = Scratch::new(true)?;
        // What the trials write at a time is about as large, or larger.
        scratch.check_room(self.opened.checkpoint.bytes())?;
        let Self { opened, texts, own, options, talks: _ } = self;
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
        let found = trial.windows(&all)?;
        seconds += found.whole_time(&all);
        peaks.push(peak_of(compute, found.growth(&all, config, size_of(compute.dtype))));
        tried.push(found.words());
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
    /// Tokens in a window.
    seq_len: usize,
}

impl Size {
    /// So many windows of this length, but no more than there are.
    fn of(all: &CalibrationSummary, windows: usize, seq_len: usize) -> Self {
        Self {
            windows: windows.min(all.windows),
            gradients: windows.min(all.gradient_windows),
            seq_len,
        }
    }
}

/// The seconds of a trial.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Seconds {
    /// Before anything is measured.
    before: f64,
    inputs: f64,
    gradients: f64,
}

/// What was tried, and what it took: some windows, more of the same length, and, if they are not
/// whole, as many as the first ones that are longer.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Found {
    few: (Size, Seconds),
    more: (Size, Seconds),
    longer: Option<(Size, Seconds)>,
}

impl Found {
    /// The time of all windows.
    fn whole_time(&self, all: &CalibrationSummary) -> f64 {
        let inputs = self.time_of(all, |size| size.windows, |took| took.inputs, all.windows);
        let gradients =
            self.time_of(all, |size| size.gradients, |took| took.gradients, all.gradient_windows);
        let last = self.longer.unwrap_or(self.more);
        last.1.before + inputs + gradients
    }

    /// The time of one of the two measurements on all of its `windows`.
    fn time_of(
        &self,
        all: &CalibrationSummary,
        count: impl Fn(&Size) -> usize,
        seconds: impl Fn(&Seconds) -> f64,
        windows: usize,
    ) -> f64 {
        let at = |(size, took): &(Size, Seconds)| (count(size), seconds(took));
        let (few, more) = (at(&self.few), at(&self.more));
        let of_parts = on_line(few, more, windows);
        let Some(longer) = &self.longer else { return of_parts };
        let tokens = count(&longer.0) * (longer.0.seq_len - self.few.0.seq_len);
        let a_token = (seconds(&longer.1) - few.1).max(0.0) / tokens.max(1) as f64;
        of_parts + a_token * (windows * (all.seq_len - self.few.0.seq_len)) as f64
    }

    /// The bytes of hidden states that all windows need beyond those that were tried: one before
    /// and one after a block for each window, and one for each block and each window with gradients.
    fn growth(&self, all: &CalibrationSummary, config: &DecoderConfig, bytes: u128) -> u128 {
        let Size { windows, gradients, seq_len } = self.more.0;
        let state = config.hidden_size as u128 * bytes;
        let blocks = config.num_hidden_layers as u128;
        let [windows, gradients] = [(all.windows, windows), (all.gradient_windows, gradients)]
            .map(|(all_of, tried)| (all_of * all.seq_len - tried * seq_len) as u128);
        (2 * windows + blocks * gradients) * state
    }

    /// What was tried, in words.
    fn words(&self) -> String {
        let windows = format::number_of(self.more.0.windows, "window");
        match self.longer {
            Some((size, _)) => format!("{windows} of up to {} tokens", size.seq_len),
            None => windows,
        }
    }
}

/// The lengths of parts of a window: short ones, and longer ones. A window may be too short for
/// parts.
fn parts_of(seq_len: usize) -> Option<(usize, usize)> {
    let (short, longer) = (seq_len / 8, seq_len / 2);
    (short >= FEWEST).then_some((short, longer))
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
    /// Calibrates on some windows, and on more.
    fn windows(&mut self, all: &CalibrationSummary) -> Result<Found> {
        let (at_once, whole) = (self.options.at_once.get(), all.seq_len);
        if let Some((short, longer)) = parts_of(whole) {
            let few = self.timed(Size::of(all, at_once, short))?;
            let Seconds { inputs, gradients, .. } = few.1;
            // As many whole windows, and three times as many.
            if 4.0 * (inputs + gradients) * whole as f64 / short as f64 > ENOUGH {
                let more = self.timed(Size::of(all, 2 * at_once, short))?;
                let longer = Some(self.timed(Size::of(all, at_once, longer))?);
                return Ok(Found { few, more, longer });
            }
        }
        let few = self.timed(Size::of(all, at_once, whole))?;
        let larger = Size::of(all, 3 * at_once, whole);
        let more = if larger == few.0 { few } else { self.timed(larger)? };
        Ok(Found { few, more, longer: None })
    }

    fn timed(&mut self, size: Size) -> Result<(Size, Seconds)> {
        Ok((size, self.measure(size)?))
    }

    /// Calibrates on some windows.
    fn measure(&mut self, size: Size) -> Result<Seconds> {
        let began = Instant::now();
        let Self { model, checkpoint, text, scratch, bar, .. } = self;
        let options = options_of(&self.options, size, 0);
        let output = scratch.path().join("calibration");
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
        let size = Size { windows, gradients: 1, seq_len: self.options.seq_len };
        let options = options_of(&self.options, size, windows);
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
        seq_len: size.seq_len,
        windows: Some(size.windows),
        gradient_windows: size.gradients,
        probe_windows,
        allow_deficient: true,
        resumable: false,
        ..*all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: CalibrationSummary = CalibrationSummary {
        matrices: 210,
        windows: 64,
        gradient_windows: 16,
        seq_len: 512,
        mixed_experts: 0,
        most_outputs: 1536,
        uneven: 0,
    };

    fn took(inputs: f64, gradients: f64) -> Seconds {
        Seconds { before: 4.0, inputs, gradients }
    }

    #[test]
    fn no_more_is_tried_than_there_is() {
        let size = Size::of(&ALL, 6, 512);
        assert_eq!((size.windows, size.gradients), (6, 6));
        let few = CalibrationSummary { windows: 3, gradient_windows: 0, ..ALL };
        let size = Size::of(&few, 6, 512);
        assert_eq!((size.windows, size.gradients), (3, 0));
        assert_eq!([parts_of(512), parts_of(64)], [Some((64, 256)), None]);
    }

    #[test]
    fn only_what_grows_with_windows_is_extrapolated() {
        let few = (Size::of(&ALL, 2, 512), took(3.0, 5.0));
        let more = (Size::of(&ALL, 6, 512), took(5.0, 13.0));
        // 58 more windows of half a second, and 10 more with gradients of two seconds.
        let found = Found { few, more, longer: None };
        assert_eq!(found.whole_time(&ALL), 4.0 + 5.0 + 29.0 + 13.0 + 20.0);
        assert_eq!(found.words(), "6 windows");
        let all = CalibrationSummary { windows: 2, gradient_windows: 0, ..ALL };
        let few = (Size::of(&all, 2, 512), took(3.0, 0.5));
        assert_eq!(Found { few, more: few, longer: None }.whole_time(&all), 7.5);
    }

    #[test]
    fn parts_of_windows_tell_what_whole_ones_take() {
        // A second before all, a quarter for each window, and an eighth for each 64 tokens; gradients
        // take twice as long.
        let cost = |windows: usize, seq_len: usize| {
            let one = 0.25 + 0.125 * (seq_len as f64 / 64.0);
            1.0 + windows as f64 * one
        };
        let tried = |windows, seq_len| {
            let size = Size::of(&ALL, windows, seq_len);
            (size, took(cost(windows, seq_len), 2.0 * cost(windows, seq_len)))
        };
        let longer = Some(tried(2, 256));
        let found = Found { few: tried(2, 64), more: tried(4, 64), longer };
        assert_eq!(found.whole_time(&ALL), 4.0 + cost(64, 512) + 2.0 * cost(16, 512));
        assert_eq!(found.words(), "4 windows of up to 256 tokens");
    }
}
