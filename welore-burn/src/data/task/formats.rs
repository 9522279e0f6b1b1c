use std::path::Path;

use serde::Deserialize;
use serde::de::Error;

use super::answer::{Answer, truth};
use super::dataset::TaskExample;
use super::error::TaskError;
use super::json::{self, MOST_CHOICES, Parsed, Record, Scores};
use super::kind::TaskKind;

/// Parses the text of a file into its examples, in the file's order.
pub(super) fn parse(kind: TaskKind, path: &Path, text: &str) -> Result<Vec<Parsed>, TaskError> {
    match kind {
        TaskKind::CommonsenseQa => json::lines::<CommonsenseQa>(path, text),
        TaskKind::Svamp => json::array::<Svamp>(path, text),
        TaskKind::BoolQ => json::lines::<BoolQ>(path, text),
        TaskKind::CoinFlip => json::object::<CoinFlip>(path, text),
        TaskKind::ObjectTracking => json::object::<ObjectTracking>(path, text),
        TaskKind::StrategyQa => json::object::<StrategyQa>(path, text),
        TaskKind::Jsonl => json::lines::<Jsonl>(path, text),
    }
}

/// A prompt: the instruction, titled texts, and the title after which the model responds.
fn prompt(instruction: &str, texts: &[(&str, &str)]) -> String {
    let texts: String =
        texts.iter().map(|(title, text)| format!("### {title}:\n{}\n\n", text.trim())).collect();
    format!("{instruction}\n\n{texts}### Response:\n")
}

fn parsed(question: String, prompt: String, response: String, answer: Answer) -> Parsed {
    Parsed { question, example: TaskExample { prompt, response, answer } }
}

const YES_OR_NO: &str = "Below is a question. Answer it with yes or no.";

fn yes_or_no(question: String, yes: bool) -> Parsed {
    let response = if yes { "yes" } else { "no" };
    let prompt = prompt(YES_OR_NO, &[("Question", &question)]);
    parsed(question, prompt, response.into(), Answer::Truth(yes))
}

#[derive(Deserialize)]
struct CommonsenseQa {
    question: Question,
    #[serde(rename = "answerKey")]
    answer_key: char,
}

#[derive(Deserialize)]
struct Question {
    stem: String,
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    label: char,
    text: String,
}

impl Record for CommonsenseQa {
    type Example = Parsed;

    fn parsed<E: Error>(self) -> Result<Parsed, E> {
        let Self { question: Question { stem, choices }, answer_key } = self;
        let in_order = choices.iter().zip('A'..='Z').all(|(choice, label)| choice.label == label);
        if !in_order || !(2..=MOST_CHOICES).contains(&choices.len()) {
            return Err(E::custom(format_args!(
                "`choices` must be 2 to {MOST_CHOICES}, labelled in order from A"
            )));
        }
        let right = choices.iter().find(|choice| choice.label == answer_key);
        let (Some(Choice { label, .. }), Some(last)) = (right, choices.last()) else {
            return Err(E::custom("`answerKey` is not the label of a choice"));
        };
        let answer = Answer::Letter { right: *label, last: last.label };
        let mut asked = stem.trim().to_string();
        for Choice { label, text } in &choices {
            asked.push_str(&format!("\n({label}) {}", text.trim()));
        }
        let prompt = prompt(
            "Below is a question with choices. Answer it with the letter of the best choice.",
            &[("Question", &asked)],
        );
        Ok(parsed(stem, prompt, label.to_string(), answer))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Svamp {
    body: String,
    question: String,
    answer: f64,
}

impl Record for Svamp {
    type Example = Parsed;

    fn parsed<E: Error>(self) -> Result<Parsed, E> {
        let question = format!("{} {}", self.body.trim(), self.question.trim());
        let prompt =
            prompt("Below is a word problem. Answer it with a number.", &[("Question", &question)]);
        Ok(parsed(question, prompt, self.answer.to_string(), Answer::Number(self.answer)))
    }
}

#[derive(Deserialize)]
struct BoolQ {
    question: String,
    passage: String,
    answer: bool,
}

impl Record for BoolQ {
    type Example = Parsed;

    fn parsed<E: Error>(self) -> Result<Parsed, E> {
        // The questions are search queries, without a question mark.
        let asked = format!("{}?", self.question.trim().trim_end_matches('?'));
        let prompt = prompt(
            "Below is a passage and a question about it. Answer it with True or False.",
            &[("Passage", &self.passage), ("Question", &asked)],
        );
        let response = if self.answer { "True" } else { "False" };
        Ok(parsed(self.question, prompt, response.into(), Answer::Truth(self.answer)))
    }
}

#[derive(Deserialize)]
struct CoinFlip {
    question: String,
    answer: String,
}

impl Record for CoinFlip {
    type Example = Parsed;

    fn parsed<E: Error>(self) -> Result<Parsed, E> {
        match truth(self.answer.trim()) {
            Some(yes) => Ok(yes_or_no(self.question, yes)),
            None => Err(E::custom("`answer` is neither yes nor no")),
        }
    }
}

#[derive(Deserialize)]
struct StrategyQa {
    input: String,
    target_scores: Scores,
}

impl Record for StrategyQa {
    type Example = Parsed;

    fn parsed<E: Error>(self) -> Result<Parsed, E> {
        let (choices, best) = self.target_scores.best::<E>()?;
        match truth(choices[best]) {
            Some(yes) => Ok(yes_or_no(self.input, yes)),
            None => Err(E::custom("the best choice of `target_scores` is neither yes nor no")),
        }
    }
}

#[derive(Deserialize)]
struct ObjectTracking {
    input: String,
    target_scores: Scores,
}

impl Record for ObjectTracking {
    type Example = Parsed;

    fn parsed<E: Error>(self) -> Result<Parsed, E> {
        let (choices, best) = self.target_scores.best::<E>()?;
        let Some(answer) = Answer::choice(&choices, best) else {
            return Err(E::custom("the choices of `target_scores` cannot be told apart"));
        };
        // The story breaks off where one of the choices continues it.
        let prompt = prompt(
            "Below is a story and choices of how it ends. Answer with the choice that is true.",
            &[("Story", &self.input), ("Choices", &choices.join("\n"))],
        );
        Ok(parsed(self.input, prompt, choices[best].to_string(), answer))
    }
}

#[derive(Deserialize)]
struct Jsonl {
    prompt: String,
    response: String,
}

impl Record for Jsonl {
    type Example = Parsed;

    fn parsed<E: Error>(self) -> Result<Parsed, E> {
        let answer = Answer::Text(self.response.clone());
        Ok(parsed(self.prompt.clone(), self.prompt, self.response, answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The prompt and the response of the only example in a text.
    #[track_caller]
    fn read(kind: TaskKind, text: &str) -> (String, String) {
        let mut examples = parse(kind, Path::new("file"), text).unwrap();
        assert_eq!(examples.len(), 1);
        let TaskExample { prompt, response, answer } = examples.remove(0).example;
        assert!(answer.is_given_by(&response), "the response {response:?} is right");
        (prompt, response)
    }

    #[test]
    fn lettered_choices() {
        let text = r#"{"answerKey": "B", "id": "1", "question": {"stem": "Where? ", "choices":
            [{"label": "A", "text": "bank"}, {"label": "B", "text": "mall"}]}}"#;
        let (prompt, response) = read(TaskKind::CommonsenseQa, &text.replace('\n', ""));
        assert!(prompt.starts_with("Below is a question with choices. "), "{prompt}");
        let end = "\n\n### Question:\nWhere?\n(A) bank\n(B) mall\n\n### Response:\n";
        assert!(prompt.ends_with(end), "{prompt}");
        assert_eq!(response, "B");
    }

    #[test]
    fn numbers_have_no_decimals_that_say_nothing() {
        for (answer, response) in [("51.0", "51"), ("51", "51"), ("-2.5", "-2.5")] {
            let text = format!(
                r#"[{{"ID": "1", "Body": "It costs 7 ", "Question": "What?", "Answer": {answer}}}]"#
            );
            let (prompt, read) = read(TaskKind::Svamp, &text);
            assert!(prompt.contains("\nIt costs 7 What?\n"), "{prompt}");
            assert_eq!(read, response);
        }
    }

    #[test]
    fn passages_come_before_their_question() {
        let text = r#"{"question": "is it", "title": "It", "answer": false, "passage": "It is."}"#;
        let (prompt, response) = read(TaskKind::BoolQ, text);
        let end = "\n\n### Passage:\nIt is.\n\n### Question:\nis it?\n\n### Response:\n";
        assert!(prompt.ends_with(end), "{prompt}");
        assert_eq!(response, "False");
    }

    #[test]
    fn yes_and_no_come_as_words_and_as_scores() {
        let coin = r#"{"examples": [{"question": "Heads?", "answer": "Yes"}]}"#;
        let strategy = r#"{"examples": [{"input": "Heads?", "target": "Yes. It is.",
            "target_scores": {"Yes": 1, "No": 0}}]}"#;
        let read_coin = read(TaskKind::CoinFlip, coin);
        assert_eq!(read_coin, read(TaskKind::StrategyQa, strategy));
        assert!(read_coin.0.ends_with("\n\n### Question:\nHeads?\n\n### Response:\n"));
        assert_eq!(read_coin.1, "yes");
    }

    #[test]
    fn choices_keep_the_order_of_the_file() {
        let text = r#"{"examples": [{"input": "Bob has the ",
            "target_scores": {"red ball.": 0, "blue ball.": 1}}]}"#;
        let (prompt, response) = read(TaskKind::ObjectTracking, text);
        let end = "\nBob has the\n\n### Choices:\nred ball.\nblue ball.\n\n### Response:\n";
        assert!(prompt.ends_with(end), "{prompt}");
        assert_eq!(response, "blue ball.");
    }

    #[test]
    fn texts_of_your_own_stay_as_they_are() {
        let text = r#"{"prompt": " Q:\n", "response": " a\n", "more": [1]}"#;
        assert_eq!(read(TaskKind::Jsonl, text), (" Q:\n".to_string(), " a\n".to_string()));
    }
}
