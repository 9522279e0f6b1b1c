//! Questions with choices, in the words in which lm-eval asks them.

use std::path::Path;

use serde::Deserialize;
use serde::de::Error;

use super::dataset::read_examples;
use super::error::TaskError;
use super::json::{self, Example, MOST_CHOICES, Record};
use crate::named::{Named, named};
use crate::words::number_of;

/// The tasks of questions with choices, which are answered by the log-likelihood of each choice.
///
/// Every task is a file of objects, one per line, or a directory that has the file under the name
/// given here. All questions of the file are asked. Other fields than those named here are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChoiceTask {
    /// CommonsenseQA as lm-eval's task `commonsense_qa` asks it: the choices are part of the
    /// question, and a letter is the answer. The fields are those of [`ChoiceTask::Jsonl`], and the
    /// published ones: `question`, which has a `stem` and `choices` of `label` and `text`, and
    /// `answerKey`. In a directory, `dev_rand_split.jsonl` is read, since the official test set has no
    /// answers.
    CommonsenseQa,
    /// BoolQ as lm-eval's task `boolq` asks it: a passage, a question, and `no` or `yes`. The fields
    /// are `question`, `passage`, `answer` or `label`, which is true, false, 1 or 0, and `title`,
    /// which may be missing and begins the passage, as in SuperGLUE. In a directory, the first of
    /// `dev.jsonl`, `boolq_dev.jsonl` and `val.jsonl` is read.
    BoolQ,
    /// Questions of your own: `question`, `choices` and `answer`, and a `context` that precedes the
    /// question, which may be missing. `choices` is a list of texts, or has lists of `label` and
    /// `text`. `answer`, which may also be called `answerKey`, is the number of the right choice from
    /// 0, its label, which is a letter from A where no labels are given, or its text. They are
    /// asked as lm-eval's `arc_easy` asks: `Question: ...`, `Answer:`, and the text of a choice. In a
    /// directory, the first of `test.jsonl`, `dev.jsonl` and `valid.jsonl` is read.
    Jsonl,
}

named!(ChoiceTask {
    CommonsenseQa => "commonsenseqa", "CommonsenseQA, as lm-eval's `commonsense_qa`";
    BoolQ => "boolq", "BoolQ, as lm-eval's `boolq`";
    Jsonl => "jsonl", "objects with a `question`, `choices` and an `answer`, one per line";
});

/// A question, and the choices of which one is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChoiceQuestion {
    /// What precedes every choice: the question in the words of the task.
    pub context: String,
    /// The choices, at least 2; none is blank.
    pub choices: Vec<String>,
    /// The number of the right choice, from 0.
    pub right: usize,
}

impl ChoiceQuestion {
    /// What continues the context if this choice is taken: a space and the choice.
    ///
    /// # Panics
    ///
    /// Panics if there is no such choice.
    pub fn continuation(&self, choice: usize) -> String {
        format!(" {}", self.choices[choice])
    }
}

impl ChoiceTask {
    /// Reads all questions of a file, in its order, or those of a directory.
    ///
    /// # Errors
    ///
    /// [`TaskError`] if there is no such file, if it cannot be read, or if it is not a file of this
    /// task: larger than 1 GiB, not UTF-8, malformed, a JSON array in place of lines, or without
    /// questions.
    pub fn read(self, path: impl AsRef<Path>) -> Result<Vec<ChoiceQuestion>, TaskError> {
        let path = path.as_ref();
        if !path.is_dir() {
            return self.read_file(path);
        }
        let names = self.file_names();
        match names.iter().map(|name| path.join(name)).find(|file| file.is_file()) {
            Some(file) => self.read_file(&file),
            None => Err(TaskError::NoTaskFile {
                path: path.into(),
                task: self.name(),
                names: names.join(", "),
            }),
        }
    }

    fn read_file(self, path: &Path) -> Result<Vec<ChoiceQuestion>, TaskError> {
        read_examples(path, |text| self.parse(path, text))
    }

    fn parse(self, path: &Path, text: &str) -> Result<Vec<ChoiceQuestion>, TaskError> {
        let asked = match self {
            Self::CommonsenseQa | Self::Jsonl => json::lines::<Given>(path, text)?,
            Self::BoolQ => json::lines::<BoolQ>(path, text)?,
        };
        Ok(asked.into_iter().map(|asked| self.in_words(asked)).collect())
    }

    fn file_names(self) -> &'static [&'static str] {
        match self {
            Self::CommonsenseQa => &["dev_rand_split.jsonl"],
            Self::BoolQ => &["dev.jsonl", "boolq_dev.jsonl", "val.jsonl"],
            Self::Jsonl => &["test.jsonl", "dev.jsonl", "valid.jsonl"],
        }
    }

    /// The question in the words of lm-eval's task.
    fn in_words(self, asked: AskedOf) -> ChoiceQuestion {
        let AskedOf { question, choices, right, context } = asked;
        let context = context.map(|context| format!("{context}\n")).unwrap_or_default();
        match self {
            Self::CommonsenseQa => {
                let letters = || ('A'..='Z').map(String::from);
                let listed: String = letters()
                    .zip(&choices)
                    .map(|(letter, choice)| format!("{letter}. {choice}\n"))
                    .collect();
                let context = format!("Question: {}\n{listed}Answer:", question.trim());
                ChoiceQuestion { context, choices: letters().take(choices.len()).collect(), right }
            }
            Self::BoolQ => {
                let context = format!("{context}Question: {question}?\nAnswer:");
                ChoiceQuestion { context, choices, right }
            }
            Self::Jsonl => {
                let context = format!("{context}Question: {question}\nAnswer:");
                ChoiceQuestion { context, choices, right }
            }
        }
    }
}

/// A question as a file has it.
struct AskedOf {
    question: String,
    choices: Vec<String>,
    right: usize,
    context: Option<String>,
}

impl Example for AskedOf {
    fn checked<E: Error>(self) -> Result<Self, E> {
        if self.question.trim().is_empty() {
            return Err(E::custom("the question is empty"));
        }
        match self.choices.iter().position(|choice| choice.trim().is_empty()) {
            Some(empty) => Err(E::custom(format_args!("choice {} is empty", empty + 1))),
            None => Ok(self),
        }
    }
}

#[derive(Deserialize)]
struct Given {
    question: Question,
    choices: Option<Choices>,
    #[serde(alias = "answerKey")]
    answer: Key,
    context: Option<String>,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "`question` is neither a text nor an object with a `stem` and `choices`"
)]
enum Question {
    Text(String),
    WithChoices { stem: String, choices: Choices },
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "`choices` are neither a list of texts nor labels and texts (`label`, `text`)"
)]
enum Choices {
    Texts(Vec<String>),
    Columns { label: Vec<String>, text: Vec<String> },
    Rows(Vec<Row>),
}

#[derive(Deserialize)]
struct Row {
    label: String,
    text: String,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "`answer` is neither the number, the label nor the text of a choice")]
enum Key {
    Number(usize),
    Text(String),
}

impl Record for Given {
    type Example = AskedOf;

    fn parsed<E: Error>(self) -> Result<AskedOf, E> {
        let (question, choices) = match (self.question, self.choices) {
            (Question::Text(question), Some(choices)) => (question, choices),
            (Question::WithChoices { stem, choices }, None) => (stem, choices),
            (Question::Text(_), None) => return Err(E::missing_field("choices")),
            (Question::WithChoices { .. }, Some(_)) => return Err(E::duplicate_field("choices")),
        };
        let (labels, choices) = choices.apart::<E>()?;
        // Before the answer is looked for: without choices it can only be wrong.
        if !(2..=MOST_CHOICES).contains(&choices.len()) {
            let found = number_of(choices.len(), "choice");
            return Err(E::custom(format_args!(
                "the question has {found}, not 2 to {MOST_CHOICES}"
            )));
        }
        let right = self.answer.number_among::<E>(labels.as_deref(), &choices)?;
        Ok(AskedOf { question, choices, right, context: self.context })
    }
}

impl Choices {
    /// The labels, if there are some, and the texts.
    fn apart<E: Error>(self) -> Result<(Option<Vec<String>>, Vec<String>), E> {
        match self {
            Self::Texts(texts) => Ok((None, texts)),
            Self::Columns { label, text } if label.len() == text.len() => Ok((Some(label), text)),
            Self::Columns { label, text } => Err(E::custom(format_args!(
                "`choices` have {} and {}",
                number_of(label.len(), "label"),
                number_of(text.len(), "text")
            ))),
            Self::Rows(rows) => {
                let (labels, texts) = rows.into_iter().map(|row| (row.label, row.text)).unzip();
                Ok((Some(labels), texts))
            }
        }
    }
}

impl Key {
    /// The number of the choice that it names, from 0.
    fn number_among<E: Error>(
        self,
        labels: Option<&[String]>,
        texts: &[String],
    ) -> Result<usize, E> {
        let key = match self {
            Self::Number(number) if number < texts.len() => return Ok(number),
            Self::Number(number) => {
                let all = number_of(texts.len(), "choice");
                return Err(E::custom(format_args!("`answer` is {number}, of {all} from 0 on")));
            }
            Self::Text(key) => key,
        };
        let is_labelled = |number: usize| match labels {
            Some(labels) => labels[number] == key,
            None => ('A'..='Z').nth(number).is_some_and(|letter| key == letter.to_string()),
        };
        // A label of the file decides, also where it is the text of another choice.
        let is_label = labels.is_some_and(|labels| labels.contains(&key));
        let is_text = |number: usize| !is_label && texts[number].trim() == key.trim();
        let is_named = |number: &usize| is_labelled(*number) || is_text(*number);
        let mut named = (0..texts.len()).filter(is_named);
        match (named.next(), named.next()) {
            (Some(only), None) => Ok(only),
            (None, _) => Err(E::custom("`answer` is neither the label nor the text of a choice")),
            _ => Err(E::custom("`answer` names several choices; give the number of one, from 0")),
        }
    }
}

#[derive(Deserialize)]
struct BoolQ {
    question: String,
    passage: String,
    title: Option<String>,
    #[serde(alias = "label")]
    answer: Truth,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "`answer` is neither true nor false")]
enum Truth {
    Is(bool),
    Number(u64),
}

impl Record for BoolQ {
    type Example = AskedOf;

    fn parsed<E: Error>(self) -> Result<AskedOf, E> {
        let Self { question, passage, title, answer } = self;
        let right = match answer {
            Truth::Is(yes) => usize::from(yes),
            Truth::Number(0) => 0,
            Truth::Number(1) => 1,
            Truth::Number(_) => return Err(E::custom("`answer` is neither 0 nor 1")),
        };
        let passage = match title {
            Some(title) => format!("{title} -- {passage}"),
            None => passage,
        };
        let choices = vec!["no".into(), "yes".into()];
        Ok(AskedOf { question, choices, right, context: Some(passage) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The only question in a text.
    #[track_caller]
    fn read(task: ChoiceTask, text: &str) -> ChoiceQuestion {
        let mut questions = task.parse(Path::new("file"), text).unwrap();
        assert_eq!(questions.len(), 1);
        questions.remove(0)
    }

    #[track_caller]
    fn refused(task: ChoiceTask, line: &str, reason: &str) {
        let good = match task {
            ChoiceTask::BoolQ => r#"{"question": "q", "passage": "p", "answer": true}"#,
            _ => r#"{"question": "q", "choices": ["a", "b"], "answer": 0}"#,
        };
        match task.parse(Path::new("file"), &format!("{good}\n\n{line}\n{good}\n")) {
            Err(TaskError::Malformed { line: 3, reason: why, .. }) => {
                assert!(why.contains(reason), "{why}");
            }
            other => panic!("not refused as malformed: {other:?}"),
        }
    }

    #[test]
    fn questions_have_the_words_of_lm_eval() {
        let text = r#"{"answerKey": "B", "question": {"question_concept": "c", "stem": " Who? ",
            "choices": [{"label": "A", "text": "a dog"}, {"label": "B", "text": "Mia"}]}}"#
            .replace('\n', " ");
        let found = read(ChoiceTask::CommonsenseQa, &text);
        assert_eq!(found.context, "Question: Who?\nA. a dog\nB. Mia\nAnswer:");
        assert_eq!((found.choices.as_slice(), found.right), (&["A".into(), "B".into()][..], 1));
        assert_eq!(found.continuation(1), " B");

        let text = r#"{"question": "is it", "title": "T", "passage": "It is.", "answer": true}"#;
        let found = read(ChoiceTask::BoolQ, text);
        assert_eq!(found.context, "T -- It is.\nQuestion: is it?\nAnswer:");
        assert_eq!((found.choices.join("/"), found.right), ("no/yes".into(), 1));
        let text = r#"{"question": "is it", "passage": "It is.", "label": 0, "idx": 7}"#;
        let found = read(ChoiceTask::BoolQ, text);
        assert_eq!((found.context.as_str(), found.right), ("It is.\nQuestion: is it?\nAnswer:", 0));

        let text = r#"{"question": "Who?", "choices": ["a dog", "Mia"], "answer": "Mia"}"#;
        let found = read(ChoiceTask::Jsonl, text);
        assert_eq!(found.context, "Question: Who?\nAnswer:");
        assert_eq!((found.continuation(0).as_str(), found.right), (" a dog", 1));
        let text = text.replacen('{', r#"{"context": "Mia sits.", "#, 1);
        let found = read(ChoiceTask::Jsonl, &text);
        assert_eq!(found.context, "Mia sits.\nQuestion: Who?\nAnswer:");
    }

    #[test]
    fn the_right_choice_is_named_by_number_label_or_text() {
        let lists = r#"["x", "y", "B"]"#;
        let columns = r#"{"text": ["x", "y", "B"], "label": ["1", "2", "3"]}"#;
        let rows = r#"[{"label": "A", "text": "x"}, {"label": "B", "text": "y"}]"#;
        let blood = r#"{"text": ["B", "AB"], "label": ["A", "B"]}"#;
        for (choices, answer, right) in [
            (lists, "2", 2),
            (lists, r#""A""#, 0),
            (lists, r#""y""#, 1),
            (columns, r#""3""#, 2),
            (columns, "1", 1),
            (columns, r#""B""#, 2),
            (rows, r#""B""#, 1),
            (blood, r#""B""#, 1),
        ] {
            for field in ["answer", "answerKey"] {
                let text =
                    format!(r#"{{"question": "q", "choices": {choices}, "{field}": {answer}}}"#);
                assert_eq!(read(ChoiceTask::Jsonl, &text).right, right, "{text}");
            }
        }
    }

    #[test]
    fn malformed_lines_are_told() {
        let jsonl = |choices: &str, answer: &str| {
            format!(r#"{{"question": "q", "choices": {choices}, "answer": {answer}}}"#)
        };
        for (line, reason) in [
            (jsonl(r#"["a", "b"]"#, "2"), "`answer` is 2, of 2 choices from 0 on"),
            (jsonl(r#"["a", "b"]"#, r#""c""#), "neither the label nor the text"),
            (jsonl(r#"["B", "b"]"#, r#""B""#), "names several choices"),
            (jsonl(r#"["a", "b"]"#, "null"), "`answer` is neither"),
            (jsonl(r#"["a", " "]"#, "0"), "choice 2 is empty"),
            (jsonl(r#"["a"]"#, "0"), "has 1 choice, not 2 to 26"),
            (jsonl(r#"["a"]"#, r#""B""#), "has 1 choice, not 2 to 26"),
            (jsonl("[]", "0"), "has 0 choices, not 2 to 26"),
            (jsonl(r#"{"text": [], "label": []}"#, r#""A""#), "has 0 choices, not 2 to 26"),
            (jsonl(r#"{"text": ["a", "b"], "label": ["A"]}"#, "0"), "1 label and 2 texts"),
            (jsonl("5", "0"), "`choices` are neither"),
            (r#"{"question": " ", "choices": ["a", "b"], "answer": 0}"#.into(), "is empty"),
            (r#"{"question": 7, "choices": ["a", "b"], "answer": 0}"#.into(), "`question` is"),
            (r#"{"question": "q", "answer": 0}"#.into(), "missing field `choices`"),
            (r#"{"question": "q", "choices": ["a", "b"]}"#.into(), "missing field `answer`"),
            (r#"["q", ["a", "b"], 0]"#.into(), "an example, which is an object"),
        ] {
            refused(ChoiceTask::Jsonl, &line, reason);
        }
        for (line, reason) in [
            (r#"{"question": "q", "answer": true}"#, "missing field `passage`"),
            (r#"{"question": "q", "passage": "p", "answer": "yes"}"#, "neither true nor false"),
            (r#"{"question": "q", "passage": "p", "label": 2}"#, "neither 0 nor 1"),
        ] {
            refused(ChoiceTask::BoolQ, line, reason);
        }
    }

    #[test]
    fn all_questions_of_a_file_are_asked() {
        let dir = tempfile::tempdir().unwrap();
        let line = r#"{"question": "q", "choices": ["a", "b"], "answer": 0}"#;
        let path = dir.path().join("dev.jsonl");
        std::fs::write(&path, format!("\u{feff}{line}\n{line}\n")).unwrap();
        for path in [path.as_path(), dir.path()] {
            assert_eq!(ChoiceTask::Jsonl.read(path).unwrap().len(), 2);
        }
        let error = ChoiceTask::CommonsenseQa.read(dir.path()).unwrap_err();
        assert!(matches!(error, TaskError::NoTaskFile { .. }), "{error}");
        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(ChoiceTask::Jsonl.read(&path), Err(TaskError::Empty { .. })));
    }
}
