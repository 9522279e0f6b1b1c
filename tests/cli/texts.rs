//! How texts become windows: what begins with BOS, strides, and several texts.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Sandbox, Tensor};

/// Token 0, as a text says it.
const BOS: &str = "<|endoftext|>";

const EVAL: &str = "--text story.txt --seq-len 32 --windows 4 --json";

/// A sandbox with `plain` as well, the model whose tokenizer puts nothing before a text. That of
/// `model` puts token 0 there.
fn with_bos() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.duplicate("model", "plain");
    sandbox.edit_json("model/tokenizer.json", |tokenizer| {
        let (token, text) = (json!({ "SpecialToken": { "id": BOS, "type_id": 0 } }), "Sequence");
        let of = |id: &str, type_id: u32| json!({ text: { "id": id, "type_id": type_id } });
        tokenizer["post_processor"] = json!({
            "type": "TemplateProcessing",
            "single": [token, of("A", 0)],
            "pair": [token, of("A", 0), of("B", 1)],
            "special_tokens": { BOS: { "id": BOS, "ids": [0], "tokens": [BOS] } },
        });
    });
    sandbox
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is not a number"))
}

fn numbers(tensor: &Tensor) -> Vec<u32> {
    let (numbers, _) = tensor.data.as_chunks::<4>();
    numbers.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect()
}

#[test]
fn windows_begin_with_bos_if_the_tokenizer_puts_it_before_a_text() {
    let sandbox = with_bos();
    let eval = |model: &str, bos: &str| sandbox.json(&format!("eval {model} {EVAL} {bos}"));
    let (begun, plain) = (eval("model", ""), eval("plain", ""));
    assert_eq!((&begun["bos"], &begun["bos_token"]), (&json!(true), &json!(0)));
    assert_eq!((&plain["bos"], &plain["bos_token"]), (&json!(false), &Value::Null));
    assert!(begun["bos_why"].as_str().unwrap().contains("tokenizer"), "{begun}");
    assert_ne!(begun["perplexity"], plain["perplexity"]);
    // As many tokens are scored, and they are all of the text.
    for found in [&begun, &plain] {
        assert_eq!((&found["scored_tokens"], &found["tokens"]), (&json!(4 * 31), &json!(4 * 31)));
    }
    // It is the windows that differ, not the tokenizer.
    assert_eq!(eval("plain", "--bos on")["perplexity"], begun["perplexity"]);
    assert_eq!(eval("model", "--bos off")["perplexity"], plain["perplexity"]);
    let told = sandbox.gives(&format!("eval model {}", EVAL.replace("--json", ""))).stdout;
    assert!(told.contains("each beginning with token 0"), "{told}");
}

#[test]
fn the_whole_text_can_begin_with_it_once() {
    let sandbox = with_bos();
    let story = String::from_utf8(sandbox.read("story.txt")).unwrap();
    sandbox.write("begun.txt", format!("{BOS}{story}"));
    let once = sandbox.json(&format!("eval model {EVAL} --bos once"));
    let begun = EVAL.replace("story", "begun");
    let written = sandbox.json(&format!("eval model {begun} --bos off"));
    assert_eq!(once["perplexity"], written["perplexity"]);
    // A text that begins with it does not get it twice.
    let twice = sandbox.json(&format!("eval model {begun} --bos once"));
    assert_eq!(once["perplexity"], twice["perplexity"]);
}

#[test]
fn bos_is_refused_where_a_model_has_none() {
    let sandbox = Sandbox::new();
    sandbox.edit_json("model/config.json", |config| config["bos_token_id"] = Value::Null);
    for line in ["eval model --text story.txt", "generate model --prompt Mia"] {
        sandbox.refuses(&format!("{line} --bos on"), "--bos: the model has no token");
        sandbox.gives(&format!("{line} --bos off").replace("story.txt", "story.txt --windows 1"));
    }
}

#[test]
fn prompts_begin_as_the_tokenizer_says_or_as_it_is_asked_for() {
    let sandbox = with_bos();
    let ids = |model: &str, bos: &str| {
        let line = format!("generate {model} --prompt Mia --max-new-tokens 1 --json {bos}");
        sandbox.json(&line)["prompt_ids"].as_array().unwrap().clone()
    };
    let plain = ids("plain", "");
    let begun = [vec![json!(0)], plain.clone()].concat();
    assert_eq!((ids("model", ""), ids("model", "--bos off")), (begun.clone(), plain));
    assert_eq!((ids("plain", "--bos on"), ids("model", "--bos once")), (begun.clone(), begun));
}

#[test]
fn a_calibration_states_how_its_windows_begin() {
    let sandbox = with_bos();
    let amount = "--calibration-windows 4 --gradient-windows 0 --calibration-seq-len 48";
    let calibrate = |file: &str, bos: &str| {
        let line = format!("calibrate model --text story.txt {amount} -o {file} --json {bos}");
        sandbox.json(&line)
    };
    let begun = calibrate("begun", "");
    assert_eq!((&begun["bos"], &begun["texts"][0]["bos"]), (&json!(true), &json!({ "each": 0 })));
    let tokens = numbers(&sandbox.tensors("begun")["tokens"]);
    assert!(tokens.chunks(48).all(|window| window[0] == 0), "{tokens:?}");
    let plain = calibrate("plain-text", "--bos off");
    assert_eq!((&plain["bos"], &plain["texts"][0]["bos"]), (&json!(false), &Value::Null));
    // The same text, with and without it.
    let others = numbers(&sandbox.tensors("plain-text")["tokens"]);
    let text: Vec<u32> = tokens.chunks(48).flat_map(|window| window[1..].to_vec()).collect();
    assert_eq!(text, others[..text.len()]);
    sandbox.gives("compress model --keep-params 0.8 --calibration begun --method whitened -o low");
}

#[test]
fn saved_logits_of_windows_that_begin_otherwise_are_refused() {
    let sandbox = with_bos();
    let eval = EVAL.replace(" --json", "");
    sandbox.gives(&format!("eval model {eval} --save-logits logits"));
    sandbox.gives(&format!("eval model {eval} --against logits"));
    let line = format!("eval model {eval} --against logits --bos");
    sandbox
        .refuses(&format!("{line} off"), "each begin with token 0, not of windows of text alone");
    sandbox.refuses(&format!("{line} once"), "a text that begins with token 0");
    sandbox.refuses(&format!("eval model {eval} --against logits --stride 8"), "do not overlap");
}

#[test]
fn windows_that_overlap_score_every_token_once_from_more_of_the_text() {
    let sandbox = Sandbox::new();
    let eval = |stride: &str| {
        sandbox.json(&format!("eval model --text story.txt --seq-len 64 --json {stride}"))
    };
    let (apart, same, half) = (eval(""), eval("--stride 64"), eval("--stride 32"));
    assert_eq!((&apart["perplexity"], &apart["stride"]), (&same["perplexity"], &json!(64)));
    assert_eq!(half["stride"], 32);
    assert!(number(&half["perplexity"]) < number(&apart["perplexity"]), "{half}");
    let (windows, tokens) = (number(&half["windows"]), number(&half["scored_tokens"]));
    // All tokens but the first; the last window ends the text.
    assert!(tokens > 32.0 * (windows - 2.0) + 63.0 && tokens <= 32.0 * (windows - 1.0) + 63.0);
    let line = "eval model --text story.txt --seq-len 64 --windows 2 --stride";
    sandbox.refuses(&format!("{line} 65"), "a stride is from 1 to 64");
    sandbox.refuses(&format!("{line} 0"), "a stride is from 1 to 64");
    sandbox.misused(&format!("{line} 8 --skip 4"), "--skip");
    sandbox.misused(&format!("{line} 8 --save-logits logits"), "--save-logits");
    let told = sandbox.gives(&format!("{line} 16")).stdout;
    assert!(told.contains("(2 windows of 64, advancing by 16 tokens)"), "{told}");
    let against = sandbox.json(&format!("{line} 16 --against model --json"));
    assert_eq!(against["divergence"]["kl"]["value"], 0.0);
}

#[test]
fn windows_are_as_long_as_the_context_and_no_longer() {
    let sandbox = Sandbox::new();
    let line = "eval model --text story.txt --windows 1 --seq-len";
    assert_eq!(sandbox.json(&format!("{line} 512 --json"))["scored_tokens"], 511);
    let message =
        sandbox.refuses(&format!("{line} 2048"), "longer than the model's context of 512");
    assert!(message.contains("2048"), "{message}");
}

#[test]
fn several_texts_are_measured_each_by_itself() {
    let sandbox = Sandbox::new();
    let story = String::from_utf8(sandbox.read("story.txt")).unwrap();
    sandbox.write("other.txt", story.replace("Tom", "Mia"));
    let line = "eval model --seq-len 32 --windows 3";
    let both = sandbox.json(&format!("{line} --text story.txt --text other.txt --json"));
    for (place, text) in ["story.txt", "other.txt"].into_iter().enumerate() {
        let alone = sandbox.json(&format!("{line} --text {text} --json"));
        for field in ["text", "text_digest", "perplexity", "nll", "scored_tokens", "windows"] {
            assert_eq!(both["texts"][place][field], alone[field], "{text}: {field}");
        }
        for field in ["seq_len", "bos", "parameters", "model_digest"] {
            assert_eq!(both[field], alone[field], "{field}");
        }
    }
    let told = sandbox.gives(&format!("{line} --text story.txt --text other.txt")).stdout;
    assert!(told.contains("story.txt: perplexity") && told.contains("other.txt: perplexity"));
    let line = format!("{line} --text story.txt --text other.txt");
    sandbox.refuses(&format!("{line} --save-logits logits"), "only for one --text");
    let wrong = line.replace("other", "nowhere");
    sandbox.refuses(&wrong, "nowhere.txt");
}

#[test]
fn a_run_keeps_how_its_texts_begin() {
    let sandbox = with_bos();
    let run = "--seq-len 32 --batch-size 2 --steps 2 --trainable full --eval-text story.txt \
               --eval-windows 2 --json";
    let line = format!("train model --text story.txt {run}");
    let begun = sandbox.json(&format!("{line} -o begun"));
    assert_eq!((&begun["bos"], &begun["bos_token"]), (&json!(true), &json!(0)));
    assert_eq!(sandbox.json_file("begun/run.json")["bos"], json!({ "each": 0 }));
    let rows = sandbox.tensors("begun/tokens");
    assert_eq!(numbers(&rows["tokens"])[..64].iter().step_by(32).max(), Some(&0));
    let eval = "eval model --text story.txt --seq-len 32 --windows 2 --json";
    let usual = sandbox.json(&format!("{} --seq-len 512", eval.replace(" --seq-len 32", "")));
    let start = number(&begun["start"]["perplexity"]);
    assert!((start / number(&usual["perplexity"]) - 1.0).abs() < 1e-4, "{start} for {usual}");
    // Resumed with what it began with.
    let resumed = sandbox.json("train --resume begun --steps 4 --json");
    assert_eq!(resumed["bos"], true);
    sandbox.misused("train --resume begun --steps 6 --bos off", "--bos");
    let plain = sandbox.json(&format!("{line} -o plain-run --bos off"));
    assert_eq!(plain["bos"], false);
    assert_eq!(sandbox.json_file("plain-run/run.json")["bos"], Value::Null);
    let dry = sandbox.json(&format!("{line} -o dry --dry-run"));
    assert_eq!((&dry["bos"], sandbox.path("dry").exists()), (&json!(true), false));
}

#[test]
fn a_run_reads_several_texts_as_documents() {
    let sandbox = Sandbox::new();
    sandbox.write("one.txt", "Mia has a red ball. ".repeat(8));
    sandbox.write("two.txt", "Tom has a big dog. ".repeat(8));
    let line = "train model --seq-len 16 --batch-size 2 --steps 2 --trainable full --no-shuffle";
    sandbox.gives(&format!("{line} --text one.txt --text two.txt -o both"));
    let data = &sandbox.json_file("both/run.json")["data"]["texts"];
    assert_eq!(data.as_array().unwrap().len(), 2, "{data}");
    // The same as one file of two documents.
    let lines = ["one.txt", "two.txt"]
        .map(|name| json!({ "text": String::from_utf8(sandbox.read(name)).unwrap() }).to_string());
    sandbox.write("both.jsonl", lines.join("\n"));
    sandbox.gives(&format!("{line} --text both.jsonl -o lines"));
    let digest = |run: &str| sandbox.json_file(&format!("{run}/run.json"))["data_digest"].clone();
    assert_eq!(digest("both"), digest("lines"));
    // Made again when the run has lost its rows.
    fs::remove_file(sandbox.path("both/tokens")).unwrap();
    sandbox.gives("train --resume both --steps 3");
    sandbox.write("two.txt", "Something else. ".repeat(20));
    fs::remove_file(sandbox.path("both/tokens")).unwrap();
    sandbox.refuses("train --resume both --steps 4", "two.txt is not what the run began with");
}
