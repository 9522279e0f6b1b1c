//! Chat templates: what transformers renders, what a model learns of it, and templates that mean harm. Templates and
//! expected texts are in `fixtures/chat`; `make_chat.py` makes the texts.

use std::fs;
use std::num::NonZeroUsize;
use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use welore_burn::data::{
    ChatError, ChatOptions, ChatTemplate, Conversation, TemplateValue, TextTokenizer, TokenRow,
    TokenRows,
};
use welore_burn::eval::{EvalError, perplexity_of_rows};
use welore_burn::model::{GenerateOptions, Generator, Sampler, generate};
use welore_burn::train::{Batch, losses};

use crate::{device, fixture, tiny_llama};

/// What even the worst template may take.
const LONGEST: Duration = Duration::from_secs(10);

const SPECIAL: &str =
    r#"{"bos_token": "<s>", "eos_token": {"content": "</s>"}, "add_bos_token": true}"#;

/// A model directory with this template.
fn with_template(source: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("tokenizer_config.json"), SPECIAL).unwrap();
    fs::write(dir.path().join("chat_template.jinja"), source).unwrap();
    dir
}

fn compiled(source: &str) -> Result<ChatTemplate, ChatError> {
    ChatTemplate::open(with_template(source).path())
}

fn known(name: &str) -> ChatTemplate {
    let path = fixture("chat").join(format!("{name}.jinja"));
    compiled(&fs::read_to_string(path).unwrap()).unwrap()
}

fn conversation(text: &str) -> Conversation {
    Conversation::from_json(text).unwrap()
}

fn turns() -> Conversation {
    conversation(
        r#"[{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hé!"},
            {"role": "user", "content": "Bye."}, {"role": "assistant", "content": "See you."}]"#,
    )
}

fn options(variables: &Value) -> ChatOptions {
    let value = |value: &Value| TemplateValue::from_json(&value.to_string()).unwrap();
    let variables = variables.as_object().unwrap().iter();
    let variables = variables.map(|(name, v)| (name.clone(), value(v))).collect();
    ChatOptions { variables, fixed_date: false }
}

fn rendered(source: &str) -> Result<String, ChatError> {
    compiled(source)?.prompt(&turns(), &ChatOptions::default())
}

#[test]
fn known_templates_give_the_texts_of_transformers() {
    let expected = fs::read_to_string(fixture("chat/expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&expected).unwrap();
    for (name, shapes) in expected.as_object().unwrap() {
        let template = known(name);
        for (shape, expected) in shapes.as_object().unwrap() {
            let conversation = conversation(expected["conversation"].as_str().unwrap());
            let options = options(&expected["variables"]);
            let text = match expected["add_generation_prompt"] == true {
                true => template.prompt(&conversation, &options),
                false => template.text(&conversation, &options),
            };
            match expected["text"].as_str() {
                Some(expected) => assert_eq!(text.unwrap(), expected, "{name}, {shape}"),
                None => assert!(text.is_err(), "{name}, {shape}: {text:?}"),
            }
        }
    }
}

#[test]
fn what_the_assistant_writes_is_what_transformers_marks() {
    let expected = fs::read_to_string(fixture("chat/expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&expected).unwrap();
    for name in ["smollm3", "marked"] {
        let template = known(name);
        assert!(template.marks_answers());
        let expected = &expected[name]["turns"];
        let conversation = conversation(expected["conversation"].as_str().unwrap());
        let lessons = template.lessons(&conversation, &options(&expected["variables"])).unwrap();
        let [lesson] = &lessons[..] else { panic!("{lessons:?}") };
        assert_eq!(lesson.text, expected["text"].as_str().unwrap());
        // Python counts characters.
        let characters = |span: &Range<usize>| {
            [span.start, span.end].map(|end| lesson.text[..end].chars().count() as u64)
        };
        let found: Vec<[u64; 2]> = lesson.learnt.iter().map(characters).collect();
        assert_eq!(serde_json::to_value(found).unwrap(), expected["spans"], "{name}");
    }
}

/// The texts that are learnt of each lesson.
fn learnt(name: &str) -> Result<Vec<Vec<String>>, ChatError> {
    let lessons = known(name).lessons(&turns(), &ChatOptions::default())?;
    let texts = lessons.into_iter().map(|lesson| {
        lesson.learnt.into_iter().map(|span| lesson.text[span].to_string()).collect()
    });
    Ok(texts.collect())
}

#[test]
fn without_marks_an_answer_is_what_is_added_to_the_prompt() {
    for name in ["chatml", "qwen25"] {
        assert_eq!(learnt(name).unwrap(), [["Hé!<|im_end|>\n", "See you.<|im_end|>\n"]], "{name}");
    }
    assert_eq!(learnt("mistral").unwrap(), [[" Hé!</s>", " See you.</s>"]]);
}

#[test]
fn a_template_that_rewrites_earlier_answers_gives_a_lesson_for_each() {
    let thought = |answer: &str| vec![format!("<think>\n\n</think>\n\n{answer}<|im_end|>\n")];
    assert_eq!(learnt("qwen3").unwrap(), [thought("Hé!"), thought("See you.")]);
}

#[test]
fn an_answer_that_does_not_follow_its_prompt_is_refused() {
    let source = "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}?{% endif %}";
    let error = compiled(source).unwrap().lessons(&turns(), &ChatOptions::default()).unwrap_err();
    assert!(matches!(error, ChatError::Rewritten { message: 2, .. }), "{error}");
}

#[test]
fn tokens_are_learnt_if_any_byte_of_them_is() {
    let tokenizer = TextTokenizer::open(fixture("tiny-llama")).unwrap();
    let text = "Mia has a red ball. Tom has a dog.";
    let whole = tokenizer.encode(text).unwrap();
    let (tokens, spans) = tokenizer.encode_spans(text, &[0..3, 19..text.len()]).unwrap();
    assert_eq!(tokens, whole);
    assert_eq!(spans.len(), 2, "{spans:?}");
    assert_eq!((spans[0].start, spans[1].end), (0, tokens.len()));
    assert_eq!(tokenizer.decode(&tokens[spans[0].clone()]).unwrap(), "Mia");
    assert_eq!(tokenizer.decode(&tokens[spans[1].clone()]).unwrap(), " Tom has a dog.");
    assert!(tokenizer.encode_spans(text, &[]).unwrap().1.is_empty());
    assert!(tokenizer.encode_spans(text, &[1..1, 21..21]).unwrap().1.is_empty());
}

#[test]
fn templates_are_found_where_transformers_finds_them() {
    let dir = TempDir::new().unwrap();
    let write = |name: &str, content: &str| fs::write(dir.path().join(name), content).unwrap();
    let said = || ChatTemplate::open(dir.path())?.prompt(&turns(), &ChatOptions::default());
    assert!(matches!(said(), Err(ChatError::Missing { .. })));
    write("chat_template.json", r#"{"chat_template": "processor"}"#);
    assert_eq!(said().unwrap(), "processor");
    let named = r#"{"chat_template": [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]}"#;
    write("tokenizer_config.json", named);
    assert_eq!(said().unwrap(), "yes");
    write("tokenizer_config.json", r#"{"chat_template": "settings {{ eos_token }}"}"#);
    write("special_tokens_map.json", r#"{"eos_token": "<end>"}"#);
    assert_eq!(said().unwrap(), "settings <end>");
    write("chat_template.jinja", "file");
    assert_eq!(said().unwrap(), "file");
    for wrong in ["[", r#"{"chat_template": 1}"#, r#"{"chat_template": []}"#] {
        fs::remove_file(dir.path().join("chat_template.jinja")).ok();
        write("tokenizer_config.json", wrong);
        assert!(matches!(said(), Err(ChatError::Malformed { .. })), "{wrong}");
    }
}

#[test]
fn what_the_conversation_decides_is_no_option() {
    let options = options(&serde_json::json!({ "messages": [] }));
    let error = known("chatml").prompt(&turns(), &options).unwrap_err();
    assert!(matches!(error, ChatError::Variable { .. }), "{error}");
}

#[test]
fn texts_to_learn_from_are_the_same_on_every_day() {
    let template = compiled("{{ strftime_now('%d %b %Y') }}").unwrap();
    let text = |fixed_date| {
        let options = ChatOptions { fixed_date, ..ChatOptions::default() };
        template.text(&turns(), &options).unwrap()
    };
    assert_eq!(text(true), "26 Jul 2024");
    assert_ne!(text(false), "26 Jul 2024", "the date of an earlier day");
}

#[test]
fn a_template_says_why_it_refuses() {
    let error = rendered("{{ raise_exception('only\nduets') }}").unwrap_err();
    assert!(matches!(&error, ChatError::Refused { message, .. } if message == "only\nduets"));
    let nested = "{% macro f() %}{{ raise_exception('inside') }}{% endmacro %}{{ f() }}";
    assert!(matches!(rendered(nested), Err(ChatError::Refused { .. })));
}

#[test]
fn json_is_pythons() {
    let json = |call: &str| {
        let value = r#"{"b": [1, 2.5, none, true, [], {}], "a": "<ü>\n\"'🙂"}"#;
        rendered(&format!("{{{{ {value} | {call} }}}}")).unwrap()
    };
    assert_eq!(json("tojson"), r#"{"b": [1, 2.5, null, true, [], {}], "a": "<ü>\n\"'🙂"}"#);
    assert_eq!(
        json("tojson(ensure_ascii=true, sort_keys=true, separators=(',', ':'))"),
        r#"{"a":"<\u00fc>\n\"'\ud83d\ude42","b":[1,2.5,null,true,[],{}]}"#
    );
    assert_eq!(
        rendered("{{ [1, {'a': []}] | tojson(indent=2) }}").unwrap(),
        "[\n  1,\n  {\n    \"a\": []\n  }\n]"
    );
}

/// Templates that take without limits, or what is not theirs.
const HOSTILE: [&str; 17] = [
    "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
    "{{ 'x' * 10**9 }}",
    "{{ 'x' * 999999999999999999 }}",
    "{{ ([0] * 10**9) | sum }}",
    "{% set n = namespace(x='x') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "{% set n = namespace(x=[]) %}{% for i in range(99999) %}{% set n.x = [n.x] %}{% endfor %}{{ n.x }}",
    "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x | tojson }}",
    "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
    "{{ [1] | tojson(indent=1000000000) }}",
    "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "{{ ('x' * 100000).replace('x', 'y' * 100000) }}",
    "{{ '%1000000000d' | format(1) }}",
    "{% include '/etc/passwd' %}",
    "{% import '/etc/passwd' as x %}",
    "{% extends '/etc/passwd' %}",
    "{{ messages[0].__class__.__mro__ }}",
    "{% generation %}",
];

#[test]
fn hostile_templates_end_with_an_error() {
    for source in HOSTILE {
        let began = Instant::now();
        let error = rendered(source).map(|text| text.len()).unwrap_err();
        assert!(
            matches!(error, ChatError::TooMuch { .. } | ChatError::Failed { .. }),
            "{source}: {error}"
        );
        assert!(!error.to_string().contains("root:"), "{error}");
        assert!(began.elapsed() < LONGEST, "{source}");
    }
    for (open, close) in [("{{ (", ") }}"), ("{% if true %}", "")] {
        let nested = format!("{}1{}", open.repeat(20_000), close.repeat(20_000));
        assert!(matches!(rendered(&nested), Err(ChatError::Failed { .. })), "{open}");
    }
}

#[test]
fn damaged_templates_never_panic() {
    let sources: Vec<String> = ["llama3", "qwen3", "smollm3", "mistral"]
        .iter()
        .map(|name| fs::read_to_string(fixture("chat").join(format!("{name}.jinja"))).unwrap())
        .collect();
    for (number, source) in sources.iter().enumerate() {
        for cut in (0..source.len()).step_by(197).filter(|cut| source.is_char_boundary(*cut)) {
            let other = &sources[(number + 1) % sources.len()];
            let rest = &other[other.len().saturating_sub(cut)..];
            let _ = rendered(&source[..cut]);
            let _ = rendered(&format!("{}{rest}", &source[..cut]));
        }
    }
}

#[test]
fn messages_with_the_marks_of_the_renderer_are_refused() {
    let text = "[{\"role\": \"user\", \"content\": \"\u{fdd0}\"}, {\"role\": \"assistant\", \"content\": \"a\"}]";
    let lessons = known("marked").lessons(&conversation(text), &ChatOptions::default());
    assert!(matches!(lessons, Err(ChatError::Failed { .. })), "{lessons:?}");
}

#[test]
fn a_generator_continues_as_if_each_prompt_were_its_first() {
    let model = tiny_llama(&device());
    let mut generator = Generator::new(&model);
    let options = GenerateOptions { max_new_tokens: 6, stop: Vec::new() };
    let go_on = |_| ControlFlow::Continue(());
    let text: Vec<u32> = (0..80).map(|i| (i * 37 + 11) % 384).collect();
    let mut changed = text[..60].to_vec();
    changed[50] = 1;
    // Longer, shorter, the same again, other after some tokens, and other from the first.
    let others: Vec<u32> = text.iter().rev().copied().collect();
    for prompt in [&text[..40], &text[..], &text[..30], &text[..30], &changed[..], &others[..]] {
        let mut sampler = Sampler::greedy();
        let kept = generator.generate(prompt, &mut sampler, &options, go_on).unwrap();
        let anew = generate(&model, prompt, &mut Sampler::greedy(), &options, go_on).unwrap();
        assert_eq!(kept, anew, "{} tokens", prompt.len());
    }
}

#[test]
#[allow(clippy::single_range_in_vec_init)]
fn skipped_tokens_have_no_loss() {
    let model = tiny_llama(&device());
    let tokens: Vec<u32> = (0..16).map(|i| (i * 37 + 11) % 384).collect();
    let losses = |given, skipped: &[Range<usize>]| -> Vec<f32> {
        let row = TokenRow { tokens: &tokens, given, skipped };
        let batch = Batch::new(&[row], &device());
        assert_eq!(batch.targets(), row.predicted());
        losses(&model, &batch, 1 << 20).into_data().iter::<f32>().collect()
    };
    let all = losses(1, &[]);
    let places = [3, 4, 9, 10, 11, 12, 13, 14, 15];
    let some = losses(3, &[5..9]);
    assert_eq!(some.len(), places.len());
    for (loss, place) in some.iter().zip(places) {
        assert!((loss - all[place - 1]).abs() < 1e-4, "{place}: {loss}");
    }
}

#[test]
#[allow(clippy::single_range_in_vec_init)]
fn the_perplexity_of_rows_is_that_of_what_they_predict() {
    let model = tiny_llama(&device());
    let tokens: Vec<u32> = (0..16).map(|i| (i * 37 + 11) % 384).collect();
    let texts = [(tokens.clone(), vec![3..5, 9..16]), (tokens[..6].to_vec(), vec![5..6])];
    let (rows, _) = TokenRows::lessons(texts, 32);
    let measured = |rows: &TokenRows, most: Option<usize>| {
        perplexity_of_rows(&model, rows, most, NonZeroUsize::MIN, &mut ())
    };
    let loss = |number| {
        let batch = Batch::new(&[rows.nth(number, None)], &device());
        losses(&model, &batch, 1 << 20).into_data().iter::<f64>().sum::<f64>()
    };
    let found = measured(&rows, None).unwrap();
    assert_eq!((found.windows, found.tokens), (2, 10));
    assert!((found.nll / (loss(0) + loss(1)) - 1.0).abs() < 1e-5, "{found:?}");
    assert!((found.perplexity.ln() / (found.nll / 10.0) - 1.0).abs() < 1e-9, "{found:?}");
    assert_eq!(measured(&rows, Some(1)).unwrap().tokens, 9);
    assert_eq!(measured(&rows, Some(0)).unwrap_err(), EvalError::NoWindows);
    let (strange, _) = TokenRows::lessons([(vec![1, 999], vec![1..2])], 32);
    let error = measured(&strange, None).unwrap_err();
    assert!(matches!(error, EvalError::UnknownToken { token: 999, .. }), "{error}");
}

#[test]
fn a_template_of_its_own_file_has_the_special_tokens_of_the_model() {
    let dir = with_template("theirs");
    let file = dir.path().join("mine.jinja");
    fs::write(&file, "mine {{ bos_token }}").unwrap();
    let template = ChatTemplate::open_file(&file, dir.path()).unwrap();
    assert_eq!(template.prompt(&turns(), &ChatOptions::default()).unwrap(), "mine <s>");
    assert_eq!(template.special_token("eos_token"), Some("</s>"));
    assert!(ChatTemplate::open_file(Path::new("none.jinja"), dir.path()).is_err());
}
