//! Questions with choices: what `eval --choices` says, and what it refuses.

use serde_json::Value;

use crate::support::Sandbox;

const QUESTIONS: &str = r#"{"question": "Who has a red ball?", "choices": ["Mia", "The old dog"], "answer": "Mia"}
{"question": "Where is it?", "choices": {"label": ["A", "B"], "text": ["in the tree", "at home"]}, "answerKey": "B"}
{"context": "Mia sat by the tree.", "question": "Where did she sit?", "choices": ["here", "there", "by the tree"], "answer": 2}
"#;

const EVAL: &str = "--choices jsonl --data questions.jsonl";

fn asked() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("questions.jsonl", QUESTIONS);
    sandbox
}

fn log_likelihoods(found: &Value) -> Vec<f64> {
    let answers = found["answers"].as_array().unwrap();
    let of = |answer: &Value| answer["log_likelihoods"].as_array().unwrap().clone();
    answers.iter().flat_map(of).map(|sum| sum.as_f64().unwrap()).collect()
}

#[test]
fn questions_are_answered_by_the_likeliest_choice() {
    let sandbox = asked();
    let found = sandbox.json(&format!("eval model {EVAL} --json"));
    let answers = found["answers"].as_array().unwrap();
    let expected: Vec<_> = answers.iter().map(|answer| answer["expected"].as_u64()).collect();
    assert_eq!(expected, [Some(0), Some(1), Some(2)]);
    let right = answers.iter().filter(|answer| answer["right"] == true).count();
    assert_eq!(found["right"].as_u64(), Some(right as u64));
    assert!((found["acc"]["value"].as_f64().unwrap() - right as f64 / 3.0).abs() < 1e-12);
    for answer in answers {
        let sums: Vec<f64> = log_likelihoods(&serde_json::json!({ "answers": [answer] }));
        let likeliest = answer["answer"].as_u64().unwrap() as usize;
        assert!(sums.iter().all(|sum| *sum < 0.0 && *sum <= sums[likeliest]), "{answer}");
    }
    assert_eq!((&found["questions"], &found["truncated"]), (&3.into(), &0.into()));

    let told = sandbox.gives(&format!("eval model {EVAL}")).stdout;
    for part in ["acc ", " ± ", " on jsonl: ", " of 3 questions", "acc_norm "] {
        assert!(told.contains(part), "{told}");
    }
    let first = sandbox.json(&format!("eval model {EVAL} --limit 1 --json"));
    assert_eq!(first["answers"], Value::from(vec![answers[0].clone()]));
    assert!(first["acc"]["standard_error"].is_null());
}

#[test]
fn models_of_every_kind_answer() {
    let sandbox = asked();
    let dense = log_likelihoods(&sandbox.json(&format!("eval model {EVAL} --json")));
    sandbox.gives("export model --gguf model.gguf");
    sandbox.gives("compress model --err 0.5 -o low");
    let same = log_likelihoods(&sandbox.json(&format!("eval model.gguf {EVAL} --json")));
    for (same, dense) in same.iter().zip(&dense) {
        assert!((same - dense).abs() < 1e-3 * dense.abs(), "{same} for {dense}");
    }
    let low = log_likelihoods(&sandbox.json(&format!("eval low {EVAL} --record --json")));
    assert_eq!(low.len(), dense.len());
    assert_ne!(low, dense);
    let card = String::from_utf8(sandbox.read("low/README.md")).unwrap();
    assert!(card.contains("jsonl, 3 questions, by log-likelihood"), "{card}");
}

#[test]
fn wrong_questions_are_told_with_their_line() {
    let sandbox = asked();
    let malformed = format!("{QUESTIONS}{{\"question\": \"Who?\", \"answer\": 0}}\n");
    sandbox.write("bad.jsonl", malformed);
    sandbox.refuses("eval model --choices jsonl --data bad.jsonl", "bad.jsonl: line 4: missing");
    for (choices, told) in [("[]", "0 choices"), (r#"["a"]"#, "1 choice")] {
        let line = format!(r#"{{"question": "q", "choices": {choices}, "answer": 0}}"#);
        sandbox.write("few.jsonl", format!("{QUESTIONS}{line}\n"));
        let told = format!("few.jsonl: line 4: the question has {told}, not 2 to 26");
        sandbox.refuses("eval model --choices jsonl --data few.jsonl", &told);
    }
    sandbox.refuses("eval model --choices boolq --data questions.jsonl", "questions.jsonl: line 1");
    sandbox.refuses("eval model --choices jsonl --data nowhere", "nowhere");
    sandbox.refuses(&format!("eval model {EVAL} --limit 0"), "--windows");
    sandbox.write("blank.jsonl", "\n");
    sandbox.refuses("eval model --choices jsonl --data blank.jsonl", "no examples");
    let long = "word ".repeat(600);
    let line =
        format!("{{\"question\": \"q\", \"choices\": [\"a\", \"{long}\"], \"answer\": 0}}\n");
    sandbox.write("long.jsonl", line);
    sandbox.refuses("eval model --choices jsonl --data long.jsonl", "question 1: choice 2 has");
}

#[test]
fn options_on_texts_are_refused_beside_choices() {
    let sandbox = asked();
    for option in [
        "--text story.txt",
        "--task jsonl",
        "--seq-len 32",
        "--skip 1",
        "--against model",
        "--save-logits logits",
    ] {
        let named = option.split(' ').next().unwrap();
        sandbox.misused(&format!("eval model {EVAL} {option}"), named);
    }
    sandbox.misused("eval model --choices jsonl", "--data");
    sandbox.misused("eval model --data questions.jsonl", "--choices");
}
