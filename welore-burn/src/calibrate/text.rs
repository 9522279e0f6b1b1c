use serde::{Deserialize, Serialize};

use super::own_text::OwnText;

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
    sampled: Option<SampledText>,
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
        self.with_part(Part { name: name.into(), tokens, sampled: None })
    }

    /// Adds a text that the model wrote; see [`own_text`](super::own_text).
    pub fn with_own(self, text: &OwnText) -> Self {
        let (name, tokens) = (OWN.into(), text.samples.concat());
        self.with_part(Part { name, tokens, sampled: Some(text.sampled) })
    }

    fn with_part(mut self, part: Part) -> Self {
        self.parts.push(part);
        self
    }

    /// The tokens of each text.
    pub fn texts(&self) -> impl Iterator<Item = &[u32]> {
        self.parts.iter().map(|part| part.tokens.as_slice())
    }

    /// How many windows of `seq_len` tokens each text gives, `most` of them together.
    fn shares(&self, seq_len: usize, most: Option<usize>) -> Vec<usize> {
        let full: Vec<usize> = self.texts().map(|tokens| tokens.len() / seq_len).collect();
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
            let taking = self.texts().zip(&shares).filter(move |(_, share)| turn < **share);
            taking.map(move |(tokens, _)| tokens[turn * seq_len..][..seq_len].to_vec())
        };
        (0..turns).flat_map(of_turn).collect()
    }

    /// What a calibration on these texts says about them, for windows of `seq_len` tokens, `most` of
    /// them.
    ///
    /// # Panics
    ///
    /// Panics if `seq_len` is 0.
    pub fn records(&self, seq_len: usize, most: Option<usize>) -> Vec<TextRecord> {
        let record = |(part, windows): (&Part, usize)| {
            let mut digest = blake3::Hasher::new();
            for token in &part.tokens[..windows * seq_len] {
                digest.update(&token.to_le_bytes());
            }
            let digest = digest.finalize().to_hex().to_string();
            TextRecord { name: part.name.clone(), windows, digest, sampled: part.sampled }
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
}
