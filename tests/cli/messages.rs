//! What errors say: plain words, numbers that people read, and what to do about it.

use std::fs;

use serde_json::Value;

use crate::support::{Outcome, Sandbox};
use crate::training::SHORT;

/// How much of the story the tests calibrate on.
const AMOUNT: &str =
    "--calibration-seq-len 64 --calibration-windows 6 --gradient-windows 2 --calibrate story.txt";

/// A command line, words of its error, and words of its hint.
const REFUSED: [(&str, &str, &str); 42] = [
    ("analyze model --no-cache --max-memory 294911", "294.912 kB", "a larger --max-memory"),
    ("analyze model --no-cache --max-memory 294911", "294.911 kB allowed", "--max-memory"),
    ("analyze model -o nowhere/spectra.json", "its directory does not exist", "path of a file"),
    ("plan model --err 2", "ERR 2 is not between 0 and 1", "such as 0.5"),
    ("plan model --err 1e300", "ERR 1e300 is not", "such as 0.5"),
    ("plan model --keep-params 1e300", "a share of 1e300 of", "such as 0.7"),
    ("plan model --keep-params 1e-300", "a share of 1e-300 of the parameters is out of reach", ""),
    ("plan model --max-bytes 1", "1 byte is out of reach; the nearest is ", ""),
    ("plan model --err 0.5 --min-ratio 1", "min_ratio 1", "0.5 is the default"),
    ("plan model --err 0.5 --rank-multiple 64", "multiple of 64", "a smaller --rank-multiple"),
    ("plan nowhere.json --err 0.5", "no such model directory or spectra file", "MODEL is"),
    ("compress model --plan nowhere.json -o out", "nowhere.json", "the working directory"),
    ("eval model --text nowhere.txt", "nowhere.txt", "a `text` on each line"),
    ("eval model --text empty.txt", "empty.txt: the text is empty", "a file of UTF-8 text"),
    ("eval model --text short.txt", "the text has 1 token, too few for", "a longer text"),
    ("eval model --text bad.jsonl", "`text`: invalid type: integer `5`", "on each line"),
    ("eval model --text story.txt --seq-len 1", "at least 2 tokens", "a larger --seq-len"),
    ("eval model --text story.txt --windows 0", "at least 1 window", "a larger --windows"),
    ("eval model --task svamp --data nowhere", "nowhere: no such file", "--data takes"),
    ("eval model --task commonsenseqa --data task.jsonl", "expected an object", "--task"),
    ("generate model --prompt Mia --temperature -1", "temperature -1", "0 takes the most likely"),
    ("generate model --prompt Mia --temperature -1e300", "temperature -1e300 is", "0 takes"),
    ("generate model --prompt Mia --temperature 1 --top-k 0", "top_k", "without --top-k"),
    ("generate model --prompt Mia --temperature 1 --top-p 2", "top_p 2", "without --top-p"),
    ("report --run model -o page.html", "model: not a run", "`welore-cli train -o` wrote"),
    ("report --plan model -o page.html", "this directory has no plan", "what `compress` wrote"),
    ("report --compare story.txt -o page.html", "not the output of", "`welore-cli compare --json"),
    ("report --eval story.txt -o page.html", "not the output of", "`welore-cli eval --json"),
    ("report --adapter model -o page.html", "not a PEFT adapter", "`train --trainable lora` wrote"),
    ("plan model --keep-params 80", "a share of 80 of", "80 percent are 0.8 or 80%"),
    ("compress model --err 33.3 -o out", "ERR 33.3 is not", "33.3 percent are 0.333 or 33.3%"),
    ("plan model --err 0.5 --exclude layers.0", "`layers.0`", "did you mean `*.layers.0.*`?"),
    ("compress model --err 0.5 --include mlp -o out", "`mlp`", "did you mean `*.mlp.*`?"),
    ("plan plan.json --err 0.5", "plan.json: not a spectra file", "carries it out"),
    ("eval plan.json --text story.txt", "plan.json is a plan, not", "--plan plan.json -o DIR"),
    ("eval model --text array.json", "array.json: a JSON array", "jq -c '.[]' array.json"),
    ("eval model --task jsonl --data array.json", "where JSONL is read", "each object on a line"),
    (
        "plan model --err 0.5 --calibration model",
        "model is a model directory, not a calibration",
        "`welore-cli calibrate model --text TEXT",
    ),
    (
        "plan model --err 0.5 --calibration nowhere",
        "nowhere: no such file",
        "`welore-cli calibrate`",
    ),
    (
        "calibrate model --text array.json -o seen --too-little shrink",
        "neither plain text nor JSONL",
        "> FILE.jsonl",
    ),
    (
        "calibrate model --text story.txt -o seen --calibration-seq-len 1",
        "at least 2 tokens",
        "a larger --calibration-seq-len",
    ),
    (
        "calibrate model --text story.txt -o seen --calibration-windows 0",
        "at least one window",
        "a larger --calibration-windows",
    ),
];

#[test]
fn errors_say_what_is_wrong_and_what_to_do() {
    let sandbox = Sandbox::new();
    sandbox.write("empty.txt", " \n");
    sandbox.write("short.txt", "a");
    sandbox.write("bad.jsonl", "{\"text\": 5}\n");
    sandbox
        .write("array.json", "[{\"text\": \"Once there was a boy.\"}, {\"text\": \"He ran.\"}]\n");
    sandbox.write("plan.json", "{\"format\": \"welore-plan\", \"version\": 3}\n");
    sandbox.write("task.jsonl", "{\"answerKey\": \"A\", \"question\": 5}\n");
    for (line, error, hint) in REFUSED {
        let message = sandbox.refuses(line, error);
        assert!(message.len() < 300, "`{line}` says: {message}");
        assert!(!message.contains(" column ") && !message.contains("struct "), "{message}");
        let said = sandbox.run(line).stderr;
        let hinted = said.lines().nth(1).unwrap_or_default();
        assert!(hinted.contains(hint), "`{line}` hints: {hinted}");
    }
}

/// A command line with a number that cannot be, and what is said about it.
const MISUSED: [(&str, &str); 15] = [
    ("analyze model --jobs 0", "'0' for '--jobs <N>': must be at least 1"),
    ("analyze model --jobs -1", "'-1' for '--jobs <N>': must be a whole number of at least 0"),
    ("analyze model --jobs many", "'many' for '--jobs <N>': must be a whole number"),
    ("plan model --err 0.5 --rank-multiple 1.5", "must be a whole number"),
    ("plan model --err half", "'half' for '--err <ERR>': must be a finite number"),
    ("plan model --err nan", "must be a finite number"),
    ("plan model --keep-params inf", "must be a finite number"),
    ("plan model --err 0.5 --min-ratio nan", "must be a finite number"),
    ("compare model --keep-params 0.9,x", "'x' for '--keep-params <SHARES>': must be a finite"),
    ("eval model --text story.txt --device first", "must be a whole number"),
    ("eval model --text story.txt --windows 99999999999999999999", "number is too large"),
    ("generate model --prompt Mia --temperature nan", "must be a finite number"),
    ("generate model --prompt Mia --seed -1", "must be a whole number of at least 0"),
    ("train model --text story.txt -o run --track-gradients 0", "must be at least 1"),
    ("train model --text story.txt -o run --seed 1.5", "must be a whole number"),
];

#[test]
fn a_variable_with_a_wrong_value_is_named_itself() {
    let sandbox = Sandbox::new();
    let line = "eval model --text story.txt";
    let with = |line: &str| Outcome::of(sandbox.command(line).env("WELORE_BACKEND", "zz"));
    let outcome = with(line);
    let message = outcome.complaint(2);
    assert!(message.contains("WELORE_BACKEND=zz: "), "{message}");
    assert!(outcome.stderr.contains("auto, "), "{}", outcome.stderr);
    // What is typed takes the place of the variable.
    let typed = with(&format!("{line} --backend yy"));
    assert!(typed.stderr.contains("'yy' for '--backend"), "{}", typed.stderr);
}

/// Whoever may do everything is not refused, such as root.
#[cfg(unix)]
#[test]
fn what_may_not_be_looked_at_is_not_called_missing() {
    use std::os::unix::fs::PermissionsExt;

    let sandbox = Sandbox::new();
    let locked = sandbox.path("locked");
    fs::create_dir(&locked).unwrap();
    sandbox.duplicate("model", "locked/model");
    let allow = |mode| fs::set_permissions(&locked, fs::Permissions::from_mode(mode)).unwrap();
    allow(0o000);
    let is_refused = fs::metadata(sandbox.path("locked/model")).is_err();
    let lines = [
        "plan locked/model --err 0.5",
        "eval locked/model --text story.txt",
        "inspect locked/model",
        "train --resume locked/model",
    ];
    let lines = lines.into_iter().filter(|_| is_refused);
    let said: Vec<String> = lines.map(|line| sandbox.run(line).stderr).collect();
    allow(0o755);
    for said in said {
        assert!(said.contains("locked/model") && said.contains("ermission denied"), "{said}");
    }
}

#[test]
fn a_text_that_ends_with_the_context_says_so() {
    let sandbox = Sandbox::new();
    sandbox.edit_json("model/config.json", |config| {
        config["max_position_embeddings"] = 24.into();
        config["eos_token_id"] = Vec::<u32>::new().into();
    });
    let line = "generate model --prompt Mia --json";
    let count = |result: &Value, key: &str| result[key].as_array().unwrap().len();

    // The default is more than fits, but nobody asked for it.
    let outcome = sandbox.gives(line);
    let result: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(result["ended"], "context");
    // The last token is predicted from a full context.
    assert_eq!(count(&result, "prompt_ids") + count(&result, "ids"), 25);
    assert_eq!(outcome.stderr.matches("context of 24 tokens is full").count(), 1);

    let most = count(&result, "ids");
    let outcome = sandbox.gives(&format!("{line} --max-new-tokens 600"));
    let warning = format!("--max-new-tokens 600: at most {most} tokens can follow");
    assert!(outcome.stderr.contains(&warning), "{}", outcome.stderr);
    assert_eq!(outcome.stderr.matches("warning: ").count(), 1, "{}", outcome.stderr);
    assert!(outcome.stdout.contains("\"context\""), "{}", outcome.stdout);

    let outcome = sandbox.gives(&format!("{line} --max-new-tokens {most}"));
    assert!(!outcome.stderr.contains("warning"), "{}", outcome.stderr);
    let result: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(result["ended"], "max_new_tokens");
    for speed in ["tokens_per_second", "prompt_tokens_per_second", "next_tokens_per_second"] {
        assert!(result[speed].as_f64().unwrap() > 0.0, "{speed}");
    }

    // Now the first token that it writes ends the text.
    let first = result["ids"][0].clone();
    sandbox.edit_json("model/config.json", |config| config["eos_token_id"] = first);
    assert_eq!(sandbox.json(line)["ended"], "end_token");
}

#[test]
fn numbers_that_cannot_be_are_refused_in_plain_words() {
    let sandbox = Sandbox::new();
    for (line, said) in MISUSED {
        sandbox.misused(line, said);
    }
    sandbox.write("settings.toml", "[analyze]\njobs = 0\n");
    let line = "analyze model --config settings.toml";
    sandbox.refuses(line, "settings.toml: [analyze] invalid value '0' for '--jobs <N>'");
    sandbox.write("settings.toml", "[analyze]\noutput = \"a\\u0000b\"\n");
    sandbox.refuses(line, "settings.toml: [analyze] output: holds a NUL");
}

#[test]
fn what_a_resumed_run_lacks_is_named_with_what_to_do() {
    let sandbox = Sandbox::new();
    sandbox.gives(SHORT);
    fs::remove_dir_all(sandbox.path("run/model")).unwrap();
    let lacks = |file: &str, error: &str, hint: &str| {
        let aside = sandbox.path("aside");
        fs::rename(sandbox.path(file), &aside).unwrap();
        sandbox.refuses("train --resume run", error);
        let said = sandbox.run("train --resume run").stderr;
        assert!(said.contains(hint), "without {file}: {said}");
        fs::rename(aside, sandbox.path(file)).unwrap();
    };
    for file in ["optimizer.bpk", "trainable.bpk"] {
        let named = format!("{file}: no such file");
        lacks(&format!("run/checkpoints/step-8/{file}"), &named, "hint: restore it");
    }
    lacks("run/run.json", "run is not a run", "starts a run");
    sandbox.remove("run/tokens");
    lacks("story.txt", "story.txt: the run began with this", "hint: put it back");
    sandbox.gives("train --resume run");
}

#[test]
fn artifacts_with_unknown_fields_are_refused() {
    let sandbox = Sandbox::new();
    sandbox.gives("analyze model -o spectra.json");
    let spectra = sandbox.read("spectra.json");
    for pointer in ["", "/model", "/matrices/3"] {
        sandbox.edit_json("spectra.json", |value| {
            value.pointer_mut(pointer).unwrap()["extra"] = 1.into();
        });
        sandbox.refuses("plan spectra.json --err 0.5", "spectra.json: not a spectra file");
        sandbox.refuses("plan spectra.json --err 0.5", "unknown field `extra`");
        sandbox.write("spectra.json", &spectra);
    }

    sandbox.gives(SHORT);
    let run = sandbox.read("run/run.json");
    for pointer in ["", "/settings", "/settings/lora"] {
        sandbox.edit_json("run/run.json", |value| {
            value.pointer_mut(pointer).unwrap()["extra"] = 1.into();
        });
        sandbox.refuses("train --resume run", "run.json: not the file of a run: unknown field");
        sandbox.write("run/run.json", &run);
    }

    let amount = AMOUNT.replace("--calibrate", "--text");
    sandbox.gives(&format!("calibrate model {amount} -o seen"));
    sandbox.edit_tensors("seen", |tensors| {
        let manifest = tensors.get_mut("manifest").unwrap();
        let text = String::from_utf8(manifest.data.clone()).unwrap();
        manifest.data = text.replacen('{', "{\"extra\":1,", 1).into_bytes();
        manifest.shape = vec![manifest.data.len()];
    });
    let line = "plan model --calibration seen --keep-params 0.7";
    sandbox.refuses(line, "seen: not a calibration: unknown field `extra`");
}

#[cfg(unix)]
#[test]
fn directory_for_temporary_files_is_missed_before_any_work_and_only_where_it_is_needed() {
    let sandbox = Sandbox::new();
    let run = |line: &str| {
        let mut command = sandbox.command(line);
        Outcome::of(command.env("TMPDIR", sandbox.path("nowhere")))
    };
    let before = sandbox.contents();
    for line in [
        "demo",
        &format!("compress model {AMOUNT} --keep-params 0.7 -o low"),
        &format!("compare model --text story.txt {AMOUNT} --methods best --seq-len 64 --windows 1"),
    ] {
        let message = run(line).complaint(2);
        let said = message.contains("TMPDIR=") && message.contains("nowhere: no such directory");
        assert!(said, "`{line}` says: {message}");
        assert!(sandbox.contents() == before, "`{line}` left something behind");
    }
    assert_eq!(run("compress model --err 0.5 -o low").code, Some(0));
}

#[test]
fn line_breaks_in_names_do_not_break_errors() {
    let sandbox = Sandbox::new();
    for words in [&["inspect", "a\nb"][..], &["eval", "model", "--text", "a\nb"]] {
        let message = Outcome::of(sandbox.command("").args(words)).complaint(2);
        assert!(message.contains("a b") || message.contains("a\\nb"), "{message}");
    }
}

#[cfg(target_os = "linux")]
mod on_linux {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    use std::path::PathBuf;
    use std::process::Command;

    use super::*;

    /// A word in which each `?` is a byte that is not UTF-8.
    fn word(text: &str) -> OsString {
        OsString::from_vec(text.bytes().map(|b| if b == b'?' { 0xff } else { b }).collect())
    }

    fn command(sandbox: &Sandbox, line: &str) -> Command {
        let mut command = sandbox.command("");
        command.args(line.split_whitespace().map(word));
        command
    }

    fn place(sandbox: &Sandbox, name: &str) -> PathBuf {
        sandbox.path("").join(word(name))
    }

    #[test]
    fn paths_need_not_be_utf_8() {
        let sandbox = Sandbox::new();
        fs::rename(sandbox.path("model"), place(&sandbox, "m?del")).unwrap();
        fs::copy(sandbox.path("story.txt"), place(&sandbox, "st?ry.txt")).unwrap();
        let amount = AMOUNT.replace("--calibrate story.txt", "--text st?ry.txt");
        let (short, rest) = (SHORT.replace("-o run", "-o r?n"), "--seq-len 64 --windows 1");
        for line in [
            "inspect m?del",
            &format!("eval m?del --text st?ry.txt {rest}"),
            "analyze m?del -o sp?ctra.json",
            "plan sp?ctra.json --err 0.5 -o pl?n.json",
            "compress m?del --plan pl?n.json -o l?w",
            "inspect l?w",
            "export l?w --dense -o d?nse",
            &format!("eval l?w --text st?ry.txt --record {rest}"),
            "generate l?w --prompt Mia --max-new-tokens 2",
            &format!("calibrate m?del {amount} -o s?en"),
            "plan m?del --calibration s?en --keep-params 0.7",
            "report --spectra sp?ctra.json --plan l?w -o p?ge.html",
            &short.replace("train model", "train m?del"),
            "train --resume r?n",
            "report --run r?n -o p?ge.html",
        ] {
            let outcome = Outcome::of(&mut command(&sandbox, line));
            assert_eq!(outcome.code, Some(0), "`{line}` says: {}", outcome.stderr);
        }
        for name in ["sp?ctra.json", "pl?n.json", "l?w", "d?nse", "s?en", "p?ge.html", "r?n/model"]
        {
            assert!(place(&sandbox, name).exists(), "{name}");
        }
    }

    #[test]
    fn runs_refuse_paths_that_their_files_cannot_name() {
        let sandbox = Sandbox::new();
        fs::copy(sandbox.path("story.txt"), place(&sandbox, "st?ry.txt")).unwrap();
        sandbox.duplicate("model", "other");
        fs::rename(sandbox.path("other"), place(&sandbox, "m?del")).unwrap();
        let before = sandbox.contents();
        for line in [
            "demo -o d?mo",
            &SHORT.replace("story.txt", "st?ry.txt"),
            &SHORT.replace("--err 0.8", "--trainable full").replace("train model", "train m?del"),
            &format!("{SHORT} --eval-text st?ry.txt"),
            &format!("{SHORT} --eval-text story.txt --watch-text st?ry.txt"),
        ] {
            let message = Outcome::of(&mut command(&sandbox, line)).complaint(2);
            assert!(message.contains("not UTF-8"), "`{line}` says: {message}");
            assert!(sandbox.contents() == before, "`{line}` left something behind");
        }
    }

    /// Every command that prints, each with what it may need.
    const PRINTING: [&str; 30] = [
        "--help",
        "--version",
        "train --help",
        "analyze model",
        "analyze model --json",
        "plan model --err 0.5",
        "plan model --err 0.5 --json",
        "compress model --err 0.5 -o a --dry-run",
        "compress model --err 0.5 -o b",
        "compress model --err 0.5 -o c --json",
        "export low --dense -o d --dry-run",
        "export low --dense -o e",
        "export low --gguf j.gguf --dry-run",
        "export low --gguf k.gguf",
        "inspect low",
        "inspect low --json",
        "eval low --text story.txt --seq-len 64 --windows 1",
        "eval low --text story.txt --seq-len 64 --windows 1 --json",
        "generate low --prompt Mia --max-new-tokens 2",
        "generate low --prompt Mia --max-new-tokens 2 --json",
        "calibrate model --text story.txt --calibration-seq-len 64 --calibration-windows 6 -o f",
        "compare model --text story.txt --keep-params 0.7 --methods svd/energy --seq-len 64 --windows 1",
        "report --plan low -o g.html",
        "train model --err 0.8 --text story.txt -o h --seq-len 32 --batch-size 2 --steps 1",
        "train model --err 0.8 --text story.txt -o i --seq-len 32 --steps 1 --dry-run",
        "devices",
        "devices --json",
        "completions bash",
        "manual -o pages",
        "reference",
    ];

    #[test]
    fn every_command_that_cannot_print_fails_in_one_line() {
        let sandbox = Sandbox::new();
        sandbox.gives("compress model --err 0.5 -o low");
        let amount = AMOUNT.replace("--calibrate", "--text");
        sandbox.gives(&format!("calibrate model {amount} -o seen"));
        for line in PRINTING {
            let full = fs::File::options().write(true).open("/dev/full").unwrap();
            let outcome = Outcome::of(sandbox.command(line).stdout(full));
            assert_eq!(outcome.code, Some(1), "`{line}` says: {}", outcome.stderr);
            let errors: Vec<&str> =
                outcome.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
            assert_eq!(errors.len(), 1, "`{line}` says: {}", outcome.stderr);
            assert!(errors[0].starts_with("error: standard output: "), "`{line}`: {}", errors[0]);
            assert!(!outcome.stderr.contains("panicked"), "`{line}` says: {}", outcome.stderr);
        }
    }
}
