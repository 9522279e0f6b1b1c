/// Numbers that differ by at most this are equal, because texts round decimals.
const SAME_NUMBER: f64 = 1e-6;

/// What counts as a right answer. `TaskExample::is_answered_by` states the rules.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Answer {
    /// One of the letters from A to `last`.
    Letter { right: char, last: char },
    /// Yes or no, true or false.
    Truth(bool),
    /// A number.
    Number(f64),
    /// One of several texts, each as its lowercase words.
    Choice { right: usize, choices: Vec<Vec<String>> },
    /// The text itself.
    Text(String),
}

impl Answer {
    /// One of several texts; `None` if their words do not distinguish them.
    pub fn choice(choices: &[&str], right: usize) -> Option<Self> {
        let choices: Vec<_> = choices.iter().map(|text| lowercase_words(text)).collect();
        let twice = (0..choices.len()).any(|n| choices[..n].contains(&choices[n]));
        let wordless = choices.iter().any(Vec::is_empty);
        (!twice && !wordless).then_some(Self::Choice { right, choices })
    }

    /// Whether a generated text gives this answer.
    pub fn is_given_by(&self, generated: &str) -> bool {
        match self {
            Self::Letter { right, last } => first_label(generated, *last) == Some(*right),
            Self::Truth(right) => words(generated).find_map(truth) == Some(*right),
            Self::Number(right) => {
                first_number(generated).is_some_and(|n| (n - right).abs() <= SAME_NUMBER)
            }
            Self::Choice { right, choices } => {
                first_choice(&lowercase_words(generated), choices) == Some(*right)
            }
            Self::Text(right) => {
                let right = right.trim();
                let lines = generated.trim().lines().take(right.lines().count());
                lines.map(collapsed).eq(right.lines().map(collapsed))
            }
        }
    }
}

/// The truth value of yes, no, true or false, in any case; `None` for other words.
pub(super) fn truth(word: &str) -> Option<bool> {
    match word.to_ascii_lowercase().as_str() {
        "yes" | "true" => Some(true),
        "no" | "false" => Some(false),
        _ => None,
    }
}

/// The first letter from A to `last`, at most Z, that stands alone and labels a choice.
fn first_label(text: &str, last: char) -> Option<char> {
    let letters = text.char_indices().filter(|(_, char)| ('A'..=last).contains(char));
    let mut places =
        letters.map(|(at, letter)| (letter, &text[..at], &text[at + letter.len_utf8()..]));
    let is_label = |(letter, before, after): &(char, &str, &str)| {
        let alone =
            !before.ends_with(char::is_alphanumeric) && !after.starts_with(char::is_alphanumeric);
        alone && !is_word(*letter, before, after)
    };
    places.find(is_label).map(|(letter, ..)| letter)
}

/// Words that follow a label, as in `A or B` and `A is right`, but not an article. They seldom follow
/// a pronoun.
const AFTER_LABELS: [&str; 5] = ["and", "because", "is", "or", "since"];

/// Whether a capital that stands alone is a word of a sentence instead of a label: the article `A` at
/// the beginning of one, or the pronoun `I`.
fn is_word(letter: char, before: &str, after: &str) -> bool {
    let rest = after.trim_start_matches([' ', '\t']);
    let is_spaced = rest.len() < after.len() && rest.starts_with(char::is_alphanumeric);
    let next = words(rest).next().unwrap_or_default();
    let precedes_word = is_spaced && !AFTER_LABELS.contains(&next);
    match letter {
        'A' => precedes_word && begins_sentence(before),
        'I' => precedes_word || after.starts_with(['\'', '\u{2019}']),
        _ => false,
    }
}

/// Whether a sentence begins after this text. What follows a colon is an answer.
fn begins_sentence(before: &str) -> bool {
    let is_opening = |char: char| " \t\"'\u{201c}\u{2018}(".contains(char);
    let before = before.trim_end_matches(is_opening);
    before.is_empty() || before.ends_with(['\n', '.', '!', '?'])
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty())
}

fn lowercase_words(text: &str) -> Vec<String> {
    words(text).map(str::to_lowercase).collect()
}

fn collapsed(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The choice that begins first; of several that begin at the same word, the longest: `red ball` is
/// not `red`.
fn first_choice(said: &[String], choices: &[Vec<String>]) -> Option<usize> {
    (0..said.len()).find_map(|at| {
        let begins = |n: &usize| said[at..].starts_with(&choices[*n]);
        (0..choices.len()).filter(begins).max_by_key(|n| choices[*n].len())
    })
}

fn first_number(text: &str) -> Option<f64> {
    let start = text.find(|c: char| c.is_ascii_digit())?;
    let (mut before, rest) = text.split_at(start);
    let mut number = String::new();
    // `.5` is a half, but the dot of `is.5` or `...5` ends a sentence.
    let ends_sentence = |text: &str| text.ends_with(|c: char| c.is_alphanumeric() || c == '.');
    if let Some(head) = before.strip_suffix('.').filter(|head| !ends_sentence(head)) {
        before = head;
        number.push('.');
    }
    let whole = number.is_empty();

    let bytes = rest.as_bytes();
    let digits = |from: usize| bytes[from..].iter().take_while(|b| b.is_ascii_digit()).count();
    let mut end = digits(0);
    number.push_str(&rest[..end]);
    // A comma belongs to the number only before three digits: `1,234`, not `3, 4` or `1,23`.
    let grouped = whole && end <= 3;
    while grouped && bytes.get(end) == Some(&b',') && digits(end + 1) == 3 {
        number.push_str(&rest[end + 1..end + 4]);
        end += 4;
    }
    if whole && bytes.get(end) == Some(&b'.') {
        number.push_str(&rest[end..end + 1 + digits(end + 1)]);
    }

    // A dash after a letter is a hyphen.
    let negative = before
        .trim_end_matches(['$', '£', '€'])
        .strip_suffix(['-', '\u{2212}'])
        .is_some_and(|head| !head.ends_with(char::is_alphanumeric));
    let size: f64 = number.parse().ok()?;
    Some(if negative { -size } else { size })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(answer: &Answer, right: &[&str], wrong: &[&str]) {
        for text in right {
            assert!(answer.is_given_by(text), "{answer:?} is given by {text:?}");
        }
        for text in wrong {
            assert!(!answer.is_given_by(text), "{answer:?} is not given by {text:?}");
        }
    }

    #[test]
    fn first_standalone_letter_counts() {
        check(
            &Answer::Letter { right: 'B', last: 'E' },
            &["B", "(B)", "B.", "B: bank", " B\nC", "**B**", "The answer is B, not C", "F or B"],
            &["", "b", "A or B", "Bank", "C", "(A) B", "ÄB", "B2"],
        );
    }

    #[test]
    fn article_and_pronoun_are_no_labels() {
        check(
            &Answer::Letter { right: 'A', last: 'E' },
            &[
                "A",
                "A.",
                "(A) bank",
                "A: bank",
                "A, a bank",
                "A\nbank",
                "A or B",
                "A is right",
                "A because it is convenient",
                "The answer is A bank",
                "Answer: A bank",
                "A bank. A",
            ],
            &[
                "A revolving door is convenient for two direction travel, but",
                "A bank",
                "\"A bank\"",
                "It turns. A door does.",
                "\nA 2nd door",
                "A door. (B)",
            ],
        );
        let many = Answer::Letter { right: 'I', last: 'J' };
        check(&many, &["I", "I.", "(I) think", "I or J"], &["I think J", "I'm sure: J", "A b. J"]);
        // With fewer choices it labels none anyway.
        check(&Answer::Letter { right: 'B', last: 'E' }, &["I think B"], &["I A B"]);
    }

    #[test]
    fn first_word_of_truth_counts() {
        check(
            &Answer::Truth(true),
            &["yes", "Yes.", "TRUE", "It is true, not false", "yes\nno"],
            &["", "no", "False", "yesterday", "No, yes", "not", "1"],
        );
        check(&Answer::Truth(false), &["no", "False!", "I say no"], &["yes", "nothing", "none"]);
    }

    #[test]
    fn first_number_counts_as_a_number() {
        check(
            &Answer::Number(51.0),
            &["51", "51.0", "51.", "$51", "The answer is 51 dollars", "51, 234", "51.00\n7"],
            &["", "fifty", "5", "-51", "51.5", "76 - 25 = 51", "510", "51,234"],
        );
        check(&Answer::Number(1234.5), &["$1,234.50", "1234.5", "1,234.5 dollars"], &["1,23"]);
        check(&Answer::Number(1_234_567.0), &["1,234,567", "1234567."], &["1,234", "1234,567"]);
        check(&Answer::Number(-3.0), &["-3", "-$3", "$-3", "x = −3.0", "(-3)"], &["3", "top-3"]);
        check(&Answer::Number(0.5), &["0.5", ".5", "is .50"], &["5", "-.5", "is.5", "...5"]);
        check(&Answer::Number(5.0), &["5", "is.5", "Well...5", "5.0.1", "- 5"], &[".5", ".5.5"]);
    }

    #[test]
    fn numbers_beyond_measure_are_wrong_not_fatal() {
        let long = "9".repeat(5000);
        check(&Answer::Number(9.0), &[], &[&long, &format!(".{long}"), &format!("9{long},999")]);
    }

    #[test]
    fn first_choice_counts() {
        let balls = ["orange ball.", "red ball.", "red."];
        check(
            &Answer::choice(&balls, 1).unwrap(),
            &["red ball.", "Red Ball", "the red ball, not the orange ball", "red\n ball"],
            &["", "red", "orange ball. red ball.", "red balls", "ball", "red. Or red ball."],
        );
        check(&Answer::choice(&balls, 2).unwrap(), &["red", "Red!", "red balls"], &["red ball"]);
        check(&Answer::choice(&["Catch-22.", "Ulysses."], 0).unwrap(), &["catch 22"], &["Catch"]);
    }

    #[test]
    fn choices_that_words_do_not_tell_apart_are_refused() {
        assert_eq!(Answer::choice(&["Red.", "red"], 0), None);
        assert_eq!(Answer::choice(&["+", "minus"], 0), None);
    }

    #[test]
    fn as_many_lines_as_the_response_has_are_compared() {
        check(
            &Answer::Text("Paris".into()),
            &["Paris", " Paris \n", "Paris\nand Rome"],
            &["", "paris", "Paris.", "Paris and Rome"],
        );
        check(
            &Answer::Text("a  b\n\nc\n".into()),
            &["a b\n\nc", "\n a\tb \n \nc\nd"],
            &["a b", "a b\nc", "a b c"],
        );
    }
}
