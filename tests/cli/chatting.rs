//! Conversations: `generate --chat`, `chat`, and learning what the assistant says.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::{Outcome, Sandbox};

/// Each message on a line that begins with its role; the assistant's ends with the token that ends texts.
const TEMPLATE: &str = "\
{%- for m in messages -%}
{{ m.role + ': ' + m.content }}{{ eos_token if m.role == 'assistant' else '' }}{{ '\\n' }}
{%- endfor -%}
{{ 'assistant: ' if add_generation_prompt else '' }}";

const SETTINGS: &str = r#"{"eos_token": "<|endoftext|>"}"#;

/// A sandbox whose model has a template.
fn chatting() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("model/chat_template.jinja", TEMPLATE);
    sandbox.write("model/tokenizer_config.json", SETTINGS);
    sandbox
}

/// Runs a command with these lines as its input.
fn with_input(sandbox: &Sandbox, line: &str, input: &[u8]) -> Outcome {
    let mut command = sandbox.command(line);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // The command may end before it has read everything.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap().into()
}

fn said(sandbox: &Sandbox, line: &str, input: &str) -> String {
    let outcome = with_input(sandbox, line, input.as_bytes());
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    outcome.stdout
}

#[test]
fn a_prompt_becomes_the_users_message() {
    let sandbox = chatting();
    let line = "generate model --chat --prompt Mia --system Rhyme. --max-new-tokens 4";
    let result = sandbox.json(&format!("{line} --json"));
    assert_eq!(result["rendered"], "system: Rhyme.\nuser: Mia\nassistant: ");
    let text = sandbox.gives(line).stdout;
    assert_eq!(text, format!("{}\n", result["text"].as_str().unwrap()), "only the answer");
    let plain = sandbox.json("generate model --prompt Mia --max-new-tokens 4 --json");
    assert_eq!(plain["rendered"], Value::Null);
}

#[test]
fn a_history_comes_before_the_prompt() {
    let sandbox = chatting();
    let history = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]);
    sandbox.write("before.json", history.to_string());
    let line = "generate model --chat --prompt c --history before.json --max-new-tokens 1 --json";
    let result = sandbox.json(line);
    assert_eq!(result["rendered"], "user: a\nassistant: b<|endoftext|>\nuser: c\nassistant: ");
    // The special token is one token.
    let ids = result["prompt_ids"].as_array().unwrap();
    assert_eq!(ids.iter().filter(|id| **id == 0).count(), 1);
    let system = json!([{"role": "system", "content": "a"}]);
    sandbox.write("before.json", system.to_string());
    sandbox.refuses(&format!("{line} --system b"), "before.json");
    sandbox.write("before.json", "{}");
    sandbox.refuses(line, "before.json: neither an object with `messages` nor a list of messages");
    for (broken, told) in [
        ("[", "before.json: not valid JSON: EOF while parsing a list at line 1 column 1"),
        ("[\n{]", "before.json: not valid JSON: key must be a string at line 2"),
        ("", "before.json: not valid JSON: EOF"),
    ] {
        sandbox.write("before.json", broken);
        sandbox.refuses(line, told);
        sandbox.refuses("chat model --history before.json", told);
    }
}

#[test]
fn a_template_of_ones_own_takes_the_place_of_the_models() {
    let sandbox = Sandbox::new();
    let line = "generate model --chat --prompt Mia --max-new-tokens 1 --json";
    sandbox.refuses(line, "no chat template");
    assert!(sandbox.run(line).stderr.contains("hint: give one with --template FILE"));
    sandbox.refuses("chat model", "no chat template");
    sandbox.write("mine.jinja", "{{ messages[0].content }}{{ loud ~ '' }}");
    let result = sandbox.json(&format!("{line} --template mine.jinja --template-option loud=[1]"));
    assert_eq!(result["rendered"], "Mia[1]");
    sandbox.refuses(&format!("{line} --template none.jinja"), "none.jinja");
    sandbox.write("mine.jinja", "{{ raise_exception('no system') }}");
    sandbox.refuses(&format!("{line} --template mine.jinja"), "no system");
    sandbox.write(
        "mine.jinja",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    );
    sandbox.refuses(&format!("{line} --template mine.jinja"), "far longer");
    sandbox.misused(&format!("{line} --template-option loud=yes"), "quotes");
    sandbox.refuses(
        &format!("{line} --template mine.jinja --template-option messages=[]"),
        "messages",
    );
}

#[test]
fn each_line_is_answered_after_all_that_was_said() {
    let sandbox = chatting();
    let answer = |prompt: &str, history: &Value| {
        sandbox.write("before.json", history.to_string());
        let line = format!(
            "generate model --chat --prompt {prompt} --history before.json --max-new-tokens 5 --json"
        );
        sandbox.json(&line)["text"].as_str().unwrap().to_string()
    };
    let message = |role: &str, content: &str| json!({ "role": role, "content": content });
    let line = "chat model --max-new-tokens 5";
    let first = answer("Mia", &json!([message("user", "x")]));
    let history = json!([message("user", "x")]);
    sandbox.write("before.json", history.to_string());
    assert_eq!(
        said(&sandbox, &format!("{line} --history before.json"), "Mia\n"),
        format!("{first}\n")
    );

    let one = said(&sandbox, line, "Mia\n");
    let one = one.strip_suffix('\n').unwrap();
    let two = answer("Tom", &json!([message("user", "Mia"), message("assistant", one)]));
    assert_eq!(said(&sandbox, line, "Mia\n\nTom"), format!("{one}\n{two}\n"));
    assert_eq!(said(&sandbox, line, "Mia\n/clear\nMia\n"), format!("{one}\n{one}\n"));
    assert_eq!(said(&sandbox, line, "Mia\n/exit\nTom\n"), format!("{one}\n"));
    assert_eq!(said(&sandbox, line, ""), "");
}

/// As in transformers. The two time zones are a day apart.
#[test]
#[cfg(unix)]
fn the_date_of_a_template_is_that_of_the_time_zone() {
    let sandbox = chatting();
    sandbox.write("date.jinja", "{{ strftime_now('%Y-%m-%d') }}");
    let dates = ["AAA12", "BBB-12"].map(|zone| {
        let line =
            "generate model --chat --prompt a --template date.jinja --max-new-tokens 1 --json";
        let outcome = Outcome::of(sandbox.command(line).env("TZ", zone));
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        serde_json::from_str::<Value>(&outcome.stdout).unwrap()["rendered"].clone()
    });
    assert_ne!(dates[0], dates[1]);
}

#[test]
fn a_conversation_that_is_too_long_is_refused_in_one_line() {
    let sandbox = chatting();
    let long = "long ".repeat(600);
    let outcome = with_input(&sandbox, "chat model --max-new-tokens 2", long.as_bytes());
    let message = outcome.complaint(2);
    assert!(message.contains("context of 512"), "{message}");
    assert!(outcome.stderr.contains("hint: /clear"), "{outcome:?}");
    let outcome = with_input(&sandbox, "chat model", b"\xff\n");
    assert!(outcome.complaint(2).contains("UTF-8"));
}

#[test]
#[cfg(unix)]
fn ctrl_c_ends_a_conversation_from_a_pipe() {
    let sandbox = chatting();
    let mut command = sandbox.command("chat model --max-new-tokens 2");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"Mia\n").unwrap();
    // The first byte of an answer: the model is loaded.
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let outcome = Outcome::from(child.wait_with_output().unwrap());
    drop(input);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stderr.contains("error: interrupted"), "{outcome:?}");
}

/// A file of conversations, the last of which has nothing of the assistant.
fn write_conversations(sandbox: &Sandbox) {
    let line = |user: &str, assistant: &str| {
        let turn = |role: &str, content: &str| json!({ "role": role, "content": content });
        let turns = [
            turn("user", user),
            turn("assistant", assistant),
            turn("user", "More?"),
            turn("assistant", "No."),
        ];
        format!("{}\n", json!({ "messages": turns }))
    };
    let only = json!({ "messages": [{ "role": "user", "content": "Alone." }] });
    let lines =
        [line("Hi.", "Hello!"), line("Who?", "Mia."), line("Where?", "Here."), format!("{only}\n")];
    sandbox.write("chats.jsonl", lines.concat());
}

const TRAIN: &str =
    "train model --text chats.jsonl --trainable full --steps 2 --batch-size 1 --seq-len 128 -o run";

#[test]
fn only_what_the_assistant_says_is_learnt() {
    let sandbox = chatting();
    write_conversations(&sandbox);
    let outcome = sandbox.gives(TRAIN);
    assert!(outcome.stderr.contains("4 conversations"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("1 row left out"), "{}", outcome.stderr);
    let tensors = sandbox.tensors("run/tokens");
    assert_eq!(tensors["rows"].shape, [3, 3]);
    // Between the two answers of each conversation.
    assert_eq!(tensors["skipped"].shape, [3, 3]);
    // The rows can be made again.
    sandbox.remove("run/tokens");
    sandbox.gives("train --resume run --steps 3");
}

#[test]
fn conversations_are_text_for_calibration_and_evaluation() {
    let sandbox = chatting();
    write_conversations(&sandbox);
    sandbox.gives(
        "calibrate model --text chats.jsonl --calibration-seq-len 16 --too-little shrink -o seen",
    );
    sandbox.gives(&format!("{TRAIN} --eval-text chats.jsonl --eval-seq-len 16"));
}

#[test]
fn the_perplexity_of_conversations_is_that_of_what_the_assistant_says() {
    let sandbox = chatting();
    write_conversations(&sandbox);
    let line = "eval model --text chats.jsonl --seq-len 128";
    let found = sandbox.json(&format!("{line} --json"));
    assert_eq!((&found["conversations"], &found["rows"]), (&json!(4), &json!(3)));
    // The loss of a step that learns from the same rows.
    sandbox.gives(&TRAIN.replace("--steps 2 --batch-size 1", "--steps 1 --batch-size 3"));
    let metrics = String::from_utf8(sandbox.read("run/metrics.jsonl")).unwrap();
    let step: Value = serde_json::from_str(metrics.lines().next().unwrap()).unwrap();
    let number = |value: &Value| value.as_f64().unwrap();
    let loss = number(&found["nll"]) / number(&found["scored_tokens"]);
    assert!((number(&step["loss"]) / loss - 1.0).abs() < 1e-4, "{step} for {found}");
    assert!((number(&found["perplexity"]).ln() / loss - 1.0).abs() < 1e-9, "{found}");
    let told = sandbox.gives(&format!("{line} --windows 1"));
    assert!(told.stdout.contains("of the assistant (1 row of at most 128 tokens)"), "{told:?}");
    assert!(told.stderr.contains("4 conversations"), "{told:?}");
    for option in ["--bos off", "--stride 8", "--skip 1", "--against model", "--save-logits logits"]
    {
        let named = option.split(' ').next().unwrap();
        sandbox.refuses(&format!("{line} {option}"), named);
    }
    sandbox.refuses(&format!("{line} --text story.txt"), "others conversations");
    sandbox.refuses(&format!("{line} --windows 0"), "at least 1");
    sandbox.remove("model/chat_template.jinja");
    sandbox.refuses(line, "no chat template");
}

/// The model that results from training gets the template that it was trained with.
#[test]
fn conversations_are_read_in_another_template() {
    let sandbox = chatting();
    write_conversations(&sandbox);
    let other = TEMPLATE.replace(": ", " says ");
    sandbox.write("other.jinja", &other);
    let line = "eval model --text chats.jsonl --seq-len 128 --json";
    let own = sandbox.json(line);
    let found = sandbox.json(&format!("{line} --template other.jinja"));
    assert_ne!(found["perplexity"], own["perplexity"]);
    assert_eq!((&own["template"], &found["template"]), (&Value::Null, &json!("other.jinja")));

    sandbox.gives(&format!("{TRAIN} --template other.jinja --dry-run"));
    sandbox.gives(&format!("{TRAIN} --template other.jinja"));
    assert_eq!(sandbox.read("run/model/chat_template.jinja"), other.as_bytes());
    // The rows can be made again without that file.
    sandbox.remove("other.jinja");
    sandbox.remove("run/tokens");
    sandbox.gives("train --resume run --steps 3");
    assert_eq!(sandbox.read("run/model/chat_template.jinja"), other.as_bytes());
    sandbox.misused("train --resume run --template other.jinja", "--template");

    // The model needs none of its own.
    sandbox.write("other.jinja", &other);
    sandbox.remove("model/chat_template.jinja");
    let again = sandbox.json(&format!("{line} --template other.jinja"));
    assert_eq!(again["perplexity"], found["perplexity"]);
    sandbox.gives(
        "calibrate model --text chats.jsonl --template other.jinja --calibration-seq-len 16 \
         --too-little shrink -o seen",
    );
    sandbox.refuses(&format!("{TRAIN}2 --template nowhere.jinja"), "nowhere.jinja");
}

#[test]
fn conversations_that_are_all_too_long_are_told_with_what_they_need() {
    let sandbox = chatting();
    write_conversations(&sandbox);
    for line in [TRAIN, "eval model --text chats.jsonl --seq-len 128"] {
        let short = line.replace("--seq-len 128", "-q --seq-len 2");
        sandbox.refuses(&short, "chats.jsonl: the assistant says nothing within 2 tokens");
        let said = sandbox.run(&short).stderr;
        let (_, needed) = said.split_once("hint: --seq-len ").unwrap_or_else(|| panic!("{said}"));
        let needed = needed.split(' ').next().unwrap();
        let told = sandbox.gives(&line.replace("128", needed));
        assert!(told.stderr.contains("4 conversations"), "{told:?}");
        // The shortest one is whole.
        assert!(!told.stderr.contains("3 rows cut"), "{told:?}");
    }
    sandbox.edit_json("model/config.json", |config| config["max_position_embeddings"] = 4.into());
    let long = "eval model --text chats.jsonl --seq-len 2";
    sandbox.refuses(long, "within 2 tokens");
    assert!(sandbox.run(long).stderr.contains("more than the model's context of 4"));
    let only = json!({ "messages": [{ "role": "user", "content": "Alone." }] });
    sandbox.write("alone.jsonl", format!("{only}\n"));
    sandbox.refuses("eval model --text alone.jsonl", "alone.jsonl: the assistant says nothing");
}

#[test]
fn conversations_without_a_template_are_refused_before_work() {
    let sandbox = Sandbox::new();
    write_conversations(&sandbox);
    sandbox.refuses(TRAIN, "no chat template");
    assert!(sandbox.run(TRAIN).stderr.contains("chat_template.jinja"));
    // Also before a model is compressed, which warns of the result.
    let measured = TRAIN.replace("--text chats.jsonl", "--text story.txt --err 0.5");
    for options in ["--eval-text chats.jsonl", "--eval-text story.txt --watch-text chats.jsonl"] {
        let outcome = sandbox.run(&format!("{measured} {options}"));
        assert!(outcome.complaint(2).contains("no chat template"), "{options}");
        assert!(outcome.stderr.starts_with("error: "), "{}", outcome.stderr);
    }
    sandbox.write("chats.jsonl", "{\"messages\": [{\"role\": \"user\"}]}\n{\"messages\": 3}\n");
    sandbox.refuses(TRAIN, "line 2");
}
