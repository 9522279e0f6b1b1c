//! How a text is cut into windows, and which of them begin with the token that begins texts.

use serde::{Deserialize, Serialize};

/// What begins with the token that begins texts (BOS).
///
/// A model that was trained with it predicts badly without it, and a window is a text of its own to
/// the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bos {
    /// Every window, which has one token less of the text. Every token of the text is predicted, the
    /// first one of a window after this token alone.
    Each(u32),
    /// The text, and so its first window only: what transformers gives for a whole text, and scripts
    /// of papers read.
    Once(u32),
}

impl Bos {
    /// Number of the token.
    pub fn token(self) -> u32 {
        match self {
            Self::Each(token) | Self::Once(token) => token,
        }
    }
}

/// A text cut into windows of the same length, one after the other or, with a stride, overlapping.
///
/// A text that begins with the token itself does not get it a second time.
#[derive(Debug, Clone, Copy)]
pub struct TextWindows<'a> {
    text: &'a [u32],
    /// Stands before the text.
    first: Option<u32>,
    /// Stands before the part of the text in each window.
    each: Option<u32>,
    /// Tokens of the text in a window, `first` counted as one.
    room: usize,
    /// What windows advance by, at most `room`.
    stride: usize,
}

/// A window of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextWindow {
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// How many of them, at its start, are only there to be read: tokens that an earlier window
    /// had, and the token that begins texts.
    pub known: usize,
}

impl<'a> TextWindows<'a> {
    /// Cuts a text into windows of `seq_len` tokens that follow each other.
    ///
    /// # Panics
    ///
    /// Panics if such a window has no room for text.
    pub fn new(tokens: &'a [u32], bos: Option<Bos>, seq_len: usize) -> Self {
        let text = bos.and_then(|bos| tokens.strip_prefix(&[bos.token()])).unwrap_or(tokens);
        let (first, each) = match bos {
            None => (None, None),
            Some(Bos::Once(token)) => (Some(token), None),
            Some(Bos::Each(token)) => (None, Some(token)),
        };
        let room = seq_len.saturating_sub(usize::from(each.is_some()));
        assert!(room > 0, "a window needs room for text");
        Self { text, first, each, room, stride: room }
    }

    /// Windows that advance by so many tokens, and so overlap if these are fewer than a window has.
    /// The last one ends with the text, and may be shorter.
    #[must_use]
    pub fn with_stride(self, stride: usize) -> Self {
        Self { stride: stride.clamp(1, self.room), ..self }
    }

    /// Number of tokens of the text, with the one that may begin it.
    fn total(&self) -> usize {
        self.text.len() + usize::from(self.first.is_some())
    }

    /// Number of windows. Tokens at the end that do not fill one are left out, unless windows
    /// overlap; then the last window has them, and a text that does not fill one has none.
    pub fn count(&self) -> usize {
        let total = self.total();
        match self.stride == self.room {
            true => total / self.room,
            false if total < self.room => 0,
            false => (total - self.room).div_ceil(self.stride) + 1,
        }
    }

    /// A window.
    ///
    /// # Panics
    ///
    /// Panics if the text ends before it.
    pub fn get(&self, index: usize) -> TextWindow {
        let (start, lead) = (index * self.stride, usize::from(self.first.is_some()));
        let end = (start + self.room).min(self.total());
        let mut tokens = Vec::with_capacity(self.room + 1);
        tokens.extend(self.each);
        tokens.extend(self.first.filter(|_| start == 0));
        tokens.extend_from_slice(&self.text[start.saturating_sub(lead)..end - lead]);
        // Where the window before it ended.
        let read = if index == 0 { 0 } else { start - self.stride + self.room };
        let known = tokens.len() - (end - read);
        TextWindow { tokens, known }
    }

    /// The tokens of all windows that follow each other, also of the last one that is not full.
    pub fn all(&self) -> Vec<u32> {
        let mut tokens = Vec::with_capacity(self.total() + self.total() / self.room + 1);
        for index in 0..self.total().div_ceil(self.room) {
            tokens.extend(Self { stride: self.room, ..*self }.get(index).tokens);
        }
        tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: [u32; 7] = [10, 11, 12, 13, 14, 15, 16];

    fn cut(windows: TextWindows<'_>) -> Vec<(Vec<u32>, usize)> {
        let window = |index| windows.get(index);
        (0..windows.count()).map(window).map(|window| (window.tokens, window.known)).collect()
    }

    #[test]
    fn windows_follow_each_other_and_leave_out_what_does_not_fill_one() {
        let windows = TextWindows::new(&TEXT, None, 3);
        assert_eq!(cut(windows), [(vec![10, 11, 12], 0), (vec![13, 14, 15], 0)]);
        assert_eq!(windows.all(), TEXT);
    }

    #[test]
    fn every_window_begins_with_the_token_or_only_the_text() {
        let each = TextWindows::new(&TEXT, Some(Bos::Each(1)), 4);
        assert_eq!(cut(each), [(vec![1, 10, 11, 12], 1), (vec![1, 13, 14, 15], 1)]);
        assert_eq!(each.all(), [1, 10, 11, 12, 1, 13, 14, 15, 1, 16]);
        let once = TextWindows::new(&TEXT, Some(Bos::Once(1)), 4);
        assert_eq!(cut(once), [(vec![1, 10, 11, 12], 0), (vec![13, 14, 15, 16], 0)]);
        assert_eq!(once.all(), [1, 10, 11, 12, 13, 14, 15, 16]);
    }

    #[test]
    fn a_text_that_begins_with_the_token_does_not_get_it_twice() {
        let text = [1, 10, 11, 12];
        for bos in [Bos::Each(1), Bos::Once(1)] {
            assert_eq!(TextWindows::new(&text, Some(bos), 4).get(0).tokens, text);
        }
    }

    #[test]
    fn with_a_stride_every_token_is_new_once_and_the_last_window_ends_the_text() {
        let windows = TextWindows::new(&TEXT, None, 4).with_stride(2);
        let want = [(vec![10, 11, 12, 13], 0), (vec![12, 13, 14, 15], 2), (vec![14, 15, 16], 2)];
        assert_eq!(cut(windows), want);
        let begun = TextWindows::new(&TEXT, Some(Bos::Each(1)), 4).with_stride(2);
        let want = [(vec![1, 10, 11, 12], 1), (vec![1, 12, 13, 14], 2), (vec![1, 14, 15, 16], 2)];
        assert_eq!(cut(begun), want);
        for (bos, stride) in [None, Some(Bos::Each(1)), Some(Bos::Once(1))]
            .into_iter()
            .flat_map(|bos| [1, 2, 3].map(|stride| (bos, stride)))
        {
            let windows = TextWindows::new(&TEXT, bos, 4).with_stride(stride);
            let fresh =
                cut(windows).into_iter().flat_map(|(tokens, known)| tokens[known..].to_vec());
            let read: Vec<u32> = fresh.filter(|token| *token != 1).collect();
            let all = stride < windows.room;
            assert_eq!(read, TEXT[..if all { 7 } else { 6 }], "{bos:?} {stride}");
        }
    }

    #[test]
    fn a_stride_of_a_whole_window_is_none() {
        for bos in [None, Some(Bos::Each(1)), Some(Bos::Once(1))] {
            let windows = TextWindows::new(&TEXT, bos, 4);
            assert_eq!(cut(windows.with_stride(4)), cut(windows));
        }
    }

    #[test]
    fn a_text_that_fills_no_window_has_none() {
        assert_eq!(TextWindows::new(&TEXT, None, 8).count(), 0);
        assert_eq!(TextWindows::new(&TEXT, None, 8).with_stride(2).count(), 0);
        assert_eq!(TextWindows::new(&TEXT, Some(Bos::Each(1)), 8).count(), 1);
        assert_eq!(TextWindows::new(&TEXT, Some(Bos::Once(1)), 8).count(), 1);
        assert!(TextWindows::new(&[], Some(Bos::Each(1)), 8).all().is_empty());
    }
}
