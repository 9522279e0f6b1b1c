//! Short stories in plain English, generated from a seed: text to train a tiny model on.
//!
//! `words` and `phrases` hold the building blocks of stories, `plots` what happens in them, and
//! `grammar` puts them together. A story keeps track of who has what and where, of numbers
//! and their sums, and of who said what, so that a model has something to learn beyond the
//! next word.

mod grammar;
mod phrases;
mod plots;
mod random;
mod words;

use random::Random;

/// An endless sequence of stories, determined by the seed alone.
///
/// A story is one line of about 70 to 220 words.
#[derive(Clone, Debug)]
pub struct Stories {
    random: Random,
}

impl Stories {
    /// The stories of a seed.
    pub fn new(seed: u64) -> Self {
        Self { random: Random::new(seed) }
    }
}

impl Iterator for Stories {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        Some(grammar::tell(&mut self.random))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Neighboring words, without the quotation marks around them.
    fn neighbors(story: &str) -> impl Iterator<Item = (&str, &str)> {
        let words = story.split(' ').map(|word| word.trim_matches('"'));
        words.clone().zip(words.skip(1))
    }

    #[test]
    fn a_seed_gives_the_same_text_for_ever() {
        let first = Stories::new(1).next().unwrap();
        let told = "Long ago, in a small valley, there lived a brave girl named Ingrid. Every summer \
            there was a jumping contest in the valley. Ingrid had practiced jumping for weeks. \
            So had Sara. The sun shone in a clear blue sky when the day came. Ingrid was so \
            afraid that she could not move. In the first round, Ingrid got five points. In the \
            second round she leaped over a bench and got seven. That made twelve points. Sara \
            had ten. Ingrid got the gold ribbon, and everyone cheered. Sara was very sad. \
            \"You were great too,\" said Ingrid and shook her hand. It is nice to win, and \
            nicer to win as a friend.";
        assert_eq!(first, told);
        let more: String = Stories::new(1).take(1000).collect();
        let sum =
            more.bytes().fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        assert_eq!((more.len(), sum), (719_565, 335_531_145_566_674_849));
        assert!(Stories::new(7).take(50).eq(Stories::new(7).take(50)));
    }

    #[test]
    fn seeds_give_different_stories_and_a_seed_never_the_same_twice() {
        let mut stories: Vec<String> =
            (1..5).flat_map(|seed| Stories::new(seed).take(500)).collect();
        stories.sort();
        let all = stories.len();
        stories.dedup();
        assert_eq!(stories.len(), all);
    }

    #[test]
    fn stories_are_single_lines_of_60_to_220_words() {
        for story in Stories::new(2).take(2000) {
            assert!((60..=220).contains(&story.split(' ').count()), "{story}");
            assert!(!story.contains("  ") && !story.contains('\n'), "{story}");
        }
    }

    #[test]
    fn sentences_begin_with_a_capital_and_end_with_a_mark() {
        let ends = |text: &str| text.trim_end_matches('"').ends_with(['.', '!', '?']);
        for story in Stories::new(3).take(500) {
            assert!(story.trim_start_matches('"').starts_with(char::is_uppercase), "{story}");
            assert!(ends(&story), "{story}");
            let words: Vec<&str> = story.split(' ').collect();
            for pair in words.windows(2) {
                // After `!"` and `?"`, the speaker may follow.
                let over = ends(pair[0]) && !pair[0].ends_with("!\"") && !pair[0].ends_with("?\"");
                let begins = pair[1].trim_start_matches('"').starts_with(char::is_uppercase);
                assert!(!over || begins, "{pair:?} in {story}");
            }
            assert_eq!(story.matches('"').count() % 2, 0, "{story}");
        }
    }

    #[test]
    fn a_and_an_agree_with_the_next_word() {
        for story in Stories::new(4).take(500) {
            for (article, word) in neighbors(&story) {
                let silent = word.starts_with("honest") || word.starts_with("hour");
                let vowel = silent || word.starts_with(['a', 'e', 'i', 'o', 'u']);
                assert!(!article.eq_ignore_ascii_case("a") || !vowel, "a {word} in {story}");
                assert!(!article.eq_ignore_ascii_case("an") || vowel, "an {word} in {story}");
            }
        }
    }

    #[test]
    fn the_vocabulary_is_rich() {
        let text: String = Stories::new(5).take(5000).map(|story| story + " ").collect();
        let text = text.to_lowercase();
        let words = text.split(|letter: char| !letter.is_alphabetic());
        let distinct: std::collections::HashSet<&str> = words.collect();
        assert!(distinct.len() > 2000, "{}", distinct.len());
    }
}
