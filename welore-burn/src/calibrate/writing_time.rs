use std::time::{Duration, Instant};

use rand_chacha::ChaCha12Rng;

use super::draw::stream;
use super::own_text::{OwnTextError, OwnTextOptions, Writer, samples};
use crate::model::{LanguageModel, as_tensor, device_of};
use crate::progress::Progress;

/// Tokens of each sample that [`own_text_time`] measures at a time.
const TRIED: usize = 4;

/// The fewest samples that it writes behind a long text, unless there are fewer.
const FEW: usize = 4;

/// The most tokens of that text.
const LONGEST: usize = 256;

/// Seconds that reading that text may take, for all samples but the fewest.
const READING: f64 = 2.0;

/// How long [`own_text`](fn@super::own_text) is expected to take on this machine, from a few tokens
/// that are written and thrown away.
///
/// A token takes longer the more tokens come before it, in proportion. So the time is measured at
/// the beginning, with as many samples together as later, and also behind a longer text, for as many
/// of the samples as can read one in a few seconds; what that adds is taken for the middle of a
/// sample. What happens only once, such as starting threads, is counted once.
///
/// # Errors
///
/// [`OwnTextError`].
pub fn own_text_time<M: LanguageModel>(
    model: &M,
    options: &OwnTextOptions,
    progress: &mut dyn Progress,
) -> Result<Duration, OwnTextError> {
    let start = options.check_for(model)?;
    let plain = model.valid();
    let writer = Writer { model: &plain, device: device_of(&plain), start, options };
    let (batches, size) = options.batches();
    let length = options.length;
    let short = length < 4 * TRIED;
    let what = format!("trying to write {} at a time", samples(size));
    progress.begin(&what, if short { length - 1 } else { 3 * (TRIED + 1) });
    progress.count_in("tokens");
    if short {
        let began = Instant::now();
        writer.batch(0..size, progress)?;
        return Ok(began.elapsed().mul_f64(batches as f64));
    }
    let middle = length / 2;
    let before = middle.min(LONGEST);
    let first = writer.try_out(size, 0, progress)?;
    // Reading a token takes no longer than writing it.
    let readers = READING * size as f64 / (first.mean() * before as f64);
    let readers = (readers as usize).clamp(FEW.min(size), size);
    let behind = writer.try_out(readers, before, progress)?;
    let growth = behind.median() - writer.try_out(readers, 0, progress)?.median();
    // Per sample and token before.
    let growth = growth.max(0.0) / (readers * before) as f64;
    let token = first.mean() + growth * (size * middle) as f64;
    let once = (first.opening - first.mean()).max(0.0);
    Ok(Duration::from_secs_f64(once + token * (batches * (length - 1)) as f64))
}

/// The seconds of a few tokens.
struct Tried {
    /// Of the first one, with what comes before it and whatever happens only once.
    opening: f64,
    /// Of each of the others; at least one.
    tokens: Vec<f64>,
}

impl Tried {
    fn mean(&self) -> f64 {
        self.tokens.iter().sum::<f64>() / self.tokens.len() as f64
    }

    /// Unlike the mean it does not move if one token was interrupted, so that medians can be
    /// subtracted.
    fn median(&self) -> f64 {
        let mut tokens = self.tokens.clone();
        tokens.sort_by(f64::total_cmp);
        let middle = tokens.len() / 2;
        (tokens[middle] + tokens[(tokens.len() - 1) / 2]) / 2.0
    }
}

impl<M: LanguageModel> Writer<'_, M> {
    /// Writes a few tokens of `count` samples, all of them together, after `before` tokens.
    fn try_out(
        &self,
        count: usize,
        before: usize,
        progress: &mut dyn Progress,
    ) -> Result<Tried, OwnTextError> {
        let mut random: Vec<ChaCha12Rng> =
            (0..count).map(|number| stream(self.options.seed, number as u64)).collect();
        let mut cache = self.model.cache();
        let mut last = vec![self.start; count];
        let mut began = Instant::now();
        let mut seconds = Vec::with_capacity(TRIED + 1);
        for token in 0..=TRIED {
            progress.step(&format!("token {} of {}", before + token + 1, samples(count)))?;
            if token == 0 && before > 0 {
                let read = as_tensor(&vec![self.start; count * before], &self.device);
                drop(self.model.extend(read.reshape([count, before]), &mut cache));
            }
            let tokens = before + token + 1;
            let next = self.next(&last, &mut random, &mut cache);
            last = next.ok_or(OwnTextError::NotFinite { tokens })?;
            seconds.push(began.elapsed().as_secs_f64());
            began = Instant::now();
        }
        Ok(Tried { opening: seconds.remove(0), tokens: seconds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_token_that_was_interrupted_does_not_move_the_median() {
        let of = |tokens: &[f64]| Tried { opening: 9.0, tokens: tokens.to_vec() }.median();
        assert_eq!(of(&[1.0, 2.0, 50.0, 2.0]), 2.0);
        assert_eq!([of(&[3.0]), of(&[4.0, 2.0])], [3.0, 3.0]);
    }
}
