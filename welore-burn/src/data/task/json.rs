use std::fmt;
use std::marker::PhantomData;
use std::path::Path;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::dataset::TaskExample;
use super::error::TaskError;
use crate::words::number_of;

/// An example, and the question that decides whether it trains or tests if its file is divided.
#[derive(Debug)]
pub(super) struct Parsed {
    pub question: String,
    pub example: TaskExample,
}

/// The fields of an example in a file.
pub(super) trait Record: DeserializeOwned {
    /// What an example becomes.
    type Example: Example;

    /// Checks the fields against each other and writes the texts of the example.
    fn parsed<E: Error>(self) -> Result<Self::Example, E>;
}

/// What an example of a file becomes.
pub(super) trait Example: Sized {
    /// Checks what has to hold for the examples of every task.
    fn checked<E: Error>(self) -> Result<Self, E>;
}

impl Example for Parsed {
    fn checked<E: Error>(self) -> Result<Self, E> {
        if self.question.trim().is_empty() {
            return Err(E::custom("the question is empty"));
        }
        if self.example.response.trim().is_empty() {
            return Err(E::custom("the answer is empty"));
        }
        Ok(self)
    }
}

/// One example per line; blank lines are skipped.
pub(super) fn lines<R: Record>(path: &Path, text: &str) -> Result<Vec<R::Example>, TaskError> {
    if text.trim_start().starts_with('[') {
        return Err(TaskError::Array { path: path.into() });
    }
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let parse = |(number, line): (usize, &str)| {
        serde_json::from_str::<Checked<R>>(line)
            .map(|checked| checked.0)
            .map_err(|error| TaskError::malformed(path, number + 1, &error))
    };
    lines.map(parse).collect()
}

/// Examples in one array.
pub(super) fn array<R: Record>(path: &Path, text: &str) -> Result<Vec<R::Example>, TaskError> {
    whole(path, text).map(examples_of::<R>)
}

/// Examples in the array `examples` of one object.
pub(super) fn object<R: Record>(path: &Path, text: &str) -> Result<Vec<R::Example>, TaskError> {
    whole(path, text).map(|Object { examples }: Object<R>| examples_of(examples))
}

fn whole<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, TaskError> {
    serde_json::from_str(text).map_err(|error| TaskError::malformed(path, error.line(), &error))
}

fn examples_of<R: Record>(checked: Vec<Checked<R>>) -> Vec<R::Example> {
    checked.into_iter().map(|checked| checked.0).collect()
}

#[derive(Deserialize)]
#[serde(bound(deserialize = "R: Record"), expecting = "an object with `examples`")]
struct Object<R: Record> {
    examples: Vec<Checked<R>>,
}

/// An example that is checked while the parser is still at it, so that an error has its line.
struct Checked<R: Record>(R::Example);

impl<'de, R: Record> Deserialize<'de> for Checked<R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ExampleVisitor(PhantomData))
    }
}

struct ExampleVisitor<R>(PhantomData<R>);

impl<'de, R: Record> Visitor<'de> for ExampleVisitor<R> {
    type Value = Checked<R>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an example, which is an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Checked<R>, A::Error> {
        let record = R::deserialize(MapAccessDeserializer::new(map))?;
        let example = record.parsed::<A::Error>()?.checked::<A::Error>()?;
        Ok(Checked(example))
    }
}

/// Choices with their scores, in the file's order, which a map would lose.
pub(super) struct Scores(Vec<(String, f64)>);

/// The most choices, one for each letter.
pub(super) const MOST_CHOICES: usize = 26;

impl Scores {
    /// The choices, and which of them has the highest score.
    pub fn best<E: Error>(&self) -> Result<(Vec<&str>, usize), E> {
        let Self(scores) = self;
        if !(2..=MOST_CHOICES).contains(&scores.len()) {
            let found = number_of(scores.len(), "choice");
            return Err(E::custom(format_args!(
                "`target_scores` has {found}, not 2 to {MOST_CHOICES}"
            )));
        }
        let highest = scores.iter().map(|(_, score)| *score).fold(f64::NEG_INFINITY, f64::max);
        let mut best = (0..scores.len()).filter(|n| scores[*n].1 == highest);
        match (best.next(), best.next()) {
            (Some(only), None) => {
                Ok((scores.iter().map(|(choice, _)| choice.trim()).collect(), only))
            }
            _ => Err(E::custom("several choices of `target_scores` have the highest score")),
        }
    }
}

impl<'de> Deserialize<'de> for Scores {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ScoresVisitor)
    }
}

struct ScoresVisitor;

impl<'de> Visitor<'de> for ScoresVisitor {
    type Value = Scores;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object of choices and their scores")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scores, A::Error> {
        let mut scores = Vec::new();
        while let Some(score) = map.next_entry()? {
            scores.push(score);
        }
        Ok(Scores(scores))
    }
}

#[cfg(test)]
mod tests {
    use super::super::formats::parse;
    use super::super::kind::TaskKind;
    use super::*;

    #[track_caller]
    fn refused(kind: TaskKind, text: &str, line: usize, reason: &str) {
        match parse(kind, Path::new("file"), text) {
            Err(TaskError::Malformed { line: at, reason: why, .. }) => {
                assert_eq!(at, line, "{why}");
                assert!(why.contains(reason), "{why}");
                assert!(!why.contains(" column "), "{why}");
            }
            other => panic!("not refused as malformed: {other:?}"),
        }
    }

    const OBJECTS: &str = r#"{
  "name": "objects",
  "examples": [
    {
      "input": "Bob and Eve swap. Bob has the ",
      "target_scores": {"red ball.": 0, "blue ball.": 1}
    }
  ]
}"#;

    #[test]
    fn malformed_lines_are_told() {
        let good = r#"{"prompt": "a", "response": "b"}"#;
        for (bad, reason) in [
            (r#"{"prompt": "a"}"#, "missing field `response`"),
            (r#"{"prompt": "a", "resp"#, "EOF"),
            (r#"{"prompt": "a", "response": 3}"#, "invalid type: integer `3`"),
            (r#"{"prompt": "\n", "response": "b"}"#, "the question is empty"),
            (r#"{"prompt": "a", "response": " "}"#, "the answer is empty"),
            (r#"["a", "b"]"#, "expected an example"),
            ("null", "expected an example"),
        ] {
            refused(TaskKind::Jsonl, &format!("{good}\n\n{bad}\n{good}\n"), 3, reason);
        }
    }

    #[test]
    fn arrays_in_place_of_lines_are_told() {
        let example = r#"{"prompt": "a", "response": "b"}"#;
        for text in [format!("[{example}]"), format!("\n[\n  {example},\n"), "[]".into()] {
            for kind in [TaskKind::Jsonl, TaskKind::CommonsenseQa, TaskKind::BoolQ] {
                let error = parse(kind, Path::new("file"), &text).unwrap_err();
                assert!(matches!(error, TaskError::Array { .. }), "{error}");
                assert!(error.to_string().contains("JSONL"), "{error}");
            }
        }
        refused(TaskKind::Jsonl, &format!("{example}\n[{example}]\n"), 2, "expected an example");
    }

    #[test]
    fn impossible_choices_are_told() {
        let labelled = |labels: [&str; 2], key: &str| {
            let [a, b] = labels.map(|l| format!(r#"{{"label": "{l}", "text": "t"}}"#));
            let question = format!(r#"{{"stem": "s", "choices": [{a}, {b}]}}"#);
            format!(r#"{{"answerKey": "{key}", "question": {question}}}"#)
        };
        let kind = TaskKind::CommonsenseQa;
        refused(kind, &labelled(["A", "B"], "C"), 1, "`answerKey` is not the label of a choice");
        refused(kind, &labelled(["B", "A"], "A"), 1, "labelled in order from A");
        refused(kind, &labelled(["A", "A"], "A"), 1, "labelled in order from A");
        refused(kind, &labelled(["A", "B"], "AB"), 1, "expected a character");
        refused(kind, r#"{"answerKey": "A", "question": 5}"#, 1, "expected an object");
        let (kind, scores) = (TaskKind::ObjectTracking, r#"{"red ball.": 0, "blue ball.": 1}"#);
        for (bad, line, reason) in [
            (r#"{"red": 1, "blue": 1}"#, 7, "several choices"),
            (r#"{"red": 1}"#, 7, "has 1 choice,"),
            (r#"{"red": 1, "Red.": 0}"#, 7, "cannot be told apart"),
            (r#"{"red": "1", "blue": 0}"#, 6, "invalid type: string"),
            (r#"["red"]"#, 6, "expected an object of choices"),
        ] {
            refused(kind, &OBJECTS.replace(scores, bad), line, reason);
        }
        refused(TaskKind::StrategyQa, OBJECTS, 7, "neither yes nor no");
    }

    #[test]
    fn lines_of_one_large_value_are_told() {
        let text = "[\n{\n\"Body\": \"b\",\n\"Question\": \"q\",\n\"Answer\": 1\n}\n]";
        refused(TaskKind::Svamp, &text.replace('1', "\"one\""), 5, "invalid type: string");
        refused(TaskKind::Svamp, &text.replace("\n]", ""), 6, "EOF");
        refused(TaskKind::Svamp, &text.replace("\"q\",", "\"q\""), 5, "expected `,`");
        refused(TaskKind::Svamp, &text.replace("Answer", "answer"), 6, "missing field `Answer`");
        refused(TaskKind::Svamp, "{}", 1, "expected a list");
        refused(TaskKind::CoinFlip, "{\n\"more\": []\n}", 3, "missing field `examples`");
        let heads = "{\"examples\": [\n{\"question\": \"q\",\n\"answer\": \"heads\"}]}";
        refused(TaskKind::CoinFlip, heads, 3, "neither yes nor no");
        let long = text.replace('1', &format!("\"{}\"", "é".repeat(1000)));
        refused(TaskKind::Svamp, &long, 5, "éé...");
    }
}
