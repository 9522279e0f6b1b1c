use serde::{Deserialize, Serialize};

use super::own_text::OwnText;
use crate::model::{Bos, TextWindows};

/// The name of a text that the model wrote itself.
const OWN: &str = "self";

/// What a model is calibrated on: one text, or several, from which windows are taken in turn.
///
/// The texts give the same number of windows, unless one is too short; the others then make up for
/// it. So the windows with gradients, which are the first ones, are also shared evenly.
#[derive(Debug, Clone, Default)]
pub struct CalibrationText {
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
struct Part {
    name: String,
    tokens: Vec<u32>,
    bos: Option<Bos>,
    sampled: Option<SampledText>,
}

impl Part {
    fn windows(&self, seq_len: usize) -> TextWindows<'_> {
        TextWindows::new(&self.tokens, self.bos, seq_len)
    }
}

/// What a calibration says about a text that it was measured on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextRecord {
    /// Its name: that of a file, or `self`. Empty if it has none.
    pub name: String,
    /// Number of windows that were taken from it.
    pub windows: usize,
    /// BLAKE3 of the tokens of these windows, 4 bytes each, little-endian, in hex.
    pub digest: String,
    /// What begins with the token that begins texts, if anything does; not in files of earlier
    /// versions, which had texts alone, and not of what the model wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bos: Option<Bos>,
    /// How the model wrote it, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampled: Option<SampledText>,
}

/// How a model wrote a text; see [`OwnTextOptions`](super::OwnTextOptions).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampledText {
    /// Number of samples.
    pub samples: usize,
    /// Tokens in a sample.
    pub length: usize,
    /// What logits were divided by.
    pub temperature: f64,
    /// The seed of the random numbers.
    pub seed: u64,
    /// The token that every sample starts from.
    pub start: u32,
}

impl From<Vec<u32>> for CalibrationText {
    /// A text without a name.
    fn from(tokens: Vec<u32>) -> Self {
        Self::default().with("", tokens)
    }
}

impl CalibrationText {
    /// Adds a text.
    pub fn with(self, name: impl Into<String>, tokens: Vec<u32>) -> Self {
        self.with_begun(name, tokens, None)
    }

    /// Adds a text of which windows begin with the token that begins texts.
    pub fn with_begun(self, name: impl Into<String>, tokens: Vec<u32>, bos: Option<Bos>) -> Self {
        self.with_part(Part { name: name.into(), tokens, bos, sampled: None })
    }

    /// Adds a text that the model wrote; see [`own_text`](super::own_text).
    pub fn with_own(self, text: &OwnText) -> Self {
        let (name, tokens) = (OWN.into(), text.samples.concat());
        self.with_part(Part { name, tokens, bos: None, sampled: Some(text.sampled) })
    }

    fn with_part(mut self, part: Part) -> Self {
        self.parts.push(part);
        self
    }

    /// The tokens of each text, without what is put before them.
    pub fn texts(&self) -> impl Iterator<Item = &[u32]> {
        self.parts.iter().map(|part| part.tokens.as_slice())
    }

    /// The number of tokens of the shortest text that fills no window of `seq_len` tokens, if there is
    /// one; 0 if there is no text.
    pub(super) fn too_short(&self, seq_len: usize) -> Option<usize> {
        let fills_none = |part: &&Part| part.windows(seq_len).count() == 0;
        let shortest = self.parts.iter().filter(fills_none).map(|part| part.tokens.len()).min();
        shortest.or(self.parts.is_empty().then_some(0))
    }

    /// The largest number of a token.
    pub(super) fn largest(&self) -> Option<u32> {
        let put = self.parts.iter().filter_map(|part| part.bos).map(Bos::token);
        self.texts().flatten().copied().chain(put).max()
    }

    /// How many windows of `seq_len` tokens each text gives, `most` of them together.
    fn shares(&self, seq_len: usize, most: Option<usize>) -> Vec<usize> {
        let full = self.parts.iter().map(|part| part.windows(seq_len).count());
        let full: Vec<usize> = full.collect();
        share_windows(&full, most.unwrap_or(usize::MAX))
    }

    /// Number of windows of `seq_len` tokens, `most` of them.
    pub(super) fn count(&self, seq_len: usize, most: Option<usize>) -> usize {
        self.shares(seq_len, most).iter().sum()
    }

    /// Windows of `seq_len` tokens, `most` of them, in the order in which they are measured.
    pub(super) fn windows(&self, seq_len: usize, most: Option<usize>) -> Vec<Vec<u32>> {
        let shares = self.shares(seq_len, most);
        let turns = shares.iter().copied().max().unwrap_or(0);
        let of_turn = |turn: usize| {
            let taking = self.parts.iter().zip(&shares).filter(move |(_, share)| turn < **share);
            taking.map(move |(part, _)| part.windows(seq_len).get(turn).tokens)
        };
        (0..turns).flat_map(of_turn).collect()
    }

    /// What a calibration on these texts says about them, for windows of `seq_len` tokens, `most` of
    /// them.
    ///
    /// # Panics
    ///
    /// Panics if `seq_len` is below 2.
    pub fn records(&self, seq_len: usize, most: Option<usize>) -> Vec<TextRecord> {
        let record = |(part, windows): (&Part, usize)| {
            let mut digest = blake3::Hasher::new();
            let cut = part.windows(seq_len);
            for token in (0..windows).flat_map(|index| cut.get(index).tokens) {
                digest.update(&token.to_le_bytes());
            }
            let digest = digest.finalize().to_hex().to_string();
            let (name, bos, sampled) = (part.name.clone(), part.bos, part.sampled);
            TextRecord { name, windows, digest, bos, sampled }
        };
        self.parts.iter().zip(self.shares(seq_len, most)).map(record).collect()
    }
}

/// How many windows each of several texts gives if `most` are wanted of all together: the same
/// number, or all that it has, which `available` states. What cannot be shared evenly is from the
/// first texts.
pub fn share_windows(available: &[usize], most: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..available.len()).collect();
    order.sort_by_key(|text| available[*text]);
    let (mut shares, mut left) = (vec![0; available.len()], most);
    // The shortest first: what one lacks is shared by the others.
    for (place, text) in order.iter().copied().enumerate() {
        let sharing = available.len() - place;
        if available[text] > left / sharing {
            let mut longer = order[place..].to_vec();
            longer.sort();
            for (turn, text) in longer.into_iter().enumerate() {
                shares[text] = left / sharing + usize::from(turn < left % sharing);
            }
            return shares;
        }
        shares[text] = available[text];
        left -= shares[text];
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_share_windows_evenly_and_make_up_for_short_ones() {
        let cases: [(&[usize], usize, &[usize]); 10] = [
            (&[100, 100], 64, &[32, 32]),
            (&[100, 90], 7, &[4, 3]),
            (&[4, 90], 7, &[4, 3]),
            (&[100, 5], 64, &[59, 5]),
            (&[5, 100], 64, &[5, 59]),
            (&[5, 100, 6], 30, &[5, 19, 6]),
            (&[usize::MAX, 3], 10, &[7, 3]),
            (&[3, 4], usize::MAX, &[3, 4]),
            (&[9], 4, &[4]),
            (&[], 4, &[]),
        ];
        for (available, most, shares) in cases {
            assert_eq!(share_windows(available, most), shares, "{available:?} {most}");
        }
    }

    #[test]
    fn windows_are_taken_in_turn_and_records_are_of_what_was_taken() {
        let text = CalibrationText::default().with("a", (0..11).collect());
        let text = text.with("b", (100..105).collect());
        let windows = text.windows(2, Some(5));
        assert_eq!(windows, [[0, 1], [100, 101], [2, 3], [102, 103], [4, 5]]);
        assert_eq!(text.count(2, Some(5)), 5);
        let records = text.records(2, Some(5));
        assert_eq!(records.iter().map(|record| record.windows).collect::<Vec<_>>(), [3, 2]);
        // Only the windows count, and all of them.
        let same = CalibrationText::default().with("c", (100..104).collect()).records(2, None);
        assert_eq!(same[0].digest, records[1].digest);
        assert_ne!(same[0].digest, records[0].digest);
    }

    #[test]
    fn windows_of_a_text_can_begin_with_a_token_which_its_record_states() {
        let begun = |bos| CalibrationText::default().with_begun("a", (10..15).collect(), bos);
        let each = begun(Some(Bos::Each(1)));
        assert_eq!(each.windows(3, None), [[1, 10, 11], [1, 12, 13]]);
        let record = each.records(3, None).remove(0);
        assert_eq!((record.windows, record.bos), (2, Some(Bos::Each(1))));
        assert_ne!(record.digest, begun(None).records(3, None)[0].digest);
        assert_eq!(begun(Some(Bos::Once(1))).windows(3, None), [[1, 10, 11], [12, 13, 14]]);
        assert_eq!(begun(Some(Bos::Each(99))).largest(), Some(99));
        // The token counts, so a text of one token less fills a window.
        assert_eq!([each.too_short(6), each.too_short(7)], [None, Some(5)]);
        assert_eq!(CalibrationText::default().too_short(6), Some(0));
    }
}
