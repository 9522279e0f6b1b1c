use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha12Rng;

/// What training reads: rows of tokens, epoch after epoch. A row is a window of a text, a prompt
/// with its response, or a conversation.
#[derive(Debug)]
pub struct TokenRows {
    tokens: Vec<u32>,
    spans: Vec<Span>,
    /// The tokens after the given ones that are not predicted either, counted within their row; those of one row
    /// after the other.
    skipped: Vec<Range<usize>>,
    /// Where those of each row end; empty if no row has any.
    skipped_ends: Vec<usize>,
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
    /// The number of tokens at the start that are given; later ones are predicted. At least 1,
    /// and less than the number of tokens.
    pub given: usize,
    /// Later tokens that are not predicted either, such as what the user says in a conversation: in order, after
    /// the first token to predict.
    pub skipped: &'a [Range<usize>],
}

/// What became of texts that are too long for a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LessonsCut {
    /// Those that lost their end, and with it something to predict.
    pub shortened: usize,
    /// Those that have nothing to predict, perhaps because they lost it.
    pub dropped: usize,
    /// The tokens of the shortest one that lost all that there was to predict, to the last of these.
    pub shortest_dropped: Option<usize>,
}

impl TokenRow<'_> {
    /// Number of tokens that are predicted.
    pub fn predicted(&self) -> usize {
        let skipped: usize = self.skipped.iter().map(Range::len).sum();
        self.tokens.len() - self.given - skipped
    }

    /// The places of the tokens that are predicted, in order.
    pub fn places(&self) -> impl Iterator<Item = usize> + '_ {
        let skipped = self.skipped;
        let is_skipped = move |place: &usize| skipped.iter().any(|span| span.contains(place));
        (self.given..self.tokens.len()).filter(move |place| !is_skipped(place))
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
        Self::of(tokens, spans)
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
        Self::of(tokens, spans)
    }

    /// Rows of texts of which only parts are predicted: the tokens of each, and spans of them, in order. A row has at
    /// most `seq_len` tokens; a longer text loses its end. What follows the last token to predict is left out,
    /// and a text without any makes no row.
    ///
    /// # Panics
    ///
    /// Panics if `seq_len` is below 2.
    pub fn lessons(
        texts: impl IntoIterator<Item = (Vec<u32>, Vec<Range<usize>>)>,
        seq_len: usize,
    ) -> (Self, LessonsCut) {
        assert!(seq_len >= 2, "seq_len must be at least 2");
        let (mut rows, mut cut) = (Self::of(Vec::new(), Vec::new()), LessonsCut::default());
        for (tokens, learnt) in texts {
            let last = learnt.last().map_or(0, |span| span.end.min(tokens.len()));
            // Nothing predicts the first token.
            let within = |span: &Range<usize>| span.start.max(1)..span.end.min(last).min(seq_len);
            let learnt: Vec<Range<usize>> =
                learnt.iter().map(within).filter(|span| !span.is_empty()).collect();
            let (Some(first), Some(end)) = (learnt.first(), learnt.last()) else {
                cut.dropped += 1;
                // Within a row, the first one to predict would be there.
                let lost = Some(last).filter(|last| *last > seq_len);
                cut.shortest_dropped = cut.shortest_dropped.into_iter().chain(lost).min();
                continue;
            };
            cut.shortened += usize::from(last > seq_len);
            let span = Span { start: rows.tokens.len(), len: end.end, given: first.start };
            rows.tokens.extend_from_slice(&tokens[..span.len]);
            rows.spans.push(span);
            let between = learnt.windows(2).map(|pair| pair[0].end..pair[1].start);
            rows.skipped.extend(between.filter(|span| !span.is_empty()));
            rows.skipped_ends.push(rows.skipped.len());
        }
        if rows.skipped.is_empty() {
            rows.skipped_ends.clear();
        }
        (rows, cut)
    }

    fn of(tokens: Vec<u32>, spans: Vec<Span>) -> Self {
        let (skipped, skipped_ends) = (Vec::new(), Vec::new());
        Self { tokens, spans, skipped, skipped_ends, order: Mutex::new(None) }
    }

    /// Rows read from a file, with the number of its row before each span that is skipped; `None` if the spans do
    /// not fit the tokens.
    pub(crate) fn from_parts(
        tokens: Vec<u32>,
        spans: Vec<Span>,
        skipped: &[(usize, Range<usize>)],
    ) -> Option<Self> {
        let fits = |span: &Span| {
            let end = span.start.checked_add(span.len);
            (1..span.len).contains(&span.given) && end.is_some_and(|end| end <= tokens.len())
        };
        if !spans.iter().all(fits) {
            return None;
        }
        let mut rows = Self::of(tokens, spans);
        if skipped.is_empty() {
            return Some(rows);
        }
        let mut rest = skipped.iter().peekable();
        for (number, row) in rows.spans.iter().enumerate() {
            let mut seen = row.given;
            while let Some((_, span)) = rest.next_if(|(row, _)| *row == number) {
                if span.start <= seen || span.end <= span.start || span.end >= row.len {
                    return None;
                }
                seen = span.end;
                rows.skipped.push(span.clone());
            }
            rows.skipped_ends.push(rows.skipped.len());
        }
        rest.next().is_none().then_some(rows)
    }

    /// The tokens of a row that are skipped.
    fn skipped_of(&self, row: usize) -> &[Range<usize>] {
        match self.skipped_ends.get(row) {
            Some(end) => {
                let start = if row == 0 { 0 } else { self.skipped_ends[row - 1] };
                &self.skipped[start..*end]
            }
            None => &[],
        }
    }

    /// All spans that are skipped, each with the number of its row.
    pub(crate) fn skipped(&self) -> impl Iterator<Item = (usize, &Range<usize>)> {
        (0..self.len())
            .flat_map(move |row| self.skipped_of(row).iter().map(move |span| (row, span)))
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
        for (row, span) in self.skipped() {
            for number in [row, span.start, span.end] {
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
        TokenRow { tokens: &self.tokens[start..start + len], given, skipped: self.skipped_of(row) }
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
// Rows often have a single span.
#[allow(clippy::single_range_in_vec_init)]
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
        let fits = |spans| TokenRows::from_parts(vec![0; 10], spans, &[]).is_some();
        assert!(fits(span(4, 6, 5)));
        assert!(!fits(span(4, 7, 1)));
        assert!(!fits(span(0, 4, 4)));
        assert!(!fits(span(0, 4, 0)));
        assert!(!fits(span(usize::MAX, 4, 1)));
    }

    #[test]
    fn only_what_is_learnt_of_a_text_is_predicted() {
        let texts: [(Vec<u32>, Vec<Range<usize>>); 6] = [
            // The user's words are between those of the assistant, and after them.
            ((0..9).collect(), vec![2..4, 6..8]),
            // The first token is predicted by nothing.
            ((10..14).collect(), vec![0..2]),
            // Nothing to learn.
            ((20..30).collect(), vec![]),
            // Too long: the second answer begins at the end.
            ((30..60).collect(), vec![1..3, 7..20]),
            // All of it is too late.
            ((60..80).collect(), vec![10..12]),
            ((80..99).collect(), vec![9..10, 11..40]),
        ];
        let (rows, cut) = TokenRows::lessons(texts, 8);
        let row = |n| {
            let row = rows.nth(n, None);
            (row.tokens.to_vec(), row.places().collect::<Vec<_>>(), row.predicted())
        };
        assert_eq!(row(0), ((0..8).collect(), vec![2, 3, 6, 7], 4));
        assert_eq!(row(1), (vec![10, 11], vec![1], 1));
        assert_eq!(row(2), ((30..38).collect(), vec![1, 2, 7], 3));
        let expected = LessonsCut { shortened: 1, dropped: 3, shortest_dropped: Some(12) };
        assert_eq!((rows.len(), cut), (3, expected));
        let (others, _) = TokenRows::lessons([((0..9).collect(), vec![2..3, 6..8])], 8);
        let (same, _) = TokenRows::lessons([((0..9).collect(), vec![2..4, 6..8])], 8);
        assert_ne!(others.digest(), same.digest(), "the same tokens, others to predict");
    }

    #[test]
    fn skipped_spans_that_do_not_fit_are_refused() {
        let fits = |skipped: &[(usize, Range<usize>)]| {
            let spans =
                vec![Span { start: 0, len: 8, given: 2 }, Span { start: 8, len: 2, given: 1 }];
            TokenRows::from_parts(vec![0; 10], spans, skipped).is_some()
        };
        assert!(fits(&[(0, 3..4), (0, 5..7)]));
        for wrong in [(0, 2..4), (0, 4..4), (0, 5..8), (1, 1..2), (2, 3..4), (0, 3..usize::MAX)] {
            assert!(!fits(std::slice::from_ref(&wrong)), "{wrong:?}");
        }
        assert!(!fits(&[(0, 5..7), (0, 3..4)]), "out of order");
        assert!(!fits(&[(0, 3..5), (0, 5..7)]), "two that are one");
    }
}
