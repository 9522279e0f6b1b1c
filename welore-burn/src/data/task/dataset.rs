use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use super::answer::Answer;
use super::error::TaskError;
use super::formats;
use super::json::Parsed;
use super::kind::TaskKind;
use crate::named::Named;

/// Bytes of the largest file that is read. Task files have a few megabytes.
const LARGEST: u64 = 1 << 30;

/// Questions whose hash is at most this are for testing: a fifth of all hashes.
const TESTED: u64 = u64::MAX / 5;

/// A prompt, the response to learn, and what counts as a right answer to it.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskExample {
    /// What the model is given: instruction, question, and a last line `### Response:`. For
    /// [`TaskKind::Jsonl`] the file's prompt as it is.
    pub prompt: String,
    /// What the model should generate after the prompt.
    pub response: String,
    pub(super) answer: Answer,
}

impl TaskExample {
    /// Whether a text that a model generated after the prompt answers it correctly.
    ///
    /// The text may continue after its answer, so the first match counts:
    ///
    /// - CommonsenseQA: the first capital that stands alone and labels a choice, as in `B`, `(B)` or
    ///   `B: bank`. A sentence that begins with the article, as in `A bank is`, does not name choice
    ///   A, and the pronoun `I` names none.
    /// - SVAMP: the first number, as in `51`, `51.0`, `-3` or `$1,234.50`, compared as a
    ///   number.
    /// - BoolQ, CoinFlip, StrategyQA: the first word that is yes, no, true or false in any
    ///   case. Yes and true are one answer, no and false the other.
    /// - Object tracking: the choice that is named first, regardless of case, punctuation and
    ///   spaces; of two that begin at the same word, the longer one.
    /// - [`TaskKind::Jsonl`]: the first lines of the text, as many as the response has, must equal
    ///   it, regardless of spaces around the text and of how many there are between words.
    pub fn is_answered_by(&self, generated: &str) -> bool {
        self.answer.is_given_by(generated)
    }
}

/// A task's examples, for training and for testing. Neither list is ever empty.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Which task it is.
    pub kind: TaskKind,
    /// Examples to train on, in the file's order.
    pub train: Vec<TaskExample>,
    /// Examples to test with, in the file's order.
    pub test: Vec<TaskExample>,
}

impl Task {
    /// Reads a task from a file, or from a directory with files named as [`TaskKind`] states.
    ///
    /// A directory may have a training file and a test file. A single file, given as such or alone
    /// in its directory, is divided by the BLAKE3 hash of the question without surrounding spaces
    /// (of BoolQ without the passage): about a fifth of all questions are for testing. So the order
    /// of the file does not matter, equal questions are never on both sides, and a question stays
    /// on its side when others are added or removed. If all hashes fall on one side, the question
    /// with the lowest hash is for testing, or the one with the highest for training.
    ///
    /// # Errors
    ///
    /// [`TaskError`] if there is no such file, if it cannot be read, or if it is not a file of this
    /// task: larger than 1 GiB, not UTF-8, malformed, a JSON array in place of lines, without
    /// examples, or the only file and without two different questions.
    pub fn read(kind: TaskKind, path: impl AsRef<Path>) -> Result<Self, TaskError> {
        let path = path.as_ref();
        if !path.is_dir() {
            return Self::divide(kind, path, read_file(kind, path)?);
        }
        let names = kind.file_names();
        let find =
            |names: &[&str]| names.iter().map(|name| path.join(name)).find(|file| file.is_file());
        match (find(names.train), find(names.test)) {
            (Some(train), Some(test)) => Ok(Self {
                kind,
                train: examples(read_file(kind, &train)?),
                test: examples(read_file(kind, &test)?),
            }),
            (Some(only), None) | (None, Some(only)) => {
                Self::divide(kind, &only, read_file(kind, &only)?)
            }
            (None, None) => Err(TaskError::NoTaskFile {
                path: path.into(),
                task: kind.name(),
                names: [names.train, names.test].concat().join(", "),
            }),
        }
    }

    fn divide(kind: TaskKind, path: &Path, parsed: Vec<Parsed>) -> Result<Self, TaskError> {
        let hashes: Vec<u64> = parsed.iter().map(|parsed| hash(&parsed.question)).collect();
        let lowest = hashes.iter().copied().min().unwrap_or_default();
        let highest = hashes.iter().copied().max().unwrap_or_default();
        if lowest == highest {
            return Err(TaskError::TooFew { path: path.into() });
        }
        // Between the two, so that neither side is empty.
        let tested = TESTED.clamp(lowest, highest - 1);
        let mut task = Self { kind, train: Vec::new(), test: Vec::new() };
        for (parsed, hash) in parsed.into_iter().zip(hashes) {
            let side = if hash <= tested { &mut task.test } else { &mut task.train };
            side.push(parsed.example);
        }
        Ok(task)
    }
}

fn hash(question: &str) -> u64 {
    let hash = blake3::hash(question.trim().as_bytes());
    u64::from_le_bytes(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"))
}

fn examples(parsed: Vec<Parsed>) -> Vec<TaskExample> {
    parsed.into_iter().map(|parsed| parsed.example).collect()
}

/// The examples of one file, at least one.
fn read_file(kind: TaskKind, path: &Path) -> Result<Vec<Parsed>, TaskError> {
    read_examples(path, |text| formats::parse(kind, path, text))
}

/// What `parse` makes of the text of a file, at least one example.
pub(super) fn read_examples<T>(
    path: &Path,
    parse: impl FnOnce(&str) -> Result<Vec<T>, TaskError>,
) -> Result<Vec<T>, TaskError> {
    let text = read_text(path)?;
    // Some editors put a byte order mark first, which is not JSON.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let blank = text.trim().is_empty();
    let parsed = if blank { Vec::new() } else { parse(text)? };
    if parsed.is_empty() {
        return Err(TaskError::Empty { path: path.into() });
    }
    Ok(parsed)
}

fn read_text(path: &Path) -> Result<String, TaskError> {
    let io = |source: std::io::Error| match source.kind() {
        ErrorKind::NotFound => TaskError::Missing { path: path.into() },
        _ => TaskError::Io { path: path.into(), source },
    };
    let too_large = || TaskError::TooLarge { path: path.into(), limit: LARGEST };
    let file = File::open(path).map_err(io)?;
    if file.metadata().map_err(io)?.len() > LARGEST {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    // The length above says nothing about a pipe or a device.
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > LARGEST {
        return Err(too_large());
    }
    String::from_utf8(bytes).map_err(|error| {
        let text = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + text.iter().filter(|byte| **byte == b'\n').count();
        TaskError::NotUtf8 { path: path.into(), line }
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use tempfile::{TempDir, tempdir};

    use super::*;

    fn directory(files: &[(&str, &str)]) -> TempDir {
        let dir = tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    fn read_text_of(kind: TaskKind, text: &str) -> Result<Task, TaskError> {
        Task::read(kind, directory(&[("file", text)]).path().join("file"))
    }

    fn line(number: usize, response: &str) -> String {
        format!("{{\"prompt\": \"question {number}\", \"response\": \"{response}\"}}\n")
    }

    fn lines(numbers: impl Iterator<Item = usize>) -> String {
        numbers.map(|number| line(number, "r")).collect()
    }

    fn prompts(examples: &[TaskExample]) -> BTreeSet<&str> {
        examples.iter().map(|example| example.prompt.as_str()).collect()
    }

    #[test]
    fn official_files_are_the_two_sides() {
        let dir = directory(&[
            ("train.jsonl", &lines(0..3)),
            ("valid.jsonl", &lines(3..4)),
            ("dev.jsonl", &lines(4..6)),
        ]);
        let task = Task::read(TaskKind::Jsonl, dir.path()).unwrap();
        assert_eq!(task.kind, TaskKind::Jsonl);
        assert_eq!(task.train.len(), 3);
        assert_eq!(prompts(&task.test), BTreeSet::from(["question 4", "question 5"]));
        assert!(task.test[0].is_answered_by("r\nand more"));
        assert!(!task.test[0].is_answered_by("s"));
    }

    #[test]
    fn one_file_is_divided_by_its_questions_alone() {
        let all = read_text_of(TaskKind::Jsonl, &lines(0..500)).unwrap();
        assert_eq!(all.train.len() + all.test.len(), 500);
        assert!((60..=140).contains(&all.test.len()), "{} of 500 are tested", all.test.len());
        let backwards = read_text_of(TaskKind::Jsonl, &lines((0..500).rev())).unwrap();
        assert_eq!(prompts(&backwards.test), prompts(&all.test));
        assert_eq!(prompts(&backwards.train), prompts(&all.train));
        let more = read_text_of(TaskKind::Jsonl, &lines(0..600)).unwrap();
        assert!(prompts(&more.test).is_superset(&prompts(&all.test)));
        assert!(prompts(&more.train).is_superset(&prompts(&all.train)));
    }

    #[test]
    fn equal_questions_are_on_one_side() {
        let text: String = (0..200).map(|number| line(number % 50, &number.to_string())).collect();
        let task = read_text_of(TaskKind::Jsonl, &text).unwrap();
        assert_eq!(task.train.len() + task.test.len(), 200);
        assert!(prompts(&task.train).is_disjoint(&prompts(&task.test)));
    }

    #[test]
    fn two_questions_are_enough_and_one_is_not() {
        for number in 0..30 {
            let task = read_text_of(TaskKind::Jsonl, &lines(number..number + 2)).unwrap();
            assert_eq!((task.train.len(), task.test.len()), (1, 1));
        }
        for text in [line(1, "r"), line(1, "r") + &line(1, "s")] {
            let error = read_text_of(TaskKind::Jsonl, &text).unwrap_err();
            assert!(matches!(error, TaskError::TooFew { .. }), "{error}");
        }
    }

    #[test]
    fn a_lone_file_of_a_directory_is_divided_like_the_file() {
        let text: String = (0..9)
            .map(|n| format!("{{\"question\": \"q{n}\", \"passage\": \"p\", \"answer\": true}}\n"))
            .collect();
        let dir = directory(&[("boolq_dev.jsonl", &text), ("README.md", "")]);
        let task = Task::read(TaskKind::BoolQ, dir.path()).unwrap();
        let file = dir.path().join("boolq_dev.jsonl");
        assert_eq!(task, Task::read(TaskKind::BoolQ, file).unwrap());
    }

    #[test]
    fn byte_order_marks_and_line_ends_of_other_systems_are_read() {
        let text = format!("\u{feff}{}", lines(0..4).replace('\n', "\r\n"));
        let read = read_text_of(TaskKind::Jsonl, &text).unwrap();
        assert_eq!(read, read_text_of(TaskKind::Jsonl, &lines(0..4)).unwrap());
    }

    #[test]
    fn missing_files_are_told() {
        let dir = directory(&[("other.json", "[]")]);
        let error = Task::read(TaskKind::BoolQ, dir.path()).unwrap_err();
        assert!(matches!(error, TaskError::NoTaskFile { task: "boolq", .. }), "{error}");
        assert!(error.to_string().contains("boolq_train.jsonl, dev.jsonl"), "{error}");
        let error = Task::read(TaskKind::BoolQ, dir.path().join("nothing")).unwrap_err();
        assert!(matches!(error, TaskError::Missing { .. }), "{error}");
    }

    #[test]
    fn files_without_examples_are_told() {
        for (kind, text) in [
            (TaskKind::Jsonl, ""),
            (TaskKind::Svamp, " \n"),
            (TaskKind::Svamp, "[]"),
            (TaskKind::CoinFlip, "{\"examples\": []}"),
        ] {
            let error = read_text_of(kind, text).unwrap_err();
            assert!(matches!(error, TaskError::Empty { .. }), "{error}");
        }
    }

    #[test]
    fn files_that_are_no_text_are_told() {
        let dir = directory(&[]);
        let path = dir.path().join("file");
        fs::write(&path, b"{}\n\xff\n").unwrap();
        let error = Task::read(TaskKind::Jsonl, &path).unwrap_err();
        assert!(matches!(error, TaskError::NotUtf8 { line: 2, .. }), "{error}");
        // A sparse file takes no space.
        File::create(&path).unwrap().set_len(LARGEST + 1).unwrap();
        let error = Task::read(TaskKind::Jsonl, &path).unwrap_err();
        assert!(matches!(error, TaskError::TooLarge { .. }), "{error}");
    }

    #[test]
    fn errors_name_file_and_line() {
        let dir = directory(&[("train.jsonl", &lines(0..3)), ("test.jsonl", "\n{}\n")]);
        let error = Task::read(TaskKind::Jsonl, dir.path()).unwrap_err().to_string();
        assert!(error.ends_with("test.jsonl: line 2: missing field `prompt`"), "{error}");
    }
}
