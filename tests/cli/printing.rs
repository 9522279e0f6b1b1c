//! What is printed where: results on stdout, everything else on stderr.

use serde_json::Value;

use crate::support::{Outcome, Sandbox};

#[test]
fn json_is_one_document_and_alone_on_stdout() {
    let sandbox = Sandbox::new();
    for line in [
        "analyze model -o spectra.json --json",
        "plan spectra.json --err 0.5 -o plan.json --json",
        "compress model --plan plan.json -o low --json",
        "inspect low --json",
        "eval low --text story.txt --seq-len 64 --windows 1 --json",
        "generate low --prompt Mia --max-new-tokens 4 --json",
        "export low --dense -o dense --json",
    ] {
        assert!(sandbox.json(line).is_object(), "{line}");
    }
}

#[test]
fn results_go_to_stdout_and_notes_to_stderr() {
    let sandbox = Sandbox::new();
    let analyzed = sandbox.gives("analyze model -o spectra.json");
    assert!(analyzed.stdout.contains("model.layers.0.self_attn.q_proj"), "{analyzed:?}");
    assert_eq!(analyzed.stderr, "wrote spectra.json\n");

    let inspected = sandbox.gives("inspect model");
    assert!(inspected.stdout.contains("197.2 k parameters"), "{inspected:?}");
    assert_eq!(inspected.stderr, "");

    let generated = sandbox.gives("generate model --prompt Mia --max-new-tokens 4");
    assert!(generated.stderr.contains("4 tokens"), "{generated:?}");
    assert!(!generated.stdout.contains("tokens"), "{generated:?}");
}

#[test]
fn totals_say_what_they_count() {
    let sandbox = Sandbox::new();
    let planned = sandbox.gives("plan model --err 0.5").stdout;
    assert!(planned.contains("of 28 matrices are factored (LRCs); "), "{planned}");
    assert!(planned.contains("% of the parameters of all 28 are kept\n"), "{planned}");
    assert!(planned.contains("% of all are removed"), "{planned}");
    assert!(planned.contains("\nspeed      expected on a CPU: "), "{planned}");
    let one = sandbox.gives("plan model --err 0.6 --include layers.0.mlp.up_proj").stdout;
    assert!(one.contains("1 of 1 matrix is factored (an LRC); "), "{one}");
    assert!(one.contains("% of its parameters are kept\n"), "{one}");

    let run =
        "train model --text story.txt --seq-len 32 --batch-size 1 --steps 2 --warmup 0 -o run";
    let told = sandbox.gives(&format!("{run} --dry-run --trainable full")).stdout;
    assert!(told.contains(" tokens in total, 1 window per step, 2 steps: "), "{told}");
}

#[test]
fn warnings_tell_what_may_surprise_and_do_not_spoil_the_result() {
    let sandbox = Sandbox::new();
    for (line, warning) in [
        ("plan model --err 0.01 --json", "nothing is factored"),
        ("plan model --err 0.2 --min-ratio 0 --json", "--never-grow"),
    ] {
        let outcome = sandbox.gives(line);
        assert!(outcome.stderr.starts_with("warning: "), "{}", outcome.stderr);
        assert!(outcome.stderr.contains(warning), "{}", outcome.stderr);
        assert!(serde_json::from_str::<Value>(&outcome.stdout).is_ok(), "{}", outcome.stdout);
    }
}

#[test]
fn help_and_version_are_results() {
    let sandbox = Sandbox::new();
    for line in ["--help", "--version", "compress --help"] {
        let outcome = sandbox.gives(line);
        assert!(!outcome.stdout.is_empty() && outcome.stderr.is_empty(), "{line}: {outcome:?}");
    }
}

const GREEDY: &str = "generate model --prompt Mia --max-new-tokens 30";

#[test]
fn streamed_text_is_the_prompt_and_the_text_of_the_json() {
    let sandbox = Sandbox::new();
    let whole = sandbox.json(&format!("{GREEDY} --json"));
    let (prompt, text) = (whole["prompt"].as_str().unwrap(), whole["text"].as_str().unwrap());
    assert_eq!(prompt, "Mia");
    assert_eq!(whole["ids"].as_array().unwrap().len(), 30);
    assert_eq!(sandbox.gives(GREEDY).stdout, format!("{prompt}{text}\n"));
}

#[test]
fn without_temperature_the_text_is_always_the_same() {
    let sandbox = Sandbox::new();
    let text = sandbox.gives(GREEDY).stdout;
    assert_eq!(sandbox.gives(GREEDY).stdout, text);
    assert_eq!(sandbox.gives(&format!("{GREEDY} --temperature 0")).stdout, text);
}

#[test]
fn with_temperature_the_seed_decides_the_text() {
    let sandbox = Sandbox::new();
    let sample = |seed: u64| {
        let options = "--temperature 1.5 --top-k 50 --top-p 0.99 --json";
        sandbox.json(&format!("{GREEDY} {options} --seed {seed}"))["ids"].clone()
    };
    assert_eq!(sample(1), sample(1));
    assert_ne!(sample(1), sample(2));
}

#[test]
fn demo_tells_the_whole_story_and_keeps_it_where_asked() {
    let sandbox = Sandbox::new();
    let scratch = tempfile::tempdir().unwrap();
    let mut demo = sandbox.command("demo -o kept --report demo.html --json");
    let outcome = Outcome::of(demo.env("TMPDIR", scratch.path()));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(scratch.path().read_dir().unwrap().count(), 0);
    let shown: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let rows = shown["rows"].as_array().unwrap();
    let perplexities = rows.iter().map(|row| row["perplexity"].as_f64().unwrap());
    let [dense, uniform, welore, lrc, full] = perplexities.collect::<Vec<_>>()[..] else {
        panic!("{shown}")
    };
    assert!(dense < welore && welore < uniform, "{shown}");
    assert!(lrc < 0.7 * welore && full < 0.7 * welore, "tuning brings quality back: {shown}");
    let trainable = |row: usize| rows[row]["trainable"].as_u64();
    assert!(trainable(3) < trainable(4) && trainable(2).is_none(), "{shown}");
    let page = String::from_utf8(sandbox.read("demo.html")).unwrap();
    for drawn in ["welore, LRCs tuned", "\"label\":\"lrc\"", "\"policy\":\"welore\"", "spectra"] {
        assert!(page.contains(drawn), "the page lacks {drawn}");
    }
    sandbox.gives("eval kept/lrc/model --text kept/test.txt --windows 1");
    sandbox.refuses("demo -o kept", "kept exists");
    // Last by name, so that it is found only if the demo recognizes everything that it made.
    sandbox.write("kept/zzz.txt", "mine");
    sandbox.refuses("demo -o kept --force", "kept/zzz.txt was not made by a demo");
}

/// Commands that print in different ways: a table, JSON, a stream.
const PRINTING: [&str; 3] =
    ["analyze model", "inspect model --json", "generate model --prompt Mia"];

#[test]
fn reader_that_goes_away_is_no_reason_to_panic() {
    let sandbox = Sandbox::new();
    for line in PRINTING {
        let mut command = sandbox.command(line);
        // Gone before the command starts, so that it cannot be done first.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let outcome = Outcome::of(command.stdout(writer));
        assert!(!outcome.stderr.contains("panicked"), "`{line}` says: {}", outcome.stderr);
        assert_eq!(outcome.code, Some(0), "`{line}`");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn result_that_cannot_be_written_is_a_failure() {
    let sandbox = Sandbox::new();
    for line in PRINTING {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let outcome = Outcome::of(sandbox.command(line).stdout(full));
        assert_eq!(outcome.code, Some(1), "`{line}` says: {}", outcome.stderr);
        assert!(!outcome.stderr.contains("panicked"), "`{line}` says: {}", outcome.stderr);
        let errors = outcome.stderr.lines().filter(|line| line.starts_with("error: "));
        assert_eq!(errors.count(), 1, "`{line}` says: {}", outcome.stderr);
    }
}
