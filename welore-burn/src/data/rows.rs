use std::sync::{Mutex, PoisonError};

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha12Rng;

/// What training reads: rows of tokens, epoch after epoch. A row is a window of a text, or a prompt
/// with its response.
#[derive(Debug)]
pub struct TokenRows {
    tokens: Vec<u32>,
    spans: Vec<Span>,
    /// Seed, epoch and order of the last reading, because rows are asked for one after the other.
    order: Mutex<Option<(u64, usize, Vec<u32>)>>,
}

/// Where a row is among all tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub start: usize,
    pub len: usize,
    pub given: usize,
}

/// One row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenRow<'a> {
    /// Its tokens; at least 2.
    pub tokens: &'a [u32],
    /// The number of tokens at the start that are given; every later one is predicted. At least 1,
    /// and less than the number of tokens.
    pub given: usize,
}

impl TokenRow<'_> {
    /// Number of tokens that are predicted.
    pub fn predicted(&self) -> usize {
        self.tokens.len() - self.given
    }
}

impl TokenRows {
    /// Cuts a text into windows of `seq_len` tokens, in which every token but the first is
    /// predicted. The rest of the text becomes a shorter window, unless it is a single token.
    ///
    /// # Panics
    ///
    /// Panics if `seq_len` is below 2.
    pub fn windows(tokens: Vec<u32>, seq_len: usize) -> Self {
        assert!(seq_len >= 2, "seq_len must be at least 2");
        let spans = (0..tokens.len())
            .step_by(seq_len)
            .map(|start| Span { start, len: seq_len.min(tokens.len() - start), given: 1 })
            .filter(|span| span.len >= 2)
            .collect();
        Self { tokens, spans, order: Mutex::new(None) }
    }

    /// Rows of prompts with their responses; the tokens of a response are predicted. A row has at
    /// most `seq_len` tokens: a response that is too long loses its end, then a prompt that is too
    /// long its beginning.
    ///
    /// A pair with an empty prompt or an empty response makes no row.
    ///
    /// # Panics
    ///
    /// Panics if `seq_len` is below 2.
    pub fn responses(
        pairs: impl IntoIterator<Item = (Vec<u32>, Vec<u32>)>,
        seq_len: usize,
    ) -> Self {
        assert!(seq_len >= 2, "seq_len must be at least 2");
        let (mut tokens, mut spans) = (Vec::new(), Vec::new());
        for (prompt, mut response) in pairs {
            response.truncate(seq_len - 1);
            let given = prompt.len().min(seq_len - response.len());
            if given == 0 || response.is_empty() {
                continue;
            }
            spans.push(Span { start: tokens.len(), len: given + response.len(), given });
            tokens.extend_from_slice(&prompt[prompt.len() - given..]);
            tokens.append(&mut response);
        }
        Self { tokens, spans, order: Mutex::new(None) }
    }

    /// Rows read from a file; `None` if the spans do not fit the tokens.
    pub(crate) fn from_parts(tokens: Vec<u32>, spans: Vec<Span>) -> Option<Self> {
        let fits = |span: &Span| {
            let end = span.start.checked_add(span.len);
            (1..span.len).contains(&span.given) && end.is_some_and(|end| end <= tokens.len())
        };
        spans.iter().all(fits).then(|| Self { tokens, spans, order: Mutex::new(None) })
    }

    pub(crate) fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// All tokens, row after row.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// A digest of all rows: BLAKE3 of their positions and their tokens.
    pub fn digest(&self) -> String {
        let mut digest = blake3::Hasher::new();
        for span in &self.spans {
            for number in [span.start, span.len, span.given] {
                digest.update(&(number as u64).to_le_bytes());
            }
        }
        for token in &self.tokens {
            digest.update(&token.to_le_bytes());
        }
        digest.finalize().to_hex().to_string()
    }

    /// Row `number` of an endless reading, epoch after epoch: in the rows' own order without a
    /// seed, else in an order that depends on the seed and the epoch.
    ///
    /// # Panics
    ///
    /// Panics if there is no row.
    pub fn nth(&self, number: usize, seed: Option<u64>) -> TokenRow<'_> {
        let (epoch, place) = (number / self.len(), number % self.len());
        let row = match seed {
            None => place,
            Some(seed) => self.shuffled(seed, epoch, place),
        };
        let Span { start, len, given } = self.spans[row];
        TokenRow { tokens: &self.tokens[start..start + len], given }
    }

    /// The number of tokens in the rows before row `number` of that reading.
    ///
    /// # Panics
    ///
    /// Panics if there is no row.
    pub fn tokens_before(&self, number: usize, seed: Option<u64>) -> u64 {
        let (epochs, first) = (number / self.len(), number - number % self.len());
        let of_epoch: u64 = self.spans.iter().map(|span| span.len as u64).sum();
        let rest: u64 = (first..number).map(|n| self.nth(n, seed).tokens.len() as u64).sum();
        of_epoch.saturating_mul(epochs as u64).saturating_add(rest)
    }

    fn shuffled(&self, seed: u64, epoch: usize, place: usize) -> usize {
        // An order is replaced as a whole, so the one that a panic leaves behind is still good.
        let mut cached = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(&*cached, Some((s, e, _)) if (*s, *e) == (seed, epoch)) {
            let mut order: Vec<u32> = (0..self.len() as u32).collect();
            // Epochs of one seed and seeds of one epoch must not share orders.
            let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(epoch as u64);
            // A fixed algorithm, because a run that another version resumes must read the same
            // rows.
            order.shuffle(&mut ChaCha12Rng::seed_from_u64(mixed));
            *cached = Some((seed, epoch, order));
        }
        let (_, _, order) = cached.as_ref().expect("just set");
        order[place] as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> TokenRows {
        TokenRows::windows((0..103).collect(), 10)
    }

    fn epoch(rows: &TokenRows, epoch: usize, seed: Option<u64>) -> Vec<u32> {
        let first = epoch * rows.len();
        (first..first + rows.len()).flat_map(|n| rows.nth(n, seed).tokens.to_vec()).collect()
    }

    #[test]
    fn without_a_seed_the_text_is_read_in_order_again_and_again() {
        let text: Vec<u32> = (0..103).collect();
        assert_eq!(epoch(&rows(), 0, None), text);
        assert_eq!(epoch(&rows(), 3, None), text);
    }

    #[test]
    fn every_epoch_has_every_block_once_in_an_order_of_its_own() {
        let rows = rows();
        let mut first = epoch(&rows, 0, Some(1));
        assert_ne!(first, epoch(&rows, 1, Some(1)));
        assert_ne!(first, epoch(&rows, 0, Some(2)));
        assert_eq!(first, epoch(&rows, 0, Some(1)), "orders depend on nothing else");
        first.sort();
        assert_eq!(first, (0..103).collect::<Vec<u32>>(), "no token is left out");
    }

    #[test]
    fn orders_are_the_same_in_every_version() {
        let order = |epoch: usize, seed| {
            let rows = rows();
            let first = epoch * rows.len();
            let row = |n| rows.nth(n, Some(seed)).tokens[0] / 10;
            (first..first + rows.len()).map(row).collect::<Vec<u32>>()
        };
        assert_eq!(order(0, 0), [1, 0, 7, 3, 6, 4, 10, 9, 8, 2, 5]);
        assert_eq!(order(0, 1), [9, 1, 0, 6, 5, 8, 10, 3, 2, 7, 4]);
        assert_eq!(order(1, 1), [7, 8, 10, 4, 1, 6, 3, 2, 9, 0, 5]);
        assert_eq!(order(2, 7), [0, 2, 4, 8, 10, 7, 5, 1, 6, 9, 3]);
    }

    #[test]
    fn tokens_are_counted_over_epochs_and_within_one() {
        // The last of the 11 rows is shorter, and its position differs between epochs.
        for seed in [None, Some(1)] {
            let read = |n| (0..n).map(|n| rows().nth(n, seed).tokens.len() as u64).sum::<u64>();
            for number in [0, 1, 10, 11, 12, 40] {
                assert_eq!(rows().tokens_before(number, seed), read(number));
            }
        }
    }

    #[test]
    fn a_rest_of_one_token_predicts_nothing() {
        assert_eq!(TokenRows::windows((0..21).collect(), 10).len(), 2);
        assert_eq!(TokenRows::windows((0..22).collect(), 10).len(), 3);
        assert!(TokenRows::windows(vec![1], 10).is_empty());
    }

    #[test]
    fn long_prompts_lose_their_beginning_and_long_responses_their_end() {
        let pair = |prompt: std::ops::Range<u32>, response: std::ops::Range<u32>| {
            (prompt.collect::<Vec<_>>(), response.collect::<Vec<_>>())
        };
        let pairs = [pair(0..3, 10..12), pair(0..9, 20..22), pair(0..2, 30..50), pair(0..0, 1..5)];
        let rows = TokenRows::responses(pairs, 6);
        let row = |n| (rows.nth(n, None).tokens.to_vec(), rows.nth(n, None).given);
        assert_eq!(row(0), (vec![0, 1, 2, 10, 11], 3));
        assert_eq!(row(1), (vec![5, 6, 7, 8, 20, 21], 4));
        assert_eq!(row(2), (vec![1, 30, 31, 32, 33, 34], 1));
        assert_eq!(rows.len(), 3, "nothing to predict without a prompt");
    }

    #[test]
    fn spans_that_do_not_fit_are_refused() {
        let span = |start, len, given| vec![Span { start, len, given }];
        let fits = |spans| TokenRows::from_parts(vec![0; 10], spans).is_some();
        assert!(fits(span(4, 6, 5)));
        assert!(!fits(span(4, 7, 1)));
        assert!(!fits(span(0, 4, 4)));
        assert!(!fits(span(0, 4, 0)));
        assert!(!fits(span(usize::MAX, 4, 1)));
    }
}
