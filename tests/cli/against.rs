//! `eval --against` and `compare --kl`: how far predictions are from the dense model's.

use serde_json::Value;

use crate::support::Sandbox;

const EVAL: &str = "--text story.txt --seq-len 48 --windows 3";

/// A sandbox with `low`, which was made of `model`.
fn compressed() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.gives("compress model --err 0.5 -o low");
    sandbox
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is not a number"))
}

#[track_caller]
fn assert_near(got: &Value, want: f64, tolerance: f64) {
    let got = number(got);
    assert!((got - want).abs() <= tolerance * want.abs().max(1e-9), "{got} for {want}");
}

#[test]
fn a_model_is_measured_against_the_one_that_it_was_made_from() {
    let sandbox = compressed();
    let [low, dense] =
        ["low", "model"].map(|model| sandbox.json(&format!("eval {model} {EVAL} --json")));
    let found = sandbox.json(&format!("eval low {EVAL} --against model --json"));
    for field in ["tokens", "windows", "seq_len", "skip", "text_digest", "model_digest"] {
        assert_eq!(found[field], low[field], "{field}");
    }
    let (of_low, of_dense) = (number(&low["perplexity"]), number(&dense["perplexity"]));
    assert_near(&found["perplexity"], of_low, 1e-5);
    assert_near(&found["against"]["perplexity"], of_dense, 1e-5);
    assert_near(&found["against"]["nll"], number(&dense["nll"]), 1e-5);
    assert_eq!(found["against"]["model"], "model");
    assert_eq!(found["against"]["model_digest"], dense["model_digest"]);
    let measured = &found["divergence"];
    assert_near(&measured["perplexity_ratio"]["value"], of_low / of_dense, 1e-5);
    let kl = number(&measured["kl"]["value"]);
    assert!(kl > 0.0 && number(&measured["kl"]["standard_error"]) > 0.0, "{measured}");
    let spread = ["minimum", "p1", "median", "p99", "p99_9", "maximum"];
    let spread = spread.map(|place| number(&measured["spread"][place]));
    assert!(spread.is_sorted() && spread[0] <= kl && kl <= spread[5], "{measured}");
    assert!((0.0..=1.0).contains(&number(&measured["same_top"]["value"])));
    // From the other side it is another number.
    let other = sandbox.json(&format!("eval model {EVAL} --against low --json"));
    assert!((number(&other["divergence"]["kl"]["value"]) / kl - 1.0).abs() > 1e-3, "{other}");

    let printed = sandbox.gives(&format!("eval low {EVAL} --against model")).stdout;
    let line = printed.lines().find(|line| line.contains("mean KL divergence")).unwrap();
    assert!(line.contains(&format!("{kl:.6}")), "{printed}");
    assert!(printed.contains("same most likely token"), "{printed}");
    assert!(printed.contains("perplexity of the dense model"), "{printed}");
}

#[test]
fn a_model_does_not_differ_from_itself() {
    let sandbox = Sandbox::new();
    sandbox.duplicate("model", "same");
    for dense in ["model", "./model", "same"] {
        let line = format!("eval model {EVAL} --backend flex --against {dense}");
        let outcome = sandbox.gives(&line);
        assert!(outcome.stderr.contains("the divergence is 0"), "{outcome:?}");
        let found = sandbox.json(&format!("{line} --json"));
        let measured = &found["divergence"];
        assert_eq!(number(&measured["kl"]["value"]), 0.0);
        assert_eq!(number(&measured["perplexity_ratio"]["value"]), 1.0);
        assert_eq!(number(&measured["same_top"]["value"]), 1.0);
        assert_eq!(found["against"]["model_digest"], found["model_digest"]);
    }
}

#[test]
fn saved_logits_take_the_place_of_the_dense_model() {
    let sandbox = compressed();
    let live = sandbox.json(&format!("eval low {EVAL} --against model --json"));
    let outcome = sandbox.gives(&format!("eval model {EVAL} --save-logits logits"));
    // 3 windows of 47 tokens, with 384 entries of 2 bytes and 16 bytes each, and 144 tokens.
    assert!(outcome.stderr.contains("logits will have 111.1 kB"), "{outcome:?}");
    let bytes = sandbox.read("logits").len();
    assert!((141 * 784 + 576..120_000).contains(&bytes), "{bytes}");
    assert!(outcome.stdout.starts_with("perplexity "), "{outcome:?}");

    std::fs::remove_dir_all(sandbox.path("model")).unwrap();
    let found = sandbox.json(&format!("eval low {EVAL} --against logits --json"));
    for field in ["perplexity", "nll"] {
        assert_near(&found["against"][field], number(&live["against"][field]), 1e-6);
    }
    assert_eq!(found["against"]["model_digest"], live["against"]["model_digest"]);
    let [kl, exact] = [&found, &live].map(|of| number(&of["divergence"]["kl"]["value"]));
    assert!((kl - exact).abs() < 5e-4 * (exact + (2.0 * exact).sqrt()), "{kl} for {exact}");

    // Fewer windows will do; other ones will not.
    sandbox.gives("eval low --text story.txt --seq-len 48 --windows 2 --against logits");
    for (options, named) in [
        ("--text story.txt --seq-len 48 --windows 4", "3 windows, not of 4 windows"),
        ("--text story.txt --seq-len 48 --windows 3 --skip 1", "a skip of 0"),
        ("--text story.txt --seq-len 32 --windows 3", "windows of 48 tokens"),
        ("--text other.txt --seq-len 48 --windows 1", "another text"),
    ] {
        let story = String::from_utf8(sandbox.read("story.txt")).unwrap();
        sandbox.write("other.txt", story.replace("Tom", "Mia"));
        let line = format!("eval low {options} --against logits");
        let message = sandbox.refuses(&line, named);
        assert!(message.starts_with("error: logits: the saved logits are of"), "{message}");
        let hint = "give the --text, --windows, --seq-len and --skip";
        assert!(sandbox.run(&line).stderr.contains(hint));
    }
    sandbox.write("half", &sandbox.read("logits")[..bytes / 2]);
    sandbox.refuses(&format!("eval low {EVAL} --against half"), "half: not saved logits");
    sandbox.refuses(&format!("eval low {EVAL} --against story.txt"), "story.txt: not saved logits");
    sandbox.refuses("inspect logits", "logits is a file of saved logits, not a model directory");
}

#[test]
fn what_cannot_be_compared_is_refused_before_weights_are_read() {
    let sandbox = compressed();
    // Reading these would fail.
    sandbox.edit_tensors("low/model.safetensors", |tensors| {
        tensors.values_mut().for_each(|tensor| tensor.data.fill(0xff));
    });
    sandbox.add("tiny-llama3", "small");
    let message = "a vocabulary of 384 tokens, the dense one of 64";
    sandbox.refuses(&format!("eval low {EVAL} --against small"), message);
    sandbox.duplicate("model", "renumbered");
    sandbox.edit_json("renumbered/tokenizer.json", |tokenizer| {
        let words = &mut tokenizer["model"]["vocab"];
        words["!"] = 2.into();
        words["\""] = 1.into();
    });
    sandbox.refuses(&format!("eval low {EVAL} --against renumbered"), "renumbered: its tokens");
    sandbox.refuses(&format!("eval low {EVAL} --against nowhere"), "nowhere");
    sandbox.misused("eval low --against model", "--text");
    sandbox.misused("eval low --task coinflip --data nowhere --against model", "--against");
    sandbox.misused(&format!("eval low {EVAL} --against model --save-logits out"), "--against");
    sandbox.misused("eval low --task coinflip --data nowhere --skip 1", "--skip");
    sandbox.refuses(&format!("eval model {EVAL} --skip 47"), "a skip of 47");
    sandbox.refuses(&format!("compare model {EVAL} --methods svd --skip 99"), "a skip of 99");
    sandbox.refuses(&format!("eval model {EVAL} --save-logits story.txt"), "is an input");
    sandbox.refuses(&format!("eval model {EVAL} --save-logits model/config.json"), "model");
    sandbox.refuses(&format!("eval model {EVAL} --save-logits no/out"), "no/out");
}

#[test]
fn predictions_that_are_skipped_are_not_scored_and_that_is_recorded() {
    let sandbox = compressed();
    let line = format!("eval low {EVAL} --skip 24 --against model --record");
    let found = sandbox.json(&format!("{line} --json"));
    assert_eq!((&found["skip"], &found["tokens"]), (&24.into(), &(3 * 23).into()));
    let all = sandbox.json(&format!("eval low {EVAL} --json"));
    assert!(found["perplexity"] != all["perplexity"] && all["skip"] == 0);
    let card = String::from_utf8(sandbox.read("low/README.md")).unwrap();
    let kl = number(&found["divergence"]["kl"]["value"]);
    let of = "story.txt, 3 windows of 48 tokens, without the first 24 predictions of each";
    let row = format!("| mean KL divergence from the dense model | {kl:.4} | {of} |");
    assert!(card.contains(&row), "{card}");
    let perplexity = format!("| perplexity | {:.4} | {of} |", number(&found["perplexity"]));
    assert!(card.contains(&perplexity), "{card}");
    // Recorded once, however often it is measured.
    let printed = sandbox.gives(&line).stdout;
    assert!(printed.contains("(3 windows of 48, without the first 24 predictions"), "{printed}");
    assert_eq!(String::from_utf8(sandbox.read("low/README.md")).unwrap(), card);
}

#[test]
fn rows_of_a_comparison_have_the_divergence_that_eval_gives() {
    let sandbox = compressed();
    let line = format!("compare model {EVAL} --skip 7 --methods svd/welore --err 0.5");
    let plain = sandbox.json(&format!("{line} --json"));
    assert!(plain["rows"][1].get("kl").is_none() && plain["skip"] == 7, "{plain}");
    let compared = sandbox.json(&format!("{line} --kl --json"));
    let [dense, low] = [0, 1].map(|place| &compared["rows"][place]);
    assert_eq!((number(&dense["kl"]), number(&dense["kls"][0])), (0.0, 0.0));
    assert_near(&low["perplexity"], number(&plain["rows"][1]["perplexity"]), 1e-5);
    let measured = sandbox.json(&format!("eval low {EVAL} --skip 7 --against model --json"));
    assert_near(&low["kl"], number(&measured["divergence"]["kl"]["value"]), 1e-6);

    let mut command = sandbox.command(&format!("{line} --kl --csv --text story.txt"));
    let csv = String::from_utf8(command.output().unwrap().stdout).unwrap();
    let header = csv.lines().next().unwrap();
    let scores = ",norm,perplexity,perplexity on story.txt,kl,kl on story.txt,parameters,";
    assert!(header.contains(scores), "{csv}");
    let printed = sandbox.gives(&format!("{line} --kl")).stdout;
    let shown = format!("{:.4}", number(&low["kl"]));
    assert!(printed.lines().next().unwrap().contains(" KL "), "{printed}");
    assert!(printed.lines().nth(2).unwrap().contains(&shown), "{printed}");
}
