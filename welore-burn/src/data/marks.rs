use std::fmt;

/// Marks that a corpus has in place of words and punctuation after it was split into words:
/// WikiText's, and those of corpora that were made like it.
const MARKS: [&str; 4] = ["<unk>", "@-@", "@,@", "@.@"];

/// Words among which one mark is no accident any more.
const WORDS_A_MARK: usize = 2000;

/// Marks of an earlier tokenization in a text, such as `<unk>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// The most frequent one.
    pub most: &'static str,
    /// How many words of the text are such a mark.
    pub count: usize,
    /// Words of the text, marks among them: what is between white space.
    pub words: usize,
}

impl Marks {
    /// The marks in a text; `None` if they are fewer than one in 2000 words. A model that is
    /// trained or calibrated on such a text learns to write the marks.
    pub fn find(documents: &[String]) -> Option<Self> {
        let (mut counts, mut words) = ([0_usize; MARKS.len()], 0);
        for word in documents.iter().flat_map(|document| document.split_whitespace()) {
            words += 1;
            if let Some(mark) = MARKS.iter().position(|mark| *mark == word) {
                counts[mark] += 1;
            }
        }
        let count = counts.iter().sum::<usize>();
        let found = count > 0 && count.saturating_mul(WORDS_A_MARK) >= words;
        let most = counts.iter().zip(MARKS).max_by_key(|(count, _)| **count)?.1;
        found.then_some(Self { most, count, words })
    }
}

impl fmt::Display for Marks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { most, count, words } = self;
        write!(f, "{count} of its {words} words are marks such as `{most}`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Option<Marks> {
        Marks::find(&[text.to_string()])
    }

    #[test]
    fn a_text_that_was_split_into_words_is_known_by_its_marks() {
        let text = " = Robert <unk> = \n\n He is a well @-@ known <unk> of 1 @,@ 000 plays . \n";
        let expected = Marks { most: "<unk>", count: 4, words: 17 };
        assert_eq!(found(text), Some(expected));
        assert_eq!(expected.to_string(), "4 of its 17 words are marks such as `<unk>`");
        // Over all documents.
        let documents = ["plain words".into(), "2 @.@ 5 and 3 @.@ 5".to_string()];
        assert_eq!(
            Marks::find(&documents).map(|marks| (marks.most, marks.count)),
            Some(("@.@", 2))
        );
    }

    #[test]
    fn other_texts_have_none() {
        assert_eq!(found("mail@example.org, a-b, <unknown> and (<unk>) in prose"), None);
        assert_eq!(found(""), None);
        let rare = |words: usize| "word ".repeat(words - 1) + "<unk>";
        assert_eq!(found(&rare(2000)).map(|marks| marks.count), Some(1));
        assert_eq!(found(&rare(2001)), None);
    }
}
